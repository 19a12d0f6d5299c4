"""What each batch size costs in updates and rows, and what loss it reaches."""

import numpy as np
import pandas as pd

from pipeline.evaluation.plots.drawing import (
    Picture,
    lines,
    log_axis,
    logarithmic,
    number,
    panels,
    readable,
)
from pipeline.evaluation.plots.loss import curves
from pipeline.evaluation.results import Results
from pipeline.runs.records import CURVE

COLUMNS = ["variant", "batch_size", "lr", "updates", "rows", CURVE]
TITLE = "What a batch size costs"


def draw(results: Results) -> Picture:
    """Draw the loss against the updates made so far, of the best variant, and what each batch size ends with."""
    table = costs(results)
    if table.empty:
        return Picture("cost", TITLE, table, None, "Nothing to compare: every run diverged.")
    own = table[table["variant"] == table["variant"].iloc[0]]
    figure, (left, right) = panels(2, width=7.2, height=3.4)
    for size, look in lines(results).items():
        line = own[own["batch_size"] == size]
        if line.empty:
            continue
        left.plot(line["updates"], line[CURVE], label=size, marker="o" if len(line) == 1 else "", **look)
        x, y = line["updates"].iloc[-1], line[CURVE].iloc[-1]
        right.plot(x, y, "o", color=look["color"])
        right.annotate(f"{size}: {y:.4g}", (x, y), (6, 4), textcoords="offset points", fontsize=8)
    unit = f"[{readable(results.target, 'target')}²]"
    positive = own[CURVE][own[CURVE] > 0]
    if len(positive):
        log_axis(left, "y", positive.tolist())
    log_axis(left, "x", own["updates"].tolist())
    left.set(xlabel="updates so far", ylabel=f"mean squared error {unit}", title="on the way")
    left.legend(title="batch size")
    ends = own.groupby("batch_size", sort=False).tail(1)
    for which, column in (("x", "updates"), ("y", CURVE)):
        if logarithmic(ends[column].tolist()):
            log_axis(right, which, ends[column].tolist())
    right.set_ylabel(f"mean squared error {unit}")
    read = f", {int(ends['rows'].iloc[0]):,} rows read" if ends["rows"].nunique() == 1 else ""
    right.set(xlabel=f"updates in all{read}", title="at the end")
    right.margins(0.25)
    alt = "Left, the loss against the updates made so far, a line for each batch size; right, the loss at the end."
    return Picture("cost", TITLE, table, figure, says(own, ends), alt)


def costs(results: Results) -> pd.DataFrame:
    """Tabulate updates made, rows read and loss of the curves, the best variant first."""
    table = curves(results, early_steps)
    rows = int(results.prepared.train_rows[0])
    sizes = [rows if size == "full" else min(int(size), rows) for size in table["batch_size"]]
    done = table["epoch"].astype(int) + 1
    table = table.assign(updates=done * [-(-rows // size) for size in sizes], rows=done * rows)
    best = results.shown["variant"].iloc[0]
    ordered = pd.concat([table[table["variant"] == best], table[table["variant"] != best]], ignore_index=True)
    return pd.DataFrame(ordered, columns=COLUMNS)


def early_steps(epochs: int) -> list[int]:
    """Choose epochs evenly on a logarithmic scale: at most 100, with the first and the last."""
    return sorted({round(step) - 1 for step in np.geomspace(1, epochs, 100).tolist()})


def says(own: pd.DataFrame, ends: pd.DataFrame) -> str:
    """Say how many updates each batch size makes of the same rows, and when the best passes the end of the worst."""
    ends = ends.sort_values(CURVE, kind="stable")
    first, last = ends.iloc[0], ends.iloc[-1]
    size = first["batch_size"]
    said = f"Reading {first['rows']:,} rows, batch size {size} makes {first['updates']:,} updates and reaches "
    said += number(first[CURVE])
    if len(ends) == 1:
        return f"{said}."
    line = own[own["batch_size"] == size]
    passed = line[line[CURVE] <= last[CURVE]].iloc[0]
    rows = f", reading {last['rows']:,} rows," if last["rows"] != first["rows"] else ""
    return (
        f"{said}; batch size {last['batch_size']}{rows} makes {last['updates']:,} and reaches {number(last[CURVE])}, "
        f"where batch size {size} was after {passed['updates']:,} updates and {passed['rows']:,} rows."
    )
