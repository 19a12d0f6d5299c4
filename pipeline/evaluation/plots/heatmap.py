"""A heat map of learning rate and batch size."""

import pandas as pd

from pipeline.evaluation.plots import look
from pipeline.evaluation.plots.drawing import Picture, number, scaled, short
from pipeline.evaluation.results import Results
from pipeline.metrics import HIGHER_IS_BETTER, label
from pipeline.runs.records import BEHIND

TITLE = "Learning rate and batch size"
WRITTEN, ACROSS = 60, 10  # the most cells, and the most side by side, with their numbers in them
MOST = {name: f"extent(pluck(data('table'), '{name}'))[1]" for name in ("diverged", BEHIND)}
MARKS = {"diverged": "datum.diverged > 0", BEHIND: f"!(datum.diverged > 0) && datum.{BEHIND} > 0"}


# From 0, the worst, to 1, the best.
PLACE = "(steep ? log(AT / low) / log(high / low) : (AT - low) / (high - low || 1))".replace(
    "AT", "clamp(datum.mean, low, high)"
)
GOOD = [{"calculate": f"higher ? {PLACE} : 1 - {PLACE}", "as": "good"}]
VALUE = "(steep ? low * pow(high / low, AT) : low + (high - low) * AT)".replace(
    "AT", "(higher ? datum.value : 1 - datum.value)"
)
COUNTS: list[look.Spec] = [
    {"joinaggregate": [{"op": "distinct", "field": "lr", "as": "lrs"}]},
    {"joinaggregate": [{"op": "count", "as": "cells"}], "groupby": ["panel"]},
]
COLOUR = {
    "field": "good",
    "type": "quantitative",
    "scale": {"scheme": "viridis", "domain": [0, 1]},
    "legend": {
        "title": {"signal": f"{look.FIRST}.label"},
        "values": [0, 0.5, 1],
        "labelExpr": look.number(VALUE),
        "gradientLength": 200,
        "gradientThickness": 10,
    },
}
CELLS: look.Spec = {
    "transform": [look.valid("mean")],
    "mark": {"type": "rect", "tooltip": {"content": "data"}},
    "encoding": {"color": COLOUR},
}
NUMBERS: look.Spec = {
    "transform": [look.valid("mean"), {"filter": f"datum.cells <= {WRITTEN} && datum.lrs <= {ACROSS}"}],
    "mark": {"type": "text", "fontSize": 10, "color": {"expr": "datum.good < 0.6 ? 'white' : 'black'"}},
    "encoding": {"text": {"field": "written"}},
}
X: look.Spec = {
    "field": "lr",
    "type": "ordinal",
    "title": {
        "signal": f"'learning rate' + ({MOST['diverged']} > 0 ? ' (× diverged)' : '') + "
        f"({MOST[BEHIND]} > 0 ? ' (– fell behind)' : '')"
    },
    "axis": {
        "labelAngle": 0,
        "labelOverlap": True,
        "labelSeparation": 8,
        "labelExpr": look.number("datum.value"),
        "ticks": False,
        "domain": False,
        "labelPadding": 4,
    },
}
Y: look.Spec = {
    "field": "batch_size",
    "type": "ordinal",
    "title": "batch size",
    "sort": {"field": "size", "op": "min"},
    "axis": {"labelOverlap": True, "ticks": False, "domain": False, "labelPadding": 4},
}


def mark(name: str, sign: str) -> look.Spec:
    """Return the layer that marks cells without a number."""
    return {
        "transform": [{"filter": MARKS[name]}],
        "mark": {"type": "text", "text": sign, "fontSize": 13, "color": look.INK},
    }


SPECIFICATION = look.specification(
    TITLE,
    ["lr", "diverged", BEHIND, "mean"],
    [look.SIZE, *GOOD, *COUNTS, {"calculate": look.number("datum.mean"), "as": "written"}],
    params=look.RANGE,
    **look.panels(look.WIDTH, [CELLS, NUMBERS, mark("diverged", "×"), mark(BEHIND, "–")], encoding={"x": X, "y": Y}),
)


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
    unit = label(results.metric, short(results.target), words=False)
    table = table.assign(**scaled(results.metric, table["mean"]), label=unit)
    sizes, lrs = results.values("batch_size"), results.values("lr")
    if len(sizes) < 2 or len(lrs) < 2:
        return Picture("heatmap", TITLE, table.iloc[:0], "This sweep has one batch size or one learning rate.")
    alt = f"A grid of {len(sizes)} batch sizes and {len(lrs)} learning rates, coloured by {results.metric}."
    return Picture("heatmap", TITLE, table, says(results, table), alt)


def says(results: Results, table: pd.DataFrame) -> str:
    """Say which cell is best, how far the others are, and how many diverged."""
    held = table.dropna(subset=["mean"])
    diverged = table["diverged"] > 0
    crossed, dashed = int(diverged.sum()), int((~diverged & (table[BEHIND] > 0)).sum()) if BEHIND in table else 0
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
