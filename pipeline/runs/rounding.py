"""How far two computations of a run may differ, as other kernels, architectures and torch versions round differently.

An update rounds the weights θ = (W, b) and its gradient, whose terms are as large as 2/n · Σ‖x‖(‖x‖‖θ‖ + |y|), where x
is a row with a 1 for b. A sum of m terms has an error of about √m · U of their size, and the errors of many updates add
up like a random walk (See: Higham and Mary, A New Approach to Probabilistic Rounding Error Analysis, 2019). The
difference d of two computations follows d ← (I − lr·H)d + e, with H the Hessian of the minibatch and e what the update
rounds. Over the minibatches that may be drawn, E[H²] ≼ λ·E[H]; so an update adds to E‖d‖² at most
‖e‖² − lr(2 − lr·λ) · dᵀE[H]d.

Below lr = 2/λ, the largest stable one, that bounds d and the predictions' difference, whose mean square is dᵀE[H]d / 2.
Beyond it, differences grow without bound, and only whether both computations diverged can be compared.

A metric has no bound of its own: it is computed from what the run reached, moved by the bounds on that.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.config.axes import AXES
from pipeline.metrics import NAMED, Metric, Outcome, Rows
from pipeline.runs.records import CURVE, Array, Record, fit_name
from pipeline.runs.run import Run

Float64 = NDArray[np.float64]
U = 2.0**-24  # float32's relative rounding error
MARGIN = 4.0  # standard deviations of a random walk; with 1.0, the largest measured difference was 0.53 of the bound
TINY = float(np.finfo(np.float32).tiny)  # smaller squares are lost
DIGITS = 2e-8  # metrics on both sides are written with nine digits
EXCESS = 1e-11  # excess_mse is rounded to at most a tenth of this fraction of its terms
COVERED = frozenset({"batch_size", "lr", "epochs", "init", "seed"})  # axes of which the bounds hold for any value
FLOAT64 = 1e-13  # of the targets: how far predictions from the same weights may differ


@dataclass(frozen=True)
class Moments:
    """Moments of the rows that a split trains on, as its fit sees them.

    rows: their number n. hessian: 2/n · Σxxᵀ (k + 1, k + 1). longest: the largest ‖x‖². square, cross, target: the
    means of ‖x‖², ‖x‖|y| and y².
    """

    rows: int
    hessian: Float64
    longest: float
    square: float
    cross: float
    target: float

    @classmethod
    def of(cls, x: Float64, y: Float64) -> "Moments":
        """Compute the moments of x (n, k + 1), float64, and y (n,)."""
        n, square = len(x), (x**2).sum(axis=1)
        means = float(square.mean()), float((np.sqrt(square) * np.abs(y)).mean()), float((y**2).mean())
        return cls(n, 2 / n * x.T @ x, float(square.max()), *means)

    def apart(self, difference: Float64) -> float:
        """Return the root mean square difference of two θ's predictions, given the difference of the θ (k + 1,)."""
        return math.sqrt(max(0.0, float(difference @ self.hessian @ difference) / 2))

    def curvature(self, minibatch: int) -> float:
        """Return λ with E[H²] ≼ λ·E[H] over minibatches drawn without replacement, including a short last one."""
        whole, rest = divmod(self.rows, minibatch)
        sizes = [minibatch] * whole + [rest] * (rest > 0)
        chance = sum((self.rows - m) / m for m in sizes) / (len(sizes) * max(1, self.rows - 1))
        return chance * 2 * self.longest + (1 - chance) * float(np.linalg.eigvalsh(self.hessian)[-1])


Reached = Callable[[Record], Outcome]
Table = list[Moments]  # of each split's training rows


def table(prepared: Mapping[str, NDArray[np.generic]]) -> Table:
    """Compute the moments of each split's training rows from the tensors that prepare wrote."""
    y = prepared["y"].astype(np.float64)[:, 0]
    moments: Table = []
    for train, mean, scale in zip(prepared["train"].astype(bool), prepared["mean"], prepared["scale"], strict=True):
        X = np.asarray((prepared["X"] - mean) / scale, dtype=np.float64)  # float32 until here, as in training
        moments.append(Moments.of(np.hstack([X, np.ones((len(X), 1))])[train], y[train]))
    return moments


def largest_stable_lr(run: Run, table: Table) -> float:
    """Return the learning rate beyond which rounding grows without bound in one of a run's fits."""
    return 2 / max(train.curvature(run.minibatch(train.rows)) for train in table)


@dataclass(frozen=True)
class Bounds:
    """The differences that rounding explains in one split's fit, whose lr is stable.

    each: ‖e‖. forward: of a loss's predictions, root mean square. terms: the size of a gradient's terms.
    gradient: of the gradient on all rows, 2-norm. pull: lr(2 − lr·λ). slowest: pull · the smallest eigenvalue of E[H].
    length: the root mean square of ‖x‖.
    """

    each: float
    forward: float
    terms: float
    gradient: float
    pull: float
    slowest: float
    length: float

    @classmethod
    def of(cls, run: Run, rows: Moments, weights: Float64) -> "Bounds":
        """Compute the bounds for the fit that ended with θ (k + 1,), float64."""
        # The largest ‖θ‖ during training.
        size = max(float(np.linalg.norm(weights)), 1.0 if run.init == "default" else 0.0)
        k1, m = len(weights), run.minibatch(rows.rows)
        terms = 2 * (size * rows.square + rows.cross)
        predicted = math.sqrt(size**2 * rows.square + 2 * size * rows.cross + rows.target)
        pull = run.lr * (2 - run.lr * rows.curvature(m))
        return cls(
            each=MARGIN * U * (size + run.lr * math.sqrt(k1 + m) * terms) + TINY,
            forward=MARGIN * U * math.sqrt(k1) * predicted,
            terms=terms,
            gradient=MARGIN * U * math.sqrt(k1 + rows.rows) * terms + TINY,
            pull=pull,
            slowest=pull * max(0.0, float(np.linalg.eigvalsh(rows.hessian)[0])),
            length=math.sqrt(rows.square),
        )

    def weights(self, updates: int) -> float:
        """Bound the 2-norm of the weights' difference after `updates` updates."""
        return self.each * math.sqrt(min(updates, 1 / self.slowest) if self.slowest > 0 else updates)

    def predictions(self, updates: int) -> float:
        """Bound the root mean square difference of the predictions for the training rows."""
        return min(self.each / math.sqrt(2 * self.pull), self.weights(updates) * self.length)


@dataclass(frozen=True)
class Agreement:
    """The result of comparing a run with its record from elsewhere.

    beyond: differences that rounding does not explain. largest: the largest difference, relative to the largest number
    of its kind. unbounded: why only divergence is compared; empty if everything is compared.
    """

    beyond: list[str]
    largest: float = 0.0
    unbounded: str = ""


def compare(
    made: Record,
    table: Table,
    diverged: bool,
    tensors: Mapping[str, Array],
    points: Mapping[int, float],
    metrics: Mapping[str, float],
    reached: Reached | None = None,
) -> Agreement:
    """Compare a run made here with its record.

    Args:
        made: the run; the bounds follow from it alone, so that no record can widen them.
        table: of the data on which the run was trained.
        diverged: on record, whether the run diverged.
        tensors: on record.
        points: on record, step -> train/mse; each step is one of the run's epochs.
        metrics: on record; each is also in `made.metrics`.
        reached: computes what a run reached, from which the bounds on metrics follow; needed if there are metrics.

    Raises:
        ValueError: there are metrics, and no `reached`.
    """
    if diverged != bool(made.diverged):
        return Agreement([f"diverged: {'yes' if diverged else 'no'} on record, {made.diverged or 'no'} now"])
    if {name: one.shape for name, one in tensors.items()} != {name: one.shape for name, one in made.tensors.items()}:
        return Agreement(["its weights are missing, or have other names or shapes"])
    if why := unbounded(made, table):
        return Agreement([], unbounded=why)
    with np.errstate(invalid="ignore", over="ignore"):
        found = [*differences(made, table, tensors, points, metrics, reached)]
        beyond = [
            f"{what}: differs by {difference:.3g}, and rounding explains {explained:.2g}"
            for what, difference, explained in found
            if not difference <= explained  # also for NaN
        ]
        return Agreement(beyond, largest(made, table, tensors, points, metrics))


def unbounded(made: Record, table: Table) -> str:
    """Say why no bound on rounding is known for a run; empty if one is known."""
    if made.diverged:
        return "it diverged"
    if not {"W", "b"} <= made.tensors.keys():
        return f"{made.run.variant} is not linear, and no bound on its rounding is known"
    if why := unlike_plain(made.run):
        return f"no bound on the rounding of {why} is known"
    if made.left:
        return "it left early, and rounding may decide when"
    limit = largest_stable_lr(made.run, table)
    return f"lr {made.run.lr} is beyond the largest stable one, {limit:.3g}" if made.run.lr >= limit else ""


def unlike_plain(run: Run) -> str:
    """Name what a run has other than plain gradient descent on mse, for which the bounds hold; empty if nothing."""
    values = [(axis, getattr(run, axis.name)) for axis in AXES if axis.name not in COVERED]
    return ", ".join(f"{axis.words[0]} {value}" for axis, value in values if value != axis.default)


def differences(
    made: Record,
    table: Table,
    tensors: Mapping[str, Array],
    points: Mapping[int, float],
    metrics: Mapping[str, float],
    reached: Reached | None,
) -> Iterator[tuple[str, float, float]]:
    """Yield the name of each comparison, the difference, and the most that rounding explains; as `compare` says."""
    run, theta = made.run, parameters(made.tensors)
    apart = parameters(tensors) - theta  # (S, k + 1)
    bounds = [Bounds.of(run, train, weights) for train, weights in zip(table, theta, strict=True)]
    steps = [-(-train.rows // run.minibatch(train.rows)) for train in table]  # updates an epoch
    for split, (bound, train) in enumerate(zip(bounds, table, strict=True)):
        name, updates = fit_name(split), steps[split] * run.epochs
        yield f"W, b: {name}: their norm", float(np.linalg.norm(apart[split])), bound.weights(updates)
        yield f"W, b: {name}: what they predict", train.apart(apart[split]), bound.predictions(updates)
    for name in ("mean", "scale"):
        yield name, float(np.abs(tensors[name] - made.tensors[name]).max()), 0.0
    rows, first = table[0], bounds[0]
    # What the weights' difference does not explain.
    own = gradient(tensors) - gradient(made.tensors) - rows.hessian @ apart[0]
    yield "grad_W, grad_b: their norm", float(np.linalg.norm(own)), first.gradient

    def explained(step: int) -> float:
        mse = float(made.curve[step])
        p = first.predictions(steps[0] * (step + 1)) + first.forward
        apart = 2 * math.sqrt(mse) * p + p**2  # of two mean squared errors whose predictions differ by p
        return apart + MARGIN * U * math.sqrt(run.minibatch(rows.rows)) * mse + TINY

    for step, value in points.items():
        yield f"{CURVE}: step {step}", abs(value - float(made.curve[step])), explained(step)
    if metrics and reached is None:
        raise ValueError("metrics are compared by what a run reached")
    if reached:
        yield from figures(made, tensors, metrics, reached, explained(run.epochs - 1))


def figures(
    made: Record, tensors: Mapping[str, Array], metrics: Mapping[str, float], reached: Reached, loss: float
) -> Iterator[tuple[str, float, float]]:
    """Yield what `differences` yields of metrics, if the last loss may differ by `loss`."""
    end = reached(made)
    moves = moved(end, reached(replace(made, tensors=tensors)), loss)
    for key, value in metrics.items():
        now = made.metrics[key]
        # A difference may reach the bound itself.
        yield key, abs(value - now), 2 * largest_change(NAMED[key], end, moves) + DIGITS * abs(now)


def moved(reached: Outcome, on_record: Outcome, loss: float) -> list[list[Outcome]]:
    """Move each quantity in what a run reached by as much as rounding explains: the last loss by at most `loss`.

    How far predictions are from those of the weights on record is compared elsewhere.
    """
    rows, gradient = reached.trained, reached.gradient
    optimum = EXCESS * max(rows.mse, float((rows.y**2).mean()))
    slope = MARGIN * U * math.sqrt(len(gradient.size) + len(rows.y)) * gradient.size
    slope *= signs(gradient.autograd - gradient.formula)
    return [
        [replace(reached, tested=one) for one in around(reached.tested, on_record.tested)],
        [replace(reached, trained=one) for one in around(rows, on_record.trained)],
        [replace(reached, loss=reached.loss + one) for one in (loss, -loss)],
        [replace(reached, optimum=reached.optimum + one) for one in (optimum, -optimum)],
        [replace(reached, gradient=replace(gradient, autograd=gradient.autograd + one)) for one in (slope, -slope)],
    ]


def around(rows: Rows, on_record: Rows) -> list[Rows]:
    """Move predictions by p, the root mean square of their difference from those on record, in three directions.

    Along their errors, which changes the mean squared error most, by 2p√mse + p²; along the signs of their errors,
    which changes the mean absolute error most, by p; and along their difference from those on record.
    """
    if not len(rows.y):
        return []
    apart = on_record.y_pred - rows.y_pred
    p = root_mean_square(apart) + FLOAT64 * root_mean_square(rows.y)
    size = root_mean_square(rows.error)
    along = rows.error / size if size > 0 else signs(rows.error)
    moves = (p * along, p * signs(rows.error), apart)
    return [replace(rows, y_pred=rows.y_pred + sign * one) for one in moves for sign in (1, -1)]


def root_mean_square(values: Float64) -> float:
    """Return √mean(values²)."""
    return math.sqrt(float((values**2).mean()))


def signs(values: Float64) -> Float64:
    """Return 1 where a value is at least 0, and -1 elsewhere."""
    return np.where(values >= 0, 1.0, -1.0)


def largest_change(metric: Metric, reached: Outcome, moves: Sequence[Sequence[Outcome]]) -> float:
    """Return the most that a metric changes where each quantity moves; the changes by several quantities add up."""
    value = metric.value(reached)
    changes = [[abs(metric.value(one) - value) for one in own] for own in moves]
    return sum(max(filter(math.isfinite, own), default=0.0) for own in changes)


def parameters(tensors: Mapping[str, Array]) -> Float64:
    """Join W (S, k, 1) and b (S, 1) to (S, k + 1), float64."""
    return np.hstack([tensors["W"][..., 0], tensors["b"]]).astype(np.float64)


def gradient(tensors: Mapping[str, Array]) -> Float64:
    """Join grad_W (k, 1) and grad_b (1,) to (k + 1,), float64."""
    return np.append(tensors["grad_W"], tensors["grad_b"]).astype(np.float64)


def largest(
    made: Record, table: Table, tensors: Mapping[str, Array], points: Mapping[int, float], metrics: Mapping[str, float]
) -> float:
    """Find the largest difference in weights, gradient and curve, relative to the largest number of its kind.

    Metrics follow from these; if these are the same, return the largest difference of a metric, relative to itself.
    """
    theta = parameters(made.tensors)
    terms = Bounds.of(made.run, table[0], theta[0]).terms
    curve = np.array([[value, made.curve[step]] for step, value in points.items()], dtype=np.float64).reshape(-1, 2)
    pairs = [
        (parameters(tensors) - theta, theta),
        (gradient(tensors) - gradient(made.tensors), np.array(terms)),
        (curve[:, 0] - curve[:, 1], curve[:, 1]),
    ]
    found = max(float(np.abs(d).max() / max(np.abs(size).max(), TINY)) for d, size in pairs if d.size)
    return found or max(
        (abs(v / made.metrics[key] - 1) for key, v in metrics.items() if made.metrics[key]), default=0.0
    )
