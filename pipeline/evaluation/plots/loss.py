"""Loss against epoch: a panel for variants that agree, a line and a band of all seeds for each batch size."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pipeline.evaluation.plots.drawing import (
    MOST,
    QUIET,
    Picture,
    lines,
    log_axis,
    number,
    panels,
    readable,
)
from pipeline.evaluation.results import Results
from pipeline.runs.records import CURVE
from pipeline.runs.run import curve_steps

COLUMNS = ["variant", "batch_size", "lr", "epoch", CURVE, "lowest", "highest"]
TITLE = "Training loss"


def draw(results: Results) -> Picture:
    """Draw the best configuration of each variant and batch size."""
    table = curves(results, lambda epochs: curve_steps(epochs, results.params.track.points))
    if table.empty:
        return Picture("loss", TITLE, table, None, "No run has a curve to show: every run diverged.")
    groups = [group for group in results.groups if group.shown in set(table["variant"])]
    figure, axes = panels(len(groups), width=max(6.4, 4 * len(groups)))
    for group, one in zip(groups, axes, strict=True):
        panel(one, table[table["variant"] == group.shown], lines(results), results.optimum if group.linear else 0.0)
        one.set_title(readable(group.label, group.shown, 48))
    axes[0].set_ylabel(f"mean squared error [{readable(results.target, 'target')}²]")
    alt = "The training loss falls over the epochs; one line for each batch size, its band spans all seeds."
    return Picture("loss", TITLE, table, figure, says(results, table), alt)


def curves(results: Results, chosen: Callable[[int], list[int]]) -> pd.DataFrame:
    """Tabulate the curves at the epochs that are chosen of so many: their mean, lowest and highest over the seeds."""
    tables = [pd.DataFrame(columns=COLUMNS)]
    for group in results.best("variant", "batch_size"):
        run, steps = group[0].run, chosen(1 + max(record.last for record in group))  # until the last seed has left
        seeds = np.stack([record.held[steps] for record in group]).astype(np.float64)
        values = [
            run.variant,
            str(run.batch_size),
            run.lr,
            steps,
            seeds.mean(axis=0),
            seeds.min(axis=0),
            seeds.max(axis=0),
        ]
        tables.append(pd.DataFrame(dict(zip(COLUMNS, values, strict=True))))
    return pd.concat(tables[1:] or tables, ignore_index=True)


def panel(axes: Axes, table: pd.DataFrame, looks: Mapping[str, Mapping[str, Any]], optimum: float) -> None:
    """Draw one variant's curves."""
    for size, look in looks.items():
        curve = table[table["batch_size"] == size]
        if curve.empty:
            continue
        label = f"{size}, lr {curve['lr'].iloc[0]:g}" if table["lr"].nunique() > 1 else size
        axes.fill_between(
            curve["epoch"], curve["lowest"], curve["highest"], color=look["color"], alpha=0.2, linewidth=0
        )
        axes.plot(curve["epoch"], curve[CURVE], label=label, marker="o" if len(curve) == 1 else "", **look)
    later = table[table["epoch"] >= table["epoch"].max() / 50]  # the first epochs often fall 1,000-fold
    edges = [*later["lowest"], *later["highest"], *([optimum] if optimum else [])]
    positive = [edge for edge in edges if edge > 0]
    if positive:
        log_axis(axes, "y", positive)
        axes.set_ylim(0.85 * min(positive), 1.3 * max(positive))
    if optimum:
        axes.axhline(optimum, color=QUIET, linewidth=1, linestyle=":", label="least squares")
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.legend(title="batch size", ncols=1 if len(looks) <= 5 else 2)


def says(results: Results, table: pd.DataFrame) -> str:
    """Say which batch size gets lowest, and by how much."""
    ends = table.groupby(["variant", "batch_size"], sort=False).tail(1).sort_values(CURVE, kind="stable")
    first, last = ends.iloc[0], ends.iloc[-1]
    epochs = int(first["epoch"]) + 1
    own = f" of {results.group(first['variant']).label}" if len(results.groups) > 1 else ""
    said = f"Batch size {first['batch_size']}{own} reaches {number(first[CURVE])} "
    said += f"after {epochs:,} epoch{'s' * (epochs > 1)}"
    if len(ends) > 1 and first[CURVE] > 0:
        ratio = last[CURVE] / first[CURVE]
        lower = f"{number(ratio)} × lower than" if ratio >= 1.1 else "about as low as"
        said += f", {lower} batch size {last['batch_size']} ({number(last[CURVE])})"
    if results.group(first["variant"]).linear:
        said += f"; the least-squares optimum is {number(results.optimum)}"
    sizes = table["batch_size"].nunique()
    chosen = (
        f" Each batch size is shown with its best lr by {results.metric}." if results.board["lr"].nunique() > 1 else ""
    )
    drawn = f" Of {sizes} batch sizes {MOST} are drawn." if sizes > MOST else ""
    return f"{said}.{chosen}{drawn} {agreement(results)}".strip()


def agreement(results: Results) -> str:
    """Say which variants agree, and how closely."""
    return " ".join(
        f"{' = '.join(group.variants)}: shown as one, as their curves and weights agree within {group.apart:.1g} "
        f"(largest relative difference over {group.compared:,} runs each)."
        for group in results.groups
        if len(group.variants) > 1 and group.compared
    )
