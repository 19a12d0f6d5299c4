"""Loss against epoch: a panel for variants that agree, a line and a band of all seeds for each batch size."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from pipeline.evaluation.plots import look
from pipeline.evaluation.plots.drawing import Picture, number, short
from pipeline.evaluation.results import Results
from pipeline.runs.records import CURVE
from pipeline.runs.run import curve_steps

COLUMNS = ["variant", "batch_size", "lr", "epoch", CURVE, "lowest", "highest"]
TITLE = "Training loss"


X, LABEL = (
    look.axis("epoch", "'epoch'", axis={"labelExpr": "datum.value % 1 ? '' : format(datum.value, ',')"}),
    f"{look.FIRST}.label",
)
# The first epochs often fall 1,000-fold: the axis ends above the others, and their lines come from its upper edge.
CUT: list[look.Spec] = [
    {"joinaggregate": [{"op": "max", "field": "epoch", "as": "last"}]},
    {"calculate": "datum.epoch >= datum.last / 50 ? datum.highest : null", "as": "later"},
    {"joinaggregate": [{"op": "max", "field": "later", "as": "ceiling"}]},
    {"filter": f"datum.lowest > 0 && datum['{CURVE}'] > 0"},
    *({"calculate": f"min(datum['{key}'], 1.3 * datum.ceiling)", "as": key} for key in (CURVE, "lowest", "highest")),
]
# A batch size with one lr of several has it in the legend.
NAMED: list[look.Spec] = [
    {"joinaggregate": [{"op": "distinct", "field": "lr", "as": "lrs"}]},
    {"joinaggregate": [{"op": "distinct", "field": "lr", "as": "own"}], "groupby": ["size"]},
    {"calculate": look.number("toNumber(datum.lr)"), "as": "rate"},
    {"calculate": "datum.batch_size + (datum.lrs > 1 && datum.own == 1 ? ', lr ' + datum.rate : '')", "as": "line"},
]
OPTIMUM = {
    "transform": [
        {"filter": "datum.optimum > 0"},
        {"aggregate": [{"op": "max", "field": "optimum", "as": "optimum"}], "groupby": ["panel"]},
    ],
    "encoding": {"y": look.axis("optimum", LABEL, "log")},
    "layer": look.limit("least squares", dx=4, encoding={"x": {"value": 0}}),
}
CURVES = {
    "mark": {"type": "line", "strokeWidth": 1.6, "tooltip": {"content": "data"}},
    "encoding": {"x": X, "y": look.axis(CURVE, LABEL, "log"), **look.line("line")},
}
SPECIFICATION = look.specification(
    TITLE,
    ["epoch", CURVE, "lowest", "highest", "optimum"],
    [*look.LINES, *CUT, *NAMED],
    **look.panels(look.WIDTH, [look.band(X, LABEL, "log"), CURVES, OPTIMUM]),
)


def draw(results: Results) -> Picture:
    """Draw the best configuration of each variant and batch size."""
    optimum = {group.shown: results.optimum if group.linear else np.nan for group in results.groups}
    table = curves(results, lambda epochs: curve_steps(epochs, results.params.track.points))
    table = table.assign(optimum=table["variant"].map(optimum), label=label(results))
    if table.empty:
        return Picture("loss", TITLE, table, "No run has a curve to show: every run diverged.")
    alt = "The training loss falls over the epochs; one line for each batch size, its band spans all seeds."
    return Picture("loss", TITLE, table, says(results, table), alt)


def label(results: Results) -> str:
    """Name the loss, with its unit."""
    return f"mean squared error [{short(results.target)}²]"


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
    drawn = f" Of {sizes} batch sizes {look.MOST} are drawn." if sizes > look.MOST else ""
    return f"{said}.{chosen}{drawn} {agreement(results)}".strip()


def agreement(results: Results) -> str:
    """Say which variants agree, and how closely."""
    return " ".join(
        f"{' = '.join(group.variants)}: shown as one, as their curves and weights agree within {group.apart:.1g} "
        f"(largest relative difference over {group.compared:,} runs each)."
        for group in results.groups
        if len(group.variants) > 1 and group.compared
    )
