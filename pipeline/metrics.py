"""The metrics. Each is one entry of METRICS, from which the rest follows: params, columns, labels, figures, bounds.

Imports nothing of the package, and numpy for types alone, as commands that need no metric's value start without it.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # it loads in 0.1 s
    import numpy as np
    from numpy.typing import NDArray

    Float64 = NDArray[np.float64]
else:
    Float64 = Any


@dataclass(frozen=True)
class Rows:
    """Rows of the table, and what a run predicts for them: y_pred and y (m,), float64, in the target's unit."""

    y_pred: Float64
    y: Float64

    @property
    def error(self) -> Float64:
        """y_pred - y (m,)."""
        return self.y_pred - self.y

    @property
    def mse(self) -> float:
        """The mean squared error."""
        return float((self.error**2).mean())

    @property
    def variance(self) -> float:
        """The target's variance; NaN if it is constant."""
        return float(self.y.var()) or math.nan


@dataclass(frozen=True)
class Gradient:
    """The gradient of the mean squared error on all training rows, each (P,), float64.

    autograd: autograd's. formula: 2/n · Xᵀ(y_pred − y); central differences if the model is not linear. size: of the
    terms that are summed; above 0.
    """

    autograd: Float64
    formula: Float64
    size: Float64


@dataclass(frozen=True)
class Outcome:
    """What a run reached, of which its metrics are computed.

    tested: the rows held out, each predicted by the fit that did not train on it. trained: the training rows, predicted
    by the fit on all of them; loss: the last mean squared error of its curve. optimum: the smallest mean squared error
    of any W and b on these rows.
    """

    tested: Rows
    trained: Rows
    loss: float
    optimum: float
    gradient: Gradient


@dataclass(frozen=True)
class Metric:
    """A metric of a run.

    key: `split/metric`. words: for labels. unit: of {target}'s unit. higher_is_better: lower is, by default.
    of_rows: computes it from rows that a fit did not train on, or None; then it is also measured on final rows and by
    nested cross-validation. of_run: computes any other. terms: of each row, (…, m) for y_pred (…, m), if the metric is
    a constant plus or minus their mean; its standard error is theirs. chooses: whether it may choose the champion.
    """

    key: str
    words: str
    unit: str
    of_rows: Callable[[Rows], float] | None = None
    of_run: Callable[[Outcome], float] | None = None
    terms: Callable[[Rows], Float64] | None = None
    higher_is_better: bool = False
    chooses: bool = True

    def value(self, outcome: Outcome) -> float:
        """Compute it, in float64; it may be NaN or infinite."""
        if self.of_rows:
            return self.of_rows(outcome.tested) if len(outcome.tested.y) else math.nan
        return self.of_run(outcome) if self.of_run else math.nan

    def on(self, split: str) -> str:
        """Return its key on other rows, such as `final/mse`."""
        return f"{split}/{self.key.partition('/')[2]}"


def mse(rows: Rows) -> float:
    """mean((y_pred − y)²)."""
    return rows.mse


def mae(rows: Rows) -> float:
    """mean(|y_pred − y|)."""
    return float(abs(rows.error).mean())


def r2(rows: Rows) -> float:
    """1 − mean((y_pred − y)²) / variance(y)."""
    return 1 - rows.mse / rows.variance


def loss(outcome: Outcome) -> float:
    """Mean over the last epoch's minibatches of mean((y_pred − y)²), each taken before its update."""
    return outcome.loss


def excess_mse(outcome: Outcome) -> float:
    """mean((y_pred − y)²) − the least-squares optimum, both on the training rows."""
    # Float64 has 16 digits, of which a difference loses those where its terms agree: round three digits above the last.
    found, rows = outcome.trained.mse, outcome.trained
    return round_to(found - outcome.optimum, 1e-13 * max(found, float(rows.y.var())))


def grad_error(outcome: Outcome) -> float:
    """max(|autograd's gradient − the formula's| / the size of the formula's terms)."""
    own = outcome.gradient
    return round_to(float((abs(own.autograd - own.formula) / own.size).max()), 1e-13)


CURVE = "train/mse"  # the metric that has a value for each epoch

# In the order of columns.
METRICS = (
    Metric("cv/mse", "mean squared error on rows held out", "{target}²", mse, terms=lambda rows: rows.error**2),
    Metric("cv/mae", "mean absolute error on rows held out", "{target}", mae, terms=lambda rows: abs(rows.error)),
    Metric(
        "cv/r2",
        "R² on rows held out",
        "",
        r2,
        terms=lambda rows: rows.error**2 / rows.variance,
        higher_is_better=True,
    ),
    Metric(CURVE, "mean squared error on training rows", "{target}²", of_run=loss),
    Metric("excess_mse", "mean squared error above the optimum", "{target}²", of_run=excess_mse),
    Metric("grad_error", "relative error of autograd's gradient", "", of_run=grad_error, chooses=False),
)

NAMED: Mapping[str, Metric] = {metric.key: metric for metric in METRICS}
RUN_METRICS = tuple(NAMED)  # what evaluate computes for each run
CHOOSING = tuple(metric.key for metric in METRICS if metric.chooses)  # what evaluate.metric takes
HIGHER_IS_BETTER = frozenset(metric.key for metric in METRICS if metric.higher_is_better)
TESTED = tuple(metric for metric in METRICS if metric.of_rows)
WITH_ERROR = tuple(metric.key for metric in TESTED if metric.terms)  # those that have a standard error
FINAL = tuple(metric.on("final") for metric in TESTED)  # the champion's alone, on rows that nothing else saw
NESTED = tuple(metric.on("nested") for metric in TESTED)  # what choosing it reaches on rows that it was not chosen by
COST = "nested/cost"  # by how much the one that chose is worse than the champion's


def as_loss(key: str, value: object) -> float:
    """Turn a metric's value into a loss, the smaller the better; infinity if it is no finite number."""
    return of_loss(key, value) if isinstance(value, int | float) and math.isfinite(value) else math.inf


def of_loss(key: str, loss: float) -> float:
    """Turn a loss from `as_loss` back into the metric's value; infinity becomes the worst value."""
    return -loss if NAMED[key].higher_is_better else loss


def label(key: str, target: str, words: bool = True) -> str:
    """Name a metric, in words or by its key, with its unit."""
    metric = NAMED[key]
    unit = f" [{metric.unit.format(target=target)}]" if metric.unit else ""
    return (metric.words if words else key) + unit


def summarized(values: Iterable[float]) -> tuple[float, float]:
    """Return the mean and standard deviation over the seeds; NaN where there are too few, or one is not finite."""
    own = list(values)
    if not own or not all(map(math.isfinite, own)):
        return math.nan, math.nan
    return statistics.fmean(own), statistics.stdev(own) if len(own) > 1 else math.nan


def rounded(values: Mapping[str, float]) -> dict[str, float]:
    """Round figures to nine digits, as people read them, and leave out those that are not finite."""
    return {key: float(f"{value:.9g}") for key, value in values.items() if math.isfinite(value)}


def round_to(value: float, unit: float) -> float:
    """Round to the power of ten at or above `unit`, so that smaller errors rarely change a digit."""
    return round(value, -math.ceil(math.log10(unit))) if unit > 0 and math.isfinite(value) else value
