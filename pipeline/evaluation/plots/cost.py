"""What each batch size costs in updates and rows, and what loss it reaches."""

import numpy as np
import pandas as pd

from pipeline.evaluation.plots import look
from pipeline.evaluation.plots.drawing import Picture, number
from pipeline.evaluation.plots.loss import curves, label
from pipeline.evaluation.results import Results
from pipeline.runs.records import CURVE

COLUMNS = ["variant", "batch_size", "lr", "updates", "rows", CURVE, "label"]
TITLE = "What a batch size costs"
LOSS = look.axis(CURVE, f"{look.FIRST}.label", "log")
BEST: list[look.Spec] = [  # the table has the best variant first
    {
        "window": [{"op": "first_value", "field": "variant", "as": "best"}],
        "groupby": ["revision"],
        "frame": [None, None],
    },
    {"filter": f"datum.variant == datum.best && datum['{CURVE}'] > 0"},
]
ENDS: list[look.Spec] = [
    {"joinaggregate": [{"op": "max", "field": "updates", "as": "last"}], "groupby": ["revision", "batch_size"]},
    {"filter": "datum.updates == datum.last"},
    {"calculate": f"datum.ranks > 5 ? '' : datum.batch_size + ': ' + format(datum['{CURVE}'], '.4~g')", "as": "end"},
]
WAY = {
    "mark": {"type": "line", "strokeWidth": 1.6, "tooltip": {"content": "data"}},
    "encoding": {"x": look.axis("updates", "'updates so far'", "log"), "y": LOSS, **look.line()},
}
END = {
    "transform": ENDS,
    "encoding": {
        "x": look.axis("updates", "'updates in all'", "log", scale={"padding": 36}),
        "y": look.axis(CURVE, f"{look.FIRST}.label", "log", scale={"padding": 20}),
    },
    "layer": [
        {"mark": {"type": "circle", "size": 50, "opacity": 1, "tooltip": {"content": "data"}}, "encoding": look.fill()},
        {"mark": {"type": "text", "dy": -9, "color": look.INK}, "encoding": {"text": {"field": "end"}}},
    ],
}
SPECIFICATION = look.specification(
    TITLE,
    ["updates", "rows", CURVE],
    [*look.LINES, *BEST, *look.SEVERAL],
    hconcat=[look.panels(look.HALF, [WAY]), look.panels(look.HALF, [END])],
)


def draw(results: Results) -> Picture:
    """Draw the loss against the updates made so far, of the best variant, and what each batch size ends with."""
    table = costs(results)
    if table.empty:
        return Picture("cost", TITLE, table, "Nothing to compare: every run diverged.")
    own = table[table["variant"] == table["variant"].iloc[0]]
    ends = own.groupby("batch_size", sort=False).tail(1)
    alt = "Left, the loss against the updates made so far, a line for each batch size; right, the loss at the end."
    return Picture("cost", TITLE, table, says(own, ends), alt)


def costs(results: Results) -> pd.DataFrame:
    """Tabulate updates made, rows read and loss of the curves, the best variant first."""
    table = curves(results, early_steps)
    rows = int(results.prepared.train_rows[0])
    sizes = [rows if size == "full" else min(int(size), rows) for size in table["batch_size"]]
    done = table["epoch"].astype(int) + 1
    table = table.assign(updates=done * [-(-rows // size) for size in sizes], rows=done * rows, label=label(results))
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
