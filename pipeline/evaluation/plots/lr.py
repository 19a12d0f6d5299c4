"""The metric against the learning rate: a line for each batch size, and the largest stable learning rate."""

import numpy as np
import pandas as pd

from pipeline.evaluation.plots import look
from pipeline.evaluation.plots.drawing import Picture, number, scaled, short
from pipeline.evaluation.results import Group, Results
from pipeline.metrics import HIGHER_IS_BETTER, label
from pipeline.runs.records import BEHIND

COLUMNS = ["variant", "batch_size", "lr", "diverged", "metric", "mean", "lowest", "highest", "stable"]
TITLE = "Learning rate"
NAME = "'learning rate' + (extent(pluck(data('table'), 'diverged'))[1] > 0 ? ' (× diverged)' : '')"
X = look.axis("lr", NAME, "log")
# Lines to what is out of the range end at the edge.
CUT = [
    {
        "calculate": f"low > least ? max(low, datum.{key}) : high < most ? min(high, datum.{key}) : datum.{key}",
        "as": key,
    }
    for key in ("lowest", "mean", "highest")
]
INSIDE = "(low <= least || datum.mean > low) && (high >= most || datum.mean < high)"
POINT = {"type": "circle", "size": 24, "opacity": 1, "tooltip": {"content": "data"}}


# Crosses stand at an edge, one above the other, as batch sizes diverge at the same learning rates.
HEIGHT = f"higher ? {look.HEIGHT - 5} - 10 * (datum.rank - 1) : 5 + 10 * (datum.rank - 1)"
CROSSES: look.Spec = {
    "transform": [{"filter": "datum.diverged > 0"}],
    "mark": {"type": "text", "text": "×", "fontSize": 15, "tooltip": {"content": "data"}},
    "encoding": {"x": X, "y": {"value": {"expr": HEIGHT}}, **look.fill()},
}
LIMIT: look.Spec = {
    "transform": [
        {"aggregate": [{"op": "max", "field": "stable", "as": "stable"}], "groupby": ["panel"]},
        look.valid("stable"),
    ],
    "encoding": {"x": look.axis("stable", NAME, "log")},
    "layer": look.limit("2/λ, all rows", angle=270, encoding={"y": {"value": look.HEIGHT - 4}}),
}


def panel(kind: str, which: str) -> look.Spec:
    """Return the panels with the metric on a logarithmic or a linear axis, where a filter takes it."""
    title = f"{look.FIRST}.label"
    whole = [{"filter": "datum.diverged == 0"}, look.valid("mean"), *CUT]
    drawn: look.Spec = {
        "transform": whole,
        "encoding": {"x": X, "y": look.axis("mean", title, kind)},
        "layer": [
            {"mark": {"type": "line", "strokeWidth": 1.6}, "encoding": look.line()},
            {"transform": [{"filter": INSIDE}], "mark": POINT, "encoding": look.fill()},
        ],
    }
    band = {**look.band(X, title, kind), "transform": whole}
    return look.panels(look.WIDTH, [band, drawn, CROSSES, LIMIT], transform=[{"filter": which}])


SPECIFICATION = look.specification(
    TITLE,
    ["lr", "diverged", "mean", "lowest", "highest", "stable"],
    look.LINES,
    params=look.RANGE,
    vconcat=[panel("log", "steep"), panel("linear", "!steep")],
    spacing=0,
)


def draw(results: Results) -> Picture:
    """Draw every configuration that has the metric; a cross marks those with a diverged run."""
    table = configurations(results)
    lrs = sorted(set(results.shown["lr"]))
    if len(lrs) < 2:
        return Picture("lr", TITLE, table.iloc[:0], one_lr(results, lrs[0]))
    alt = "The metric against the learning rate, a line for each batch size; crosses mark configurations that diverged."
    return Picture("lr", TITLE, table, says(results, table), alt)


def configurations(results: Results) -> pd.DataFrame:
    """Tabulate the metric of each configuration, mean, lowest and highest over its seeds."""
    rows = []
    for row in results.best_by_axes.sort_values(["lr"], kind="stable").to_dict("records"):
        runs = results.runs_of[row["configuration"]]
        values = [record.metrics[results.metric] for record in runs if results.metric in record.metrics]
        own = [str(row["batch_size"]), row["lr"], row["diverged"], results.metric, row[f"{results.metric} mean"]]
        spread = [min(values, default=np.nan), max(values, default=np.nan)]
        rows.append([row["variant"], *own, *spread, stable(results, row["variant"])])
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.assign(**scaled(results.metric, table["mean"]), label=label(results.metric, short(results.target)))


def stable(results: Results, variant: str) -> float:
    """Return the largest stable learning rate of a variant; NaN where it is not known, or far beyond the sweep."""
    known = results.group(variant).linear and results.plain
    near = known and results.largest_stable_lr < 30 * results.shown["lr"].max()
    return results.largest_stable_lr if near else np.nan


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
