"""Predicted against actual, each row predicted by fits that did not train on it, and the residuals."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm

from pipeline.evaluation.outcome import out_of_sample, predictions
from pipeline.evaluation.plots.drawing import PALETTE, QUIET, Picture, number, panels, readable
from pipeline.evaluation.results import Results
from pipeline.runs.records import Record
from pipeline.table.prepared import Prepared

COLUMNS = ["variant", "actual", "predicted", "residual", "rows"]
TITLE = "Predicted and actual"
DENSE = 1000  # rows from which on their density is drawn
BINS = 40  # a side, of the table


def draw(results: Results) -> Picture:
    """Draw the best configuration of each variant."""
    tables = [rows(group, results.prepared) for group in results.best("variant")]
    table = pd.concat(tables or [pd.DataFrame(columns=COLUMNS)], ignore_index=True)
    if table.empty:
        return Picture("predicted", TITLE, table, None, "No run has predictions to show: every run diverged.")
    groups = [group for group in results.groups if group.shown in set(table["variant"])]
    figure, axes = panels(2 * len(groups), width=7.2, height=3.4 * len(groups), rows=len(groups))
    target = readable(results.target, "target")
    for place, group in enumerate(groups):
        pair = axes[2 * place : 2 * place + 2]
        panel(pair, table[table["variant"] == group.shown])
        title = f"{readable(group.label, group.shown, 48)}: " if len(groups) > 1 else ""
        pair[0].set(xlabel=f"actual {target}", ylabel=f"predicted {target}", title=f"{title}predicted")
        pair[1].set(xlabel=f"predicted {target}", ylabel=f"actual − predicted [{target}]", title=f"{title}residuals")
    alt = (
        "Left, predicted against actual values with the line where they are equal; right, residuals against predicted."
    )
    binned = pd.concat([bins(one) for _, one in table.groupby("variant", sort=False)], ignore_index=True)
    return Picture("predicted", TITLE, binned, figure, says(results, table), alt)


def rows(group: Sequence[Record], prepared: Prepared) -> pd.DataFrame:
    """Tabulate each tested row's actual target and its out-of-sample prediction, mean over seeds."""
    tested, y = prepared.tested, prepared.y.astype(np.float64).flatten()
    held_out = [out_of_sample(predictions(record, prepared), tested).flatten() for record in group]
    predicted = np.mean(held_out, axis=0)
    values = [group[0].run.variant, y, predicted, y - predicted, 1]
    table = pd.DataFrame(dict(zip(COLUMNS, values, strict=True)))
    return table[table["predicted"].notna()]


def bins(table: pd.DataFrame) -> pd.DataFrame:
    """Count rows in cells, from DENSE rows on: a page does not draw a million points."""
    if len(table) < DENSE:
        return table
    middles, places = [], []
    for name in ("actual", "predicted"):
        values = table[name].to_numpy()
        width = (values.max() - values.min()) / BINS or 1.0
        places.append(np.minimum(BINS - 1, (values - values.min()) // width).astype(int))
        middles.append(values.min() + width * (np.arange(BINS) + 0.5))
    counts = np.bincount(places[0] * BINS + places[1])
    cells = np.flatnonzero(counts)
    actual, predicted = middles[0][cells // BINS], middles[1][cells % BINS]
    counted = [table["variant"].iloc[0], actual, predicted, actual - predicted, counts[cells]]
    return pd.DataFrame(dict(zip(COLUMNS, counted, strict=True)))


def panel(pair: Sequence[Axes], table: pd.DataFrame) -> None:
    """Draw one variant's predictions and residuals."""
    points = [(table["actual"], table["predicted"]), (table["predicted"], table["residual"])]
    for axes, (x, y) in zip(pair, points, strict=True):
        if len(table) >= DENSE:
            axes.hexbin(x, y, gridsize=36, norm=LogNorm(), cmap="viridis_r", linewidths=0.1, mincnt=1, rasterized=False)
        else:
            axes.scatter(x, y, s=22 if len(table) < 200 else 8, color=PALETTE[0], alpha=0.75, linewidths=0)
    pair[0].axline((float(table["actual"].iloc[0]),) * 2, slope=1, color=QUIET, linewidth=1)
    pair[1].axhline(0, color=QUIET, linewidth=1)
    if len(table) >= DENSE:
        bar = pair[1].figure.colorbar(pair[1].collections[0], ax=list(pair))
        bar.set_label("rows", fontsize=8)
        bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")


def says(results: Results, table: pd.DataFrame) -> str:
    """Say how far the predictions are off."""
    best = results.shown.iloc[0]["variant"]
    own = table[table["variant"] == best] if best in set(table["variant"]) else table
    actual, predicted, residual = (own[name].to_numpy(dtype=np.float64) for name in COLUMNS[1:4])
    spread = float(((actual - actual.mean()) ** 2).mean())
    r2 = f" (R² {number(1 - float((residual**2).mean()) / spread)})" if spread > 0 else ""
    worst = int(np.abs(residual).argmax())
    most, count = number(abs(float(residual[worst]))), f"{len(own):,} row{'s are' if len(own) > 1 else ' is'}"
    return (
        f"Predicted without training on them, {count} off by {number(float(np.abs(residual).mean()))} on average{r2}; "
        f"at most by {most}, where {results.target} is {number(float(actual[worst]))} and "
        f"{number(float(predicted[worst]))} was predicted."
    )
