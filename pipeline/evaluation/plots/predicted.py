"""Predicted against actual, each row predicted by fits that did not train on it, and the residuals."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from pipeline.evaluation.outcome import out_of_sample, predictions
from pipeline.evaluation.plots import look
from pipeline.evaluation.plots.drawing import Picture, number, short
from pipeline.evaluation.results import Results
from pipeline.runs.records import Record
from pipeline.table.prepared import Prepared

COLUMNS = ["variant", "actual", "predicted", "residual", "rows", "label"]
TITLE = "Predicted and actual"
DENSE = 1000  # rows from which on they are counted in cells
BINS = 40  # cells a side
COUNTS = [{"joinaggregate": [{"op": "max", "field": "rows", "as": "most"}, {"op": "count", "as": "points"}]}]
POINTS: look.Spec = {
    "transform": [{"filter": "datum.most == 1"}],
    "mark": {
        "type": "circle",
        "color": look.PALETTE[0],
        "opacity": 0.75,
        "size": {"expr": "datum.points < 400 ? 35 : 12"},
        "tooltip": {"content": "data"},
    },
}
CELLS: look.Spec = {
    "transform": [{"filter": "datum.most > 1"}],
    "mark": {
        "type": "rect",
        "color": look.PALETTE[0],
        "width": look.HALF / BINS,
        "height": look.HEIGHT / BINS,
        "tooltip": {"content": "data"},
    },
    "encoding": {
        "opacity": {
            "field": "rows",
            "type": "quantitative",
            "scale": {"type": "log", "range": [0.2, 1]},
            "legend": None,
        }
    },
}
DENSEST: look.Spec = {  # in place of a legend, which would stand above points as well
    "transform": [
        {"filter": "datum.most > 1"},
        {"aggregate": [{"op": "max", "field": "rows", "as": "rows"}], "groupby": ["panel"]},
        {"calculate": "'up to ' + format(datum.rows, ',') + ' rows a cell'", "as": "densest"},
    ],
    "mark": {"type": "text", "align": "left", "baseline": "top", "color": look.INK},
    "encoding": {"text": {"field": "densest"}, "x": {"value": 4}, "y": {"value": 2}},
}
EQUAL: look.Spec = {
    "transform": [
        {
            "aggregate": [
                {"op": "min", "field": "actual", "as": "low"},
                {"op": "max", "field": "actual", "as": "high"},
            ],
            "groupby": ["panel"],
        }
    ],
    "mark": {"type": "rule", "color": look.QUIET},
    "encoding": {
        "x": {"field": "low", "type": "quantitative"},
        "y": {"field": "low", "type": "quantitative"},
        "x2": {"field": "high"},
        "y2": {"field": "high"},
    },
}
NONE: look.Spec = {"mark": {"type": "rule", "color": look.QUIET}, "encoding": {"y": {"datum": 0}}}
ACTUAL, PREDICTED = (look.axis(name, f"'{name} ' + {look.FIRST}.label") for name in ("actual", "predicted"))
RESIDUAL = look.axis("residual", f"'actual − predicted [' + {look.FIRST}.label + ']'")


def side(layers: Sequence[look.Spec], x: look.Spec, y: look.Spec) -> look.Spec:
    """Return a panel for each variant."""
    both = {"x": x, "y": y}
    drawn = [{**one, "encoding": both | one.get("encoding", {})} for one in (POINTS, CELLS)]
    return look.panels(look.HALF, [*layers, *drawn, DENSEST], transform=[look.valid(x["field"], y["field"])])


SPECIFICATION = look.specification(
    TITLE,
    COLUMNS[1:5],
    [*COUNTS, *look.SEVERAL],
    hconcat=[side([EQUAL], ACTUAL, PREDICTED), side([NONE], PREDICTED, RESIDUAL)],
)


def draw(results: Results) -> Picture:
    """Draw the best configuration of each variant."""
    tables = [rows(group, results.prepared) for group in results.best("variant")]
    table = pd.concat(tables or [pd.DataFrame(columns=COLUMNS[:-1])], ignore_index=True)
    if table.empty:
        empty = pd.DataFrame(columns=COLUMNS)
        return Picture("predicted", TITLE, empty, "No run has predictions to show: every run diverged.")
    alt = (
        "Left, predicted against actual values with the line where they are equal; right, residuals against predicted."
    )
    binned = pd.concat([bins(one) for _, one in table.groupby("variant", sort=False)], ignore_index=True)
    return Picture("predicted", TITLE, binned.assign(label=short(results.target)), says(results, table), alt)


def rows(group: Sequence[Record], prepared: Prepared) -> pd.DataFrame:
    """Tabulate each tested row's actual target and its out-of-sample prediction, mean over seeds."""
    tested, y = prepared.tested, prepared.y.astype(np.float64).flatten()
    held_out = [out_of_sample(predictions(record, prepared), tested).flatten() for record in group]
    predicted = np.mean(held_out, axis=0)
    values = [group[0].run.variant, y, predicted, y - predicted, 1]
    table = pd.DataFrame(dict(zip(COLUMNS[:-1], values, strict=True)))
    return table[table["predicted"].notna()]


def bins(table: pd.DataFrame) -> pd.DataFrame:
    """Count rows in cells, from DENSE rows on: a page does not draw a million points.

    Some cells are of actual and predicted, without a residual; the others of predicted and residual.
    """
    if len(table) < DENSE:
        return table
    pairs = [counted(table, "actual", "predicted"), counted(table, "predicted", "residual")]
    return pd.concat(pairs, ignore_index=True).assign(variant=table["variant"].iloc[0])[list(table.columns)]


def counted(table: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """Count rows in BINS × BINS cells of two columns; return the cells' middles."""
    middles, places = [], []
    for name in (x, y):
        values = table[name].to_numpy()
        width = (values.max() - values.min()) / BINS or 1.0
        places.append(np.minimum(BINS - 1, (values - values.min()) // width).astype(int))
        middles.append(values.min() + width * (np.arange(BINS) + 0.5))
    counts = np.bincount(places[0] * BINS + places[1])
    cells = np.flatnonzero(counts)
    return pd.DataFrame({x: middles[0][cells // BINS], y: middles[1][cells % BINS], "rows": counts[cells]})


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
