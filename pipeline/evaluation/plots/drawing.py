"""Pictures: a table, a specification and words, drawn as SVG and PNG with the same bytes on every machine."""

import csv
import io
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import pandas as pd

from pipeline.evaluation.plots.look import GRID, INK, MOST, PALETTE, QUIET, VEGA_LITE, Spec
from pipeline.metrics import HIGHER_IS_BETTER

SCALE = 2.9  # pixels of a PNG for each of a specification's
# What the font has no glyph for: it has Latin, Greek and Cyrillic letters, and the signs that pictures use.
UNDRAWN = re.compile(r"[^\u0020-\u017f\u0384-\u03ce\u0400-\u045f–—‘’“”…−×]+")


@dataclass(frozen=True)
class Picture:
    """A picture: plots/NAME.csv for `dvc plots`, plots/NAME.svg and .png, and its place in the report.

    table: only its header where there is nothing to draw. says: what it shows of this sweep, or why there is none.
    alt: what is drawn, for readers who cannot see it. svg: empty where there is nothing to draw. stand_ins: what the
    PNG says instead of a name that its font lacks letters for.
    """

    name: str
    title: str
    table: pd.DataFrame
    says: str
    alt: str = ""
    svg: str = ""
    stand_ins: Mapping[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The table as plots/NAME.csv."""
        return self.table.to_csv(index=False, float_format="%.9g")


def draw(specification: Spec, text: str) -> str:
    """Draw the table of a text, plots/NAME.csv, and return the SVG."""
    rows = list(csv.DictReader(io.StringIO(text)))
    return compiled(specification | {"data": specification["data"] | {"values": rows}})


def compiled(filled: Spec) -> str:
    """Draw a specification with its data, and return the SVG; without a title, which the report has beside it."""
    untitled = {key: value for key, value in filled.items() if key != "title"}
    svg = str(renderer().vegalite_to_svg(untitled, vl_version=VEGA_LITE))
    ids = {own: f"id-{place}" for place, own in enumerate(re.findall(r' id="([^"]+)"', svg))}  # Vega counts on and on
    return re.sub(r'( id="|url\(#)([^")]+)', lambda found: found[1] + ids[found[2]], svg)


@cache
def renderer() -> ModuleType:
    """Return vl-convert, started without the machine's own fonts: with them, bytes would differ from another's."""
    import vl_convert  # noqa: PLC0415 - 60 MB, which only drawing needs

    own = os.environ.get("FONTCONFIG_FILE")
    os.environ["FONTCONFIG_FILE"] = str(Path(__file__).with_name("fonts.conf"))
    try:
        vl_convert.svg_to_png('<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>')
    finally:
        del os.environ["FONTCONFIG_FILE"]
        if own is not None:
            os.environ["FONTCONFIG_FILE"] = own
    return vl_convert


def on_white(svg: str) -> str:
    """Return a drawn picture with a white background."""
    return svg.replace(">", '><rect width="100%" height="100%" fill="white"/>', 1)


def png(svg: str, stand_ins: Mapping[str, str]) -> bytes:
    """Return a drawn picture as PNG; names that the font lacks letters for are replaced."""
    for name, other in stand_ins.items():
        if UNDRAWN.search(name):
            svg = svg.replace(escape(name), other)
    svg = re.sub(r">([^<>]+)</text>", lambda found: f">{UNDRAWN.sub('…', found[1])}</text>", svg)
    return bytes(renderer().svg_to_png(on_white(svg), scale=SCALE))


def embedded(picture: Picture) -> str:
    """Return a picture's SVG to stand in a page: it takes the page's colours and font, and has no size of its own."""
    name, svg = picture.name, picture.svg
    svg = re.sub(r"<path [^>]*(?:d=\"(?:M0,0h0v0h0Z)?\"|display=\"none\")[^>]*/>", "", svg)  # Vega's empty frames
    svg = re.sub(r' (?:class|role|aria-[a-z]+|pointer-events|font-family|stroke-miterlimit)="[^"]*"', "", svg)
    svg = re.sub(r'( id="|url\(#)id', rf"\1{name}", svg)
    for place, colour in enumerate(PALETTE):
        svg = svg.replace(colour, f"var(--series-{place})")
    for variable, colour in (("ink", INK), ("quiet", QUIET), ("grid", GRID)):
        svg = svg.replace(colour, f"var(--{variable})")
    label = f'role="img" aria-labelledby="{name}-title {name}-description"'
    head = f'<title id="{name}-title">{escape(picture.title)}</title>'
    head += f'<desc id="{name}-description">{escape(picture.alt)}</desc>'
    return re.sub(r'^<svg [^>]*viewBox="([^"]+)">', rf'<svg viewBox="\1" {label}>\n{head}', svg, count=1)


def number(value: float) -> str:
    """Write a number for people: three digits, thousands with commas."""
    if not math.isfinite(value):
        return "—"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def short(name: str, most: int = 24) -> str:
    """Shorten a name that is too long for a picture."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def scaled(metric: str, means: pd.Series) -> dict[str, Any]:
    """Say of a metric which way is better, and its range."""
    better = "higher" if metric in HIGHER_IS_BETTER else "lower"
    return {"better": better, "least": means.min(), "most": means.max()}


def some(values: Sequence[object]) -> list[int]:
    """Choose at most MOST places of a sequence, evenly spread, with both ends."""
    return sorted({round(place) for place in np.linspace(0, len(values) - 1, min(MOST, len(values))).tolist()})
