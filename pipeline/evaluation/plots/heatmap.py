"""A heat map of learning rate and batch size."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize

from pipeline.evaluation.plots.drawing import QUIET, Picture, logarithmic, number, panels, readable
from pipeline.evaluation.results import Results
from pipeline.metrics import HIGHER_IS_BETTER, label
from pipeline.runs.records import BEHIND

TITLE = "Learning rate and batch size"
WRITTEN = 60  # the most cells with their number in them
ROOM = 50  # for as many characters is there below a panel


def draw(results: Results) -> Picture:
    """Draw the metric, mean over the seeds; configurations with a diverged run are crossed out.

    A dash marks those that fell behind, if any did; combinations that nobody trained stay empty.
    """
    shown, mean = results.best_by_axes, f"{results.metric} mean"
    table = pd.DataFrame(
        {
            "variant": shown["variant"],
            "batch_size": shown["batch_size"].astype(str),
            "lr": shown["lr"],
            "diverged": shown["diverged"],
            **({BEHIND: shown[BEHIND]} if BEHIND in shown else {}),
            "metric": results.metric,
            "mean": shown[mean].where(shown["diverged"] == 0),
        }
    )
    sizes, lrs = results.values("batch_size"), results.values("lr")
    if len(sizes) < 2 or len(lrs) < 2:
        return Picture("heatmap", TITLE, table.iloc[:0], None, "This sweep has one batch size or one learning rate.")
    figure, axes = panels(len(results.groups), max(6.4, 4 * len(results.groups)), 1.6 + 0.42 * min(len(sizes), 12))
    values = table["mean"].dropna()
    norm = scale(values.to_numpy(dtype=np.float64), results.metric in HIGHER_IS_BETTER)
    for group, one in zip(results.groups, axes, strict=True):
        own = table[table["variant"] == group.shown]
        means = dict(zip(zip(own["batch_size"], own["lr"], strict=True), own["mean"], strict=True))
        names, columns = [str(size) for size in sizes], sorted(lrs)
        cells = [[means.get((name, lr), np.nan) for lr in columns] for name in names]
        grid = pd.DataFrame(cells, index=names, columns=columns)
        panel(one, grid, norm, "viridis" if results.metric in HIGHER_IS_BETTER else "viridis_r")
        mark(one, own, names, columns)
        one.set_title(readable(group.label, group.shown, 48))
    axes[0].set_ylabel("batch size")
    if len(values):
        bar = figure.colorbar(axes[0].collections[0], ax=axes)
        bar.ax.tick_params(labelsize=7)
        bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        bar.ax.yaxis.set_minor_formatter(lambda *_: "")
        bar.set_label(label(results.metric, readable(results.target, "target"), words=False), fontsize=8)
    alt = f"A grid of {len(sizes)} batch sizes and {len(lrs)} learning rates, coloured by {results.metric}."
    return Picture("heatmap", TITLE, table, figure, says(results, table), alt)


def scale(values: np.ndarray, higher: bool) -> Normalize:
    """Choose the colours' scale: logarithmic where needed; of R², which may be -1e6, not below the best less 2."""
    if not len(values):
        return Normalize(0, 1)
    if logarithmic(values.tolist()):
        return LogNorm(values.min(), values.max())
    lowest = max(values.min(), values.max() - 2) if higher else values.min()
    return Normalize(lowest, values.max() if values.max() > lowest else lowest + 1)


def panel(axes: Axes, grid: pd.DataFrame, norm: Normalize, colours: str) -> None:
    """Draw one variant's grid: batch sizes down, learning rates across."""
    cells = grid.to_numpy(dtype=np.float64)
    image = axes.pcolormesh(np.ma.masked_invalid(cells), norm=norm, cmap=colours, edgecolors="none", snap=True)
    axes.grid(visible=False)
    rows, columns = cells.shape
    for (row, column), value in np.ndenumerate(cells):
        if not np.isnan(value) and rows * columns <= WRITTEN and columns <= 10:
            red, green, blue, _ = image.cmap(norm(value))
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            axes.text(
                column + 0.5,
                row + 0.5,
                number(value),
                ha="center",
                va="center",
                fontsize=7,
                color="white" if dark else "black",
            )
    labels = [f"{lr:.3g}" for lr in grid.columns]
    step = -(-columns // min(10, ROOM // (max(map(len, labels)) + 2)))
    axes.set_xticks(np.arange(0, columns, step) + 0.5, labels[::step])
    down = -(-rows // 12)
    axes.set_yticks(np.arange(0, rows, down) + 0.5, list(grid.index[::down]))
    axes.tick_params(length=0)
    axes.invert_yaxis()


def mark(axes: Axes, table: pd.DataFrame, sizes: Sequence[str], lrs: Sequence[float]) -> None:
    """Mark one variant's cells that have no number, and say what the marks mean."""
    told = []
    for (why, own), (marker, sign) in zip(unfinished(table).items(), (("x", "×"), ("_", "–")), strict=True):
        if len(own):
            places = [lrs.index(lr) + 0.5 for lr in own["lr"]], [sizes.index(size) + 0.5 for size in own["batch_size"]]
            axes.plot(*places, marker, color=QUIET, markersize=5 if len(lrs) <= 30 else 2)
            told.append(f"{sign} {why}")
    axes.set_xlabel("learning rate" + (f" ({', '.join(told)})" if told else ""))


def unfinished(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the configurations of which a run diverged, and the others that fell behind."""
    diverged = table["diverged"] > 0
    left = table[BEHIND] > 0 if BEHIND in table else diverged
    return {"diverged": table[diverged], "fell behind": table[left & ~diverged]}


def says(results: Results, table: pd.DataFrame) -> str:
    """Say which cell is best, how far the others are, and how many diverged."""
    held = table.dropna(subset=["mean"])
    crossed, dashed = map(len, unfinished(table).values())
    said = f" {crossed} of {len(table)} cells are crossed out, as a run of theirs diverged." if crossed else ""
    said += f" {dashed} of {len(table)} have a dash, as they fell behind and left." if dashed else ""
    if held.empty:
        return f"No configuration has {results.metric}.{said}"
    held = held.sort_values("mean", ascending=results.metric not in HIGHER_IS_BETTER, kind="stable")
    best, worst = held.iloc[0], held.iloc[-1]
    others = "neither diverged nor fell behind" if dashed else "did not diverge"
    return (
        f"The best cell is batch size {best['batch_size']} with lr {best['lr']:g}: {results.metric} "
        f"{number(best['mean'])}; the worst that {others} is batch size {worst['batch_size']} with lr "
        f"{worst['lr']:g}: {number(worst['mean'])}.{said}"
    )
