"""How pictures look, and how they become PNG and SVG with the same bytes every time."""

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import font_manager, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from pipeline.evaluation.results import Results

INK, QUIET, GRID = "#1b1f24", "#656d76", "#d0d7de"
# Distinguishable to the colour-blind (See: Okabe and Ito, Color Universal Design) and, unlike theirs, 3:1 on white.
PALETTE = ("#0072b2", "#d55e00", "#008763", "#b5579a", "#54575c", "#8a6d00", "#2a7f9e", "#a0522d")
DASHES: Sequence[Any] = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (6, 2, 1, 2)))
MOST = len(PALETTE)  # lines that can be told apart
STYLE: dict[Any, Any] = {  # names of rcParams
    "axes.axisbelow": True,
    "axes.edgecolor": QUIET,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.prop_cycle": f"cycler('color', {list(PALETTE)})",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "axes.titlecolor": INK,
    "figure.dpi": 100,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.edgecolor": GRID,
    "legend.facecolor": "none",
    "legend.fontsize": 8,
    "legend.frameon": False,
    "legend.title_fontsize": 8,
    "lines.linewidth": 1.6,
    "savefig.facecolor": "white",
    "svg.fonttype": "none",  # text stays text: small, searchable, read aloud
    "text.color": INK,
    "text.parse_math": False,  # a column may be called $
    "xtick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.color": QUIET,
    "ytick.labelcolor": INK,
}


@dataclass(frozen=True)
class Picture:
    """A picture: plots/NAME.csv for `dvc plots`, plots/NAME.png, and its place in the report.

    table: only its header where there is nothing to draw. figure: None there. says: what it shows of this sweep, or why
    there is none. alt: what is drawn, for who cannot see it.
    """

    name: str
    title: str
    table: pd.DataFrame
    figure: Figure | None
    says: str
    alt: str = ""


def panels(count: int, width: float = 6.4, height: float = 3.6, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """Make a figure of `count` panels side by side, in `rows` rows."""
    columns = -(-count // rows)
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for spare in axes[count:]:
        spare.set_visible(False)
    return figure, axes[:count]


def lines(results: Results) -> dict[str, dict[str, Any]]:
    """Return the batch sizes to draw, at most MOST, each with its colour and dashes, the same in every picture."""
    sizes = [str(size) for size in results.values("batch_size")]
    dashes = [DASHES[place % len(DASHES)] for place in range(MOST)]  # colours alone do not tell all lines apart
    looks = zip(PALETTE, dashes, strict=True)
    return {
        sizes[i]: {"color": colour, "linestyle": dash} for i, (colour, dash) in zip(some(sizes), looks, strict=False)
    }


def log_axis(axes: Axes, which: str, values: Sequence[float]) -> None:
    """Make an axis logarithmic, with plain numbers at its ticks."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    axes.set(**{f"{which}scale": "log"})
    decades = math.log10(max(values) / min(values))
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 1.5 else (1,), numticks=8))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def write_png(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, on white; no wider than the column of a description on MLflow's pages, which clips it."""
    with rc_context(STYLE):
        figure.savefig(path, format="png", dpi=96, metadata={"Software": None})


def svg(figure: Figure, name: str, title: str, description: str) -> str:
    """Return a figure as SVG to stand in a page: it takes the page's colours and font, and has no size of its own."""
    written = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context(STYLE | {"svg.hashsalt": name}):
        figure.savefig(written, format="svg", facecolor="none", metadata=nothing)
    text = written.getvalue()
    text = re.sub(r"^.*?<svg [^>]*?viewBox=\"([^\"]+)\"[^>]*>", r'<svg viewBox="\1">', text, count=1, flags=re.DOTALL)
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'(<(?:g|path)) id="(?!(?:m|p|C)[0-9a-f_]+")[^"]*"', r"\1", text)  # ids that nothing refers to
    text = re.sub(r"font: (?:(\w+) )?([\d.]+)px [^;\"]*", r"font-size: \2px", text)
    for number, colour in enumerate(PALETTE):
        text = text.replace(colour, f"var(--series-{number})")
    for variable, colour in (("ink", INK), ("quiet", QUIET), ("grid", GRID)):
        text = text.replace(colour, f"var(--{variable})")
    label = f'role="img" aria-labelledby="{name}-title {name}-description"'
    head = f'<title id="{name}-title">{title}</title><desc id="{name}-description">{description}</desc>'
    return re.sub(r'<svg viewBox="([^"]+)">', rf'<svg viewBox="\1" {label}>\n{head}', text, count=1)


def number(value: float) -> str:
    """Write a number for people: three digits, thousands with commas."""
    if not math.isfinite(value):
        return "—"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def readable(name: str, other: str, most: int = 24) -> str:
    """Return a column's name as a picture's font can draw it, shortened; or else `other`."""
    short = name if len(name) <= most else f"{name[: most - 1]}…"
    return short if all(ord(character) in drawn() for character in short) else other


@cache
def drawn() -> frozenset[int]:
    """Return the characters that the font has."""
    return frozenset(FT2Font(font_manager.findfont("DejaVu Sans")).get_charmap())


def some(values: Sequence[object]) -> list[int]:
    """Choose at most MOST places of a sequence, evenly spread, with both ends."""
    return sorted({round(place) for place in np.linspace(0, len(values) - 1, min(MOST, len(values))).tolist()})


def logarithmic(values: Sequence[float]) -> bool:
    """Tell whether numbers need a logarithmic axis: all positive, and more than a factor of 5 apart."""
    return bool(len(values)) and min(values) > 0 and max(values) > 5 * min(values)
