"""Draw the tables of stage evaluate as pictures, for wherever no web page can draw them."""

from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.records import CURVE

mpl.use("Agg")


def draw_loss(table: pd.DataFrame, path: Path) -> None:
    """Draw the loss over the epochs: a panel for each variant, a line for each batch size."""
    figure, panels = _figure(table)
    for (variant, rows), axes in zip(table.groupby("variant", sort=False), panels, strict=False):
        for batch_size, curve in rows.groupby("batch_size", sort=False):
            axes.plot(curve["epoch"], curve[CURVE], label=f"batch size {batch_size}")
        axes.set(title=str(variant), xlabel="epoch", yscale="log")
        axes.legend()
    panels[0].set_ylabel("mean squared error (training)")
    figure.savefig(path, format="png")


def draw_predicted(table: pd.DataFrame, path: Path) -> None:
    """Draw predicted against actual, each row predicted by a fit that did not train on it; a panel for each variant."""
    figure, panels = _figure(table)
    for (variant, rows), axes in zip(table.groupby("variant", sort=False), panels, strict=False):
        axes.axline((rows["actual"].iloc[0],) * 2, slope=1, color="lightgrey")
        axes.scatter(rows["actual"], rows["predicted"])
        axes.set(title=str(variant), xlabel="actual")
    panels[0].set_ylabel("predicted")
    figure.savefig(path, format="png")


def _figure(table: pd.DataFrame) -> tuple[Figure, list[Axes]]:
    count = max(1, table["variant"].nunique())
    figure = Figure(figsize=(4 * count, 4), layout="constrained")
    return figure, list(figure.subplots(1, count, sharey=True, squeeze=False)[0])
