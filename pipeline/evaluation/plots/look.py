"""How pictures look: colours, fonts, and the parts that several Vega-Lite specifications share.

A specification draws plots/NAME.csv, whose values DVC reads as texts. DVC adds a column `rev`, of which the report has
none, and puts them in the place of DATA. What one row says for the whole picture is read from the first row.
"""

from collections.abc import Sequence
from typing import Any

Spec = dict[str, Any]

VEGA_LITE = "5.21"  # of the report and of DVC's page, see tools/vega.py
INK, QUIET, GRID = "#1b1f24", "#656d76", "#d0d7de"
# Distinguishable to the colour-blind (See: Okabe and Ito, Color Universal Design) and, unlike theirs, 3:1 on white.
PALETTE = ("#0072b2", "#d55e00", "#008763", "#b5579a", "#54575c", "#8a6d00", "#2a7f9e", "#a0522d")
DASHES = ((1, 0), (6, 2), (2, 1.5), (6, 2, 1, 2))  # colours alone do not tell all lines apart
MOST = len(PALETTE)  # lines that can be told apart
FONT = "Liberation Sans"  # vl-convert brings it
WIDTH, HALF, HEIGHT = 430, 180, 230  # of one panel, of one of two side by side: a telephone is 360 pixels wide
DATA = "<DVC_METRIC_DATA>"
FIRST = "data('table')[0]"
WORST = 10_000  # times the best of an error, and what is worse is drawn at the edge: near divergence it has no bound
CONFIG: Spec = {
    "aria": False,  # the page describes the picture as a whole
    "background": None,
    "font": f"{FONT}, Arial, Helvetica, sans-serif",
    "padding": 4,
    "view": {"stroke": None},
    "axis": {
        "domainColor": QUIET,
        "gridColor": GRID,
        "gridWidth": 0.6,
        "labelColor": INK,
        "labelFontSize": 11,
        "tickColor": QUIET,
        "titleColor": INK,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
    },
    "header": {"labelColor": INK, "labelFontSize": 12, "labelPadding": 6},
    "legend": {
        "columns": 4,
        "labelColor": INK,
        "labelFontSize": 11,
        "orient": "top",
        "symbolSize": 220,
        "titleColor": INK,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "titleOrient": "left",
        "titlePadding": 8,
    },
    "title": {"color": INK, "fontSize": 12, "fontWeight": "normal"},
}
# A panel for each variant, and for each of several revisions.
PANEL: tuple[Spec, ...] = (
    {"window": [{"op": "row_number", "as": "row"}]},
    {"joinaggregate": [{"op": "distinct", "field": "rev", "as": "revisions"}]},
    {"calculate": "datum.revisions > 1 ? datum.rev : ''", "as": "revision"},
    {"calculate": "(datum.revision ? datum.revision + ': ' : '') + datum.variant", "as": "panel"},
)
# In narrow panels, only what differs.
SEVERAL: tuple[Spec, ...] = (
    {"joinaggregate": [{"op": "distinct", "field": "variant", "as": "variants"}]},
    {"calculate": "datum.variants > 1 ? datum.panel : datum.revision", "as": "panel"},
)
SIZE: Spec = {"calculate": "datum.batch_size == 'full' ? 1e300 : toNumber(datum.batch_size)", "as": "size"}
# The batch sizes that are drawn as lines: at most MOST, evenly spread, with both ends.
LINES: tuple[Spec, ...] = (
    SIZE,
    {"window": [{"op": "dense_rank", "as": "rank"}], "sort": [{"field": "size"}]},
    {"joinaggregate": [{"op": "max", "field": "rank", "as": "ranks"}]},
    {"calculate": f"round((datum.rank - 1) * {MOST - 1} / (datum.ranks - 1))", "as": "place"},
    {"filter": f"datum.ranks <= {MOST} || round(datum.place * (datum.ranks - 1) / {MOST - 1}) == datum.rank - 1"},
)
# The range of a metric that is drawn, and whether that needs a logarithmic scale. R² may be -1e6.
RANGE: tuple[Spec, ...] = (
    {"name": "higher", "expr": f"{FIRST}.better == 'higher'"},
    {"name": "least", "expr": f"toNumber({FIRST}.least)"},
    {"name": "most", "expr": f"toNumber({FIRST}.most)"},
    {"name": "low", "expr": "higher ? max(least, most - 2) : least"},
    {"name": "high", "expr": f"higher || least <= 0 ? most : min(most, {WORST} * least)"},
    {"name": "steep", "expr": "low > 0 && high > 5 * low"},
)


def number(value: str) -> str:
    """Return the expression that writes a number in few characters."""
    small, large = f"{value} && abs({value}) < 0.001", f"abs({value}) >= 1e6"
    return (
        f"{small} || {large} ? format({value}, '.2~e') : "
        f"abs({value}) >= 1000 ? format({value}, ',.0f') : format({value}, '.3~g')"
    )


def specification(title: str, numbers: Sequence[str], transform: Sequence[Spec], **drawn: Any) -> Spec:  # noqa: ANN401
    """Return a picture's specification; `numbers` are the columns of numbers."""
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "title": {"text": title, "anchor": "middle", "fontSize": 14},
        "data": {"name": "table", "values": DATA, "format": {"parse": dict.fromkeys(numbers, "number")}},
        "config": CONFIG,
        "transform": [*PANEL, *transform],
        **drawn,
    }


def panels(
    width: int,
    layers: Sequence[Spec],
    by: str = "panel",
    columns: int = 1,
    height: int = HEIGHT,
    encoding: Spec | None = None,
    **also: Any,  # noqa: ANN401
) -> Spec:
    """Return a panel for each value of a column, in the table's order; `encoding` is that of all layers."""
    facet = {"field": by, "type": "nominal", "title": None, "sort": {"field": "row", "op": "min"}}
    return {
        "facet": facet | {"header": {"labelLimit": width}},
        "columns": columns,
        "spacing": 14,
        "spec": {"width": width, "height": height, "encoding": encoding or {}, "layer": list(layers)},
        **also,
    }


def line(field: str = "batch_size") -> Spec:
    """Return the encoding of batch sizes as lines: their colours and dashes, in the same order in every picture."""
    own = {"field": field, "type": "nominal", "title": "batch size", "sort": {"field": "size", "op": "min"}}
    dashes = [list(DASHES[place % len(DASHES)]) for place in range(MOST)]
    return {
        "stroke": own | {"scale": {"range": list(PALETTE)}},
        "strokeDash": own | {"scale": {"range": dashes}},
    }


def fill() -> Spec:
    """Return the encoding of batch sizes as filled marks in the colours of their lines, without a legend of its own."""
    return {"fill": {"field": "size", "type": "nominal", "scale": {"range": list(PALETTE)}, "legend": None}}


def band(x: Spec, title: str, kind: str) -> Spec:
    """Return the layer of the range over the seeds."""
    mark = {"type": "area", "fillOpacity": 0.2}
    return {"mark": mark, "encoding": {"x": x, "y": axis("lowest", title, kind), "y2": {"field": "highest"}} | fill()}


def axis(field: str, title: str, kind: str = "linear", **also: Any) -> Spec:  # noqa: ANN401
    """Return the encoding of a position; `title` is an expression, as its words may stand in the table."""
    scale: Spec = {"type": kind, "zero": False} if kind == "linear" else {"type": kind, "nice": False, "padding": 6}
    faint = {"condition": {"test": "datum.label === ''", "value": 0.4}, "value": 1}
    ticks: Spec = (
        {"tickCount": 6}
        if kind == "linear"
        else {
            "tickCount": 4,
            "labelExpr": f"datum.label ? {number('datum.value')} : ''",
            "gridOpacity": faint,
        }
    )
    return {
        "field": field,
        "type": "quantitative",
        "title": {"signal": title},
        "scale": scale | also.pop("scale", {}),
        "axis": ticks | also.pop("axis", {}),
        **also,
    }


def limit(text: str, **mark: Any) -> list[Spec]:  # noqa: ANN401
    """Return the layers of a dashed line and its name, which stands where `mark` and its encoding say."""
    named = {"type": "text", "text": text, "align": "left", "dy": -6, "color": INK}
    encoding = mark.pop("encoding")
    return [
        {"mark": {"type": "rule", "color": QUIET, "strokeDash": [2, 2]}},
        {"mark": named | mark, "encoding": encoding},
    ]


def valid(*fields: str) -> Spec:
    """Return the transform that keeps the rows which have these numbers."""
    return {"filter": " && ".join(f"isValid(datum['{field}'])" for field in fields)}
