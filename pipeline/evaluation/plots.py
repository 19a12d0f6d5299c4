"""The plots of stage evaluate: as tables for `dvc plots`, and as images, which need no web page."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.evaluation.metrics import out_of_sample, predictions
from pipeline.records import CURVE, Record
from pipeline.sweep import curve_steps
from pipeline.training.data import Prepared


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
    """Draw predicted against actual, each row predicted by a fit not trained on it; a panel for each variant."""
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


def loss_curves(groups: Sequence[Sequence[Record]], points: int) -> pd.DataFrame:
    """Tabulate the curve of each group's configuration, mean over seeds, at the epochs that are tracked."""
    tables = []
    for group in groups:
        run, steps = group[0].run, curve_steps(group[0].run.epochs, points)
        mean = np.asarray(np.mean([record.curve[steps] for record in group], axis=0, dtype=np.float64))
        tables.append(
            pd.DataFrame({"variant": run.variant, "batch_size": str(run.batch_size), "epoch": steps, CURVE: mean})
        )
    return pd.concat(tables) if tables else pd.DataFrame(columns=["variant", "batch_size", "epoch", CURVE])


def predicted_rows(groups: Sequence[Sequence[Record]], prepared: Prepared) -> pd.DataFrame:
    """Tabulate each tested row's actual target and its out-of-sample prediction, mean over seeds."""
    train, y = prepared.train.numpy(), prepared.y.double().numpy().flatten()
    tables = []
    for group in groups:
        held_out = [out_of_sample(predictions(record, prepared), train).flatten() for record in group]
        table = pd.DataFrame({"variant": group[0].run.variant, "actual": y, "predicted": np.mean(held_out, axis=0)})
        tables.append(table.dropna())
    return pd.concat(tables) if tables else pd.DataFrame(columns=["variant", "actual", "predicted"])
