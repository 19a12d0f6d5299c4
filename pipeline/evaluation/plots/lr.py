"""The metric against the learning rate: a line for each batch size, and the largest stable learning rate."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from pipeline.evaluation.plots.drawing import (
    QUIET,
    Picture,
    lines,
    log_axis,
    logarithmic,
    number,
    panels,
    readable,
)
from pipeline.evaluation.results import Group, Results
from pipeline.metrics import HIGHER_IS_BETTER, label
from pipeline.runs.records import BEHIND

COLUMNS = ["variant", "batch_size", "lr", "diverged", "metric", "mean", "lowest", "highest"]
TITLE = "Learning rate"


def draw(results: Results) -> Picture:
    """Draw every configuration that has the metric; a cross marks those with a diverged run."""
    table = configurations(results)
    lrs = sorted(set(results.shown["lr"]))
    if len(lrs) < 2:
        return Picture("lr", TITLE, table.iloc[:0], None, one_lr(results, lrs[0]))
    groups = results.groups
    figure, axes = panels(len(groups), width=max(6.4, 4 * len(groups)))
    for group, one in zip(groups, axes, strict=True):
        panel(one, table[table["variant"] == group.shown], lines(results), results.metric in HIGHER_IS_BETTER)
        known = group.linear and results.plain and results.largest_stable_lr < 30 * lrs[-1]
        marked = [results.largest_stable_lr] if known else []
        log_axis(one, "x", [*lrs, *marked])
        if marked:
            one.axvline(results.largest_stable_lr, color=QUIET, linestyle=":", linewidth=1.2, label="2/λ, all rows")
        one.set_title(readable(group.label, group.shown, 48))
        one.legend(title="batch size", ncols=2)
    axes[0].set_ylabel(label(results.metric, readable(results.target, "target")))
    alt = "The metric against the learning rate, a line for each batch size; crosses mark configurations that diverged."
    return Picture("lr", TITLE, table, figure, says(results, table), alt)


def configurations(results: Results) -> pd.DataFrame:
    """Tabulate the metric of each configuration, mean, lowest and highest over its seeds."""
    rows = []
    for row in results.best_by_axes.sort_values(["lr"], kind="stable").to_dict("records"):
        runs = results.runs_of[row["configuration"]]
        values = [record.metrics[results.metric] for record in runs if results.metric in record.metrics]
        own = [str(row["batch_size"]), row["lr"], row["diverged"], results.metric, row[f"{results.metric} mean"]]
        rows.append([row["variant"], *own, min(values, default=np.nan), max(values, default=np.nan)])
    return pd.DataFrame(rows, columns=COLUMNS)


def panel(axes: Axes, table: pd.DataFrame, looks: Mapping[str, Mapping[str, Any]], higher: bool) -> None:
    """Draw one variant's configurations."""
    held = table["mean"].dropna()
    if logarithmic(held.tolist()):
        log_axis(axes, "y", held.tolist())
    elif higher and len(held) and held.max() > held.min():
        axes.set_ylim(max(held.min(), held.max() - 2) - 0.1, held.max() + 0.1)  # R² may be -1e6
    for place, (size, look) in enumerate(looks.items()):
        line = table[table["batch_size"] == size]
        whole, broken = line[line["diverged"] == 0], line[line["diverged"] > 0]
        axes.fill_between(whole["lr"], whole["lowest"], whole["highest"], color=look["color"], alpha=0.2, linewidth=0)
        axes.plot(whole["lr"], whole["mean"], marker="o", markersize=3.5, label=size, **look)
        if len(broken):  # at an edge, side by side, as batch sizes diverge at the same learning rates
            height = 0.045 * place if higher else 1 - 0.045 * place
            edge = axes.get_xaxis_transform()  # given at once, or the heights would widen the axis
            crosses = {"color": look["color"], "transform": edge, "clip_on": False}
            axes.plot(broken["lr"], [height] * len(broken), "x", markersize=5, **crosses)
    axes.set_xlabel("learning rate" + (" (× diverged)" if (table["diverged"] > 0).any() else ""))


def says(results: Results, table: pd.DataFrame) -> str:
    """Say which learning rate is best, where stability ends, and what diverged."""
    whole = results.shown[(results.shown["diverged"] == 0) & results.shown[f"{results.metric} mean"].notna()]
    said = []
    if len(whole):
        down = results.metric in HIGHER_IS_BETTER
        best = whole.sort_values(f"{results.metric} mean", ascending=not down, kind="stable").iloc[0]
        said.append(
            f"Best is lr {best['lr']:g}, at batch size {best['batch_size']}: {results.metric} "
            f"{number(best[f'{results.metric} mean'])}."
        )
    broken = table[table["diverged"] > 0]
    if len(broken):
        said.append(
            f"{len(broken)} of {len(table)} configurations diverged, the smallest lr among them {broken['lr'].min():g}."
        )
    if BEHIND in results.best_by_axes and (left := int((results.best_by_axes[BEHIND] > 0).sum())):
        said.append(f"{left} of {len(table)} fell behind and left; they are not drawn.")
    if results.plain and any(group.linear for group in results.groups):
        stable = number(results.largest_stable_lr)
        said.append(f"The largest stable lr of a linear model, all rows in a batch, is 2/λ = {stable}.")
    return " ".join(said)


def one_lr(results: Results, lr: float) -> str:
    """Say how the sweep's only learning rate compares with the largest stable one."""
    said = f"This sweep has one learning rate, {lr:g}"
    linear: list[Group] = [group for group in results.groups if group.linear]
    if not linear or not results.plain:
        return f"{said}."
    stable = results.largest_stable_lr
    return (
        f"{said}: {number(lr / stable)} × the largest stable one of a linear model with all rows in a batch, "
        f"2/λ = {number(stable)}."
    )
