"""How minibatches wander: the weights' path over the loss contours, a panel for each batch size.

The plane is spanned by the two principal directions of all paths, so that the panels show the same contours.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from contourpy import LineType, contour_generator
from numpy.typing import NDArray

from pipeline.evaluation.outcome import product
from pipeline.evaluation.plots import look
from pipeline.evaluation.plots.drawing import Picture, number, some
from pipeline.evaluation.plots.look import HALF, HEIGHT, PALETTE, QUIET, WIDTH, Spec, axis, panels, specification
from pipeline.evaluation.predictions import in_float64
from pipeline.evaluation.results import Results
from pipeline.runs.records import Record
from pipeline.runs.run import PATH_POINTS, curve_steps

Float64 = NDArray[np.float64]
COLUMNS = ["variant", "batch_size", "lr", "epoch", "along", "across", "contour"]
TITLE = "How minibatches wander"
SIDE = 40  # points of the loss's grid, a side
COARSE, ROWS = 25, 1000  # for a model that is not linear: points a side, and the most rows
CONTOURS = 11  # lines of equal loss
# A contour's batch_size and lr list those of all panels, in each of which it is drawn.
EACH: list[Spec] = [
    *({"calculate": f"split(datum.{key}, '|')", "as": key} for key in ("batch_size", "lr")),
    {"flatten": ["batch_size", "lr"]},
    {"joinaggregate": [{"op": "distinct", "field": "lr", "as": "lrs"}]},
    {"calculate": "(datum.revision ? datum.revision + ': ' : '') + 'batch size ' + datum.batch_size", "as": "panel"},
    {"calculate": look.number("toNumber(datum.lr)"), "as": "rate"},
    {"calculate": "datum.panel + (datum.lrs > 1 ? ', lr ' + datum.rate : '')", "as": "panel"},
    {"joinaggregate": [{"op": "max", "field": "epoch", "as": "last"}], "groupby": ["panel"]},
    {"joinaggregate": [{"op": "distinct", "field": "panel", "as": "panels"}]},
]
PLACE = {
    "x": axis("along", "'first principal direction'", scale={"nice": False}, axis={"tickCount": 4, "grid": False}),
    "y": axis("across", "'second principal direction'", scale={"nice": False}, axis={"tickCount": 4, "grid": False}),
    "order": {"field": "row", "type": "quantitative"},
}
LEVELS = {
    "transform": [{"filter": "isValid(datum.contour)"}],
    "mark": {"type": "line", "color": QUIET, "strokeWidth": 0.5, "strokeOpacity": 0.7},
    "encoding": {"detail": {"field": "contour"}},
}
WAY = {
    "transform": [{"filter": "isValid(datum.epoch)"}],
    "mark": {"type": "line", "color": PALETTE[0], "strokeWidth": 0.8, "point": {"size": 5, "color": PALETTE[0]}},
}
END = {
    "transform": [{"filter": "isValid(datum.epoch) && datum.epoch == datum.last"}],
    "mark": {"type": "circle", "color": PALETTE[1], "size": 40, "opacity": 1, "tooltip": {"content": "data"}},
}


def planes(which: str, width: int, height: int) -> Spec:
    """Return the panels of the plane, two side by side, of the rows that a filter takes."""
    own: Spec = {"transform": [{"filter": which}], "resolve": {"axis": {"x": "independent"}}}
    return panels(width, [LEVELS, WAY, END], columns=2, height=height, encoding=PLACE, **own)


SPECIFICATION = specification(
    TITLE,
    ["epoch", "along", "across", "contour"],
    EACH,
    vconcat=[planes("datum.panels == 1", WIDTH, HEIGHT), planes("datum.panels > 1", HALF, HALF)],
    spacing=0,
)


@dataclass(frozen=True)
class Plane:
    """A plane in the space of the P weights: its middle (P,) and two directions (2, P) of length 1, at right angles."""

    middle: Float64
    directions: Float64

    def project(self, path: Float64) -> Float64:
        """Return the coordinates (T, 2) of points (T, P)."""
        return np.hstack([product(path - self.middle, one[:, None]) for one in self.directions])


def draw(results: Results) -> Picture:
    """Draw the paths of the first seed's best run at each batch size, of the best variant."""
    kept = paths(results)
    if not kept:
        empty = pd.DataFrame(columns=COLUMNS)
        return Picture("path", TITLE, empty, "No path to show: no run of the first seed lasted two epochs.")
    steps, points = zip(*map(drawn, kept), strict=True)
    plane = principal(np.vstack(points))
    flat = [plane.project(one) for one in points]
    tables = [
        pd.DataFrame([[*own, epoch, *place] for epoch, place in zip(epochs, path, strict=True)], columns=COLUMNS[:-1])
        for own, epochs, path in zip(map(panel, kept), steps, flat, strict=True)
    ]
    table = pd.concat([*tables, contours(results, kept, plane, np.vstack(flat))], ignore_index=True)
    alt = "The weights' path over contours of the training loss, a panel for each batch size; a dot marks its end."
    return Picture("path", TITLE, table.astype({"epoch": "Int64", "contour": "Int64"}), says(kept, points), alt)


def panel(record: Record) -> tuple[str, str, str]:
    """Return the variant, batch size and lr that a record's panel shows."""
    return record.run.variant, str(record.run.batch_size), f"{record.run.lr:.9g}"


def contours(results: Results, kept: Sequence[Record], plane: Plane, flat: Float64) -> pd.DataFrame:
    """Tabulate the lines of equal loss, closer together near the valley's floor."""
    grid = Grid.around(flat)
    losses = grid.losses(results, kept[0], plane)
    low, high = float(losses.min()), float(losses.max())
    levels = low + (high - low) * np.linspace(0.02, 0.98, CONTOURS if high > low else 0) ** 2
    lined = contour_generator(grid.along, grid.across, losses, line_type=LineType.Separate)
    lines: list[Float64] = [np.asarray(one) for level in levels.tolist() for one in lined.lines(level)]
    variants, sizes, lrs = zip(*map(panel, kept), strict=True)
    own = [variants[0], "|".join(sizes), "|".join(lrs), None]
    rows = [[*own, *place, at] for at, line in enumerate(lines, start=1) for place in line.tolist()]
    return pd.DataFrame(rows, columns=COLUMNS)


def paths(results: Results) -> list[Record]:
    """Choose the runs: the best configuration of each batch size, where the first seed's run did not diverge."""
    best = results.shown.loc[results.shown["runs"] > 0, "variant"]
    groups = [group for group in results.best("variant", "batch_size") if group[0].run.variant == best.iloc[0]]
    kept = [next((record for record in group if record.path is not None), None) for group in groups]
    long = [record for record in kept if record and len(drawn(record)[0]) > 1]
    return [long[i] for i in some(long)]


def drawn(record: Record) -> tuple[list[int], Float64]:
    """Return the epochs at which a run's path is drawn, and its points (T, P), without the way down."""
    path = np.empty((0, 0)) if record.path is None else np.asarray(record.path, dtype=np.float64)
    known = np.isfinite(path).all(axis=1) | bool(record.diverged)
    steps = np.array(curve_steps(record.run.epochs, PATH_POINTS)[: len(path)])[known]
    late = steps >= (skipped(record) if len(steps) and steps[-1] > skipped(record) else 0)
    return steps[late].tolist(), path[known][late]


def skipped(record: Record) -> int:
    """Return the epoch from which on a path is drawn: the way down into the valley is long, and soon over."""
    return record.run.epochs // 20


def principal(points: Float64) -> Plane:
    """Return the plane of the two principal directions of points (T, P); six digits, as LAPACK's last ones differ."""
    middle = points.mean(axis=0)
    _, sizes, rows = np.linalg.svd(points - middle, full_matrices=False)
    first = rows[0] if sizes[0] > 0 else np.eye(points.shape[1])[0]
    first = pointing(first)
    # A path on a line has no second direction of its own: take the weight that the line changes least.
    second = rows[1] if len(rows) > 1 and sizes[1] > 1e-6 * sizes[0] else np.eye(len(first))[np.abs(first).argmin()]
    second = second - first * float((first * second).sum())
    return Plane(middle, np.stack([first, pointing(second / np.sqrt((second**2).sum()))]))


def pointing(direction: Float64) -> Float64:
    """Round a direction, and turn it so that its largest part is positive."""
    rounded = np.round(direction, 6)
    return np.asarray(rounded * np.sign(rounded[np.abs(rounded).argmax()]))


@dataclass(frozen=True)
class Grid:
    """Coordinates of a grid's columns and rows in the plane."""

    along: Float64
    across: Float64

    @classmethod
    def around(cls, points: Float64) -> "Grid":
        """Cover points (T, 2) and a margin."""
        low, high = points.min(axis=0), points.max(axis=0)
        span = np.maximum(high - low, 1e-3 * max(float((high - low).max()), 1e-6))
        edges = zip(low - 0.15 * span, high + 0.15 * span, strict=True)
        return cls(*(np.linspace(start, stop, SIDE) for start, stop in edges))

    def losses(self, results: Results, record: Record, plane: Plane) -> Float64:
        """Compute the training loss at each point: (rows, columns), six digits."""
        linear = results.group(record.run.variant).linear
        found = quadratic(self, results, plane) if linear else sampled(self, results, record, plane)
        digits = np.char.mod("%.6g", found).astype(np.float64)
        return np.asarray(digits)


def quadratic(grid: Grid, results: Results, plane: Plane) -> Float64:
    """Return the loss of a linear model on a grid: with residuals linear in both coordinates, from six means."""
    x, y = results.rows
    error = product(x, plane.middle[:, None])[:, 0] - y
    u, v = (product(x, one[:, None])[:, 0] for one in plane.directions)
    a, b = grid.along[None, :], grid.across[:, None]
    means = [float((p * q).mean()) for p, q in ((error, error), (error, u), (error, v), (u, u), (u, v), (v, v))]
    return means[0] + 2 * (a * means[1] + b * means[2]) + a * a * means[3] + 2 * a * b * means[4] + b * b * means[5]


def sampled(grid: Grid, results: Results, record: Record, plane: Plane) -> Float64:
    """Return the loss of any model on a coarser grid, in float64, on at most ROWS rows, and interpolate."""
    x, y = results.rows
    chosen = np.linspace(0, len(x) - 1, min(ROWS, len(x))).astype(int)
    X, target = x[chosen, :-1], y[chosen, None]
    forward, _ = in_float64(record.run.variant, record.tensors, X.shape[1])
    places = np.linspace(0, SIDE - 1, COARSE)
    coarse = [np.interp(places, np.arange(SIDE), one) for one in (grid.along, grid.across)]
    found = np.empty((COARSE, COARSE))
    for row, b in enumerate(coarse[1]):
        for column, a in enumerate(coarse[0]):
            weights = plane.middle + a * plane.directions[0] + b * plane.directions[1]
            found[row, column] = ((forward(weights, X) - target) ** 2).mean()
    wide = np.stack([np.interp(grid.along, coarse[0], line) for line in found])
    return np.stack([np.interp(grid.across, coarse[1], column) for column in wide.T]).T


def jitter(path: Float64) -> float:
    """Return how much the second half of a path (T, P) trembles: root mean square, in the weights' units.

    Second differences leave out any steady way; of independent points of variance σ² they have the variance 6σ².
    """
    second = np.diff(path[len(path) // 2 : -1], n=2, axis=0)  # the last step may be shorter
    return float(np.sqrt((second**2).sum(axis=1).mean() / 6)) if len(second) else 0.0


def says(kept: Sequence[Record], points: Sequence[Float64]) -> str:
    """Say how far the weights tremble."""
    # Float32's steps are 6e-8 of a weight: below 1e-6 of the largest, only rounding trembles.
    least = 1e-6 * max(float(np.abs(path).max()) for path in points)
    moves = [jitter(path) for path in points]
    ways = [
        f"{number(move) if move > least else '0'} at batch size {one.run.batch_size}"
        for one, move in zip(kept, moves, strict=True)
    ]
    return (
        f"Seed {kept[0].run.seed}, from epoch {skipped(kept[0])} on; the dot is the end. In the second half of the "
        f"epochs the weights fluctuate around their path by {', '.join(ways)} (root mean square)."
    )
