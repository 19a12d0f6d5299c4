"""How far two computations of a run may differ: other kernels, architectures or torch versions round differently.

An update rounds the weights θ = (W, b) and its gradient, whose terms are as large as 2/n · Σ‖x‖(‖x‖‖θ‖ + |y|), where x
is a row with a 1 for b. A sum of m terms has an error of about √m · U of their size, and the errors of many updates add
up like a random walk (See: Higham and Mary, A New Approach to Probabilistic Rounding Error Analysis, 2019). The
difference d of two computations follows d ← (I − lr·H)d + e, with H the Hessian of the minibatch and e what the update
rounds. Over the minibatches that may be drawn, E[H²] ≼ λ·E[H]; so an update adds to E‖d‖² at most
‖e‖² − lr(2 − lr·λ) · dᵀE[H]d.

Below lr = 2/λ, the largest stable one, that bounds d and the predictions' difference, whose mean square is dᵀE[H]d / 2.
Beyond it rounding grows without bound, and only whether both computations diverged can be compared.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.runs.records import CURVE, Array, Record
from pipeline.runs.run import Run

Float64 = NDArray[np.float64]
U = 2.0**-24  # float32's relative rounding error
MARGIN = 4.0  # standard deviations of a random walk; with 1.0, the largest measured difference was 0.53 of the bound
TINY = float(np.finfo(np.float32).tiny)  # smaller squares are lost
DIGITS = 2e-8  # metrics on both sides are written with nine digits
EXCESS = 1e-11  # excess_mse is rounded to at most a tenth of this fraction of its terms


@dataclass(frozen=True)
class Moments:
    """What the bounds need to know about the rows that a split trains or tests on, as its fit sees them.

    rows: their number n. hessian: 2/n · Σxxᵀ (k + 1, k + 1). moment: 2/n · Σxy (k + 1,). longest: the largest ‖x‖².
    square, cross, target: the means of ‖x‖², ‖x‖|y| and y².
    """

    rows: int
    hessian: Float64
    moment: Float64
    longest: float
    square: float
    cross: float
    target: float

    @classmethod
    def of(cls, x: Float64, y: Float64) -> "Moments":
        """Compute the moments of x (n, k + 1), float64, and y (n,)."""
        n, square = len(x), (x**2).sum(axis=1)
        means = float(square.mean()), float((np.sqrt(square) * np.abs(y)).mean()), float((y**2).mean())
        return cls(n, 2 / n * x.T @ x, 2 / n * x.T @ y, float(square.max()), *means)

    def mse(self, weights: Float64) -> float:
        """Return the mean squared error of θ (k + 1,)."""
        return max(0.0, float(weights @ (self.hessian @ weights / 2 - self.moment)) + self.target)

    def apart(self, difference: Float64) -> float:
        """Return the root mean square difference of two θ's predictions, given the difference of the θ (k + 1,)."""
        return math.sqrt(max(0.0, float(difference @ self.hessian @ difference) / 2))

    def minibatch(self, run: Run) -> int:
        """Return the number of rows in a run's minibatch."""
        return self.rows if run.batch_size == "full" else min(run.batch_size, self.rows)

    def curvature(self, minibatch: int) -> float:
        """Return λ with E[H²] ≼ λ·E[H] over minibatches drawn without replacement, including a short last one."""
        whole, rest = divmod(self.rows, minibatch)
        sizes = [minibatch] * whole + [rest] * (rest > 0)
        chance = sum((self.rows - m) / m for m in sizes) / (len(sizes) * max(1, self.rows - 1))
        return chance * 2 * self.longest + (1 - chance) * float(np.linalg.eigvalsh(self.hessian)[-1])


Table = list[tuple[Moments, Moments | None]]


def table(prepared: Mapping[str, NDArray[np.generic]]) -> Table:
    """Compute the moments of each split's training rows and test rows from the tensors that prepare wrote."""
    y = prepared["y"].astype(np.float64)[:, 0]
    final = prepared.get("final", np.zeros(len(y), dtype=bool)).astype(bool)
    moments: Table = []
    for train, mean, scale in zip(prepared["train"].astype(bool), prepared["mean"], prepared["scale"], strict=True):
        X = np.asarray((prepared["X"] - mean) / scale, dtype=np.float64)  # float32 until here, as in training
        x = np.hstack([X, np.ones((len(X), 1))])
        tested = ~train & ~final
        moments.append((Moments.of(x[train], y[train]), Moments.of(x[tested], y[tested]) if tested.any() else None))
    return moments


def largest_stable_lr(run: Run, table: Table) -> float:
    """Return the learning rate beyond which rounding grows without bound in one of a run's fits."""
    return 2 / max(train.curvature(train.minibatch(run)) for train, _ in table)


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
        k1, m = len(weights), rows.minibatch(run)
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
    of its kind. unbounded: why only divergence is compared; empty if everything is.
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
) -> Agreement:
    """Compare a run made here with its record.

    Args:
        made: the run; the bounds follow from it alone, so that no record can widen them.
        table: of the data that the run was trained on.
        diverged: on record, whether the run diverged.
        tensors: on record.
        points: on record, step -> train/mse; each step is one of the run's epochs.
        metrics: on record; each is also in `made.metrics`.
    """
    if diverged != bool(made.diverged):
        return Agreement([f"diverged: {'yes' if diverged else 'no'} on record, {made.diverged or 'no'} now"])
    if {name: one.shape for name, one in tensors.items()} != {name: one.shape for name, one in made.tensors.items()}:
        return Agreement(["its weights are missing, or have other names or shapes"])
    if why := unbounded(made, table):
        return Agreement([], unbounded=why)
    with np.errstate(invalid="ignore", over="ignore"):
        found = [*differences(made, table, tensors, points, metrics)]
        beyond = [
            f"{what}: differs by {difference:.3g}, and rounding explains {explained:.2g}"
            for what, difference, explained in found
            if not difference <= explained  # also for NaN
        ]
        return Agreement(beyond, largest(made, table, tensors, points, metrics))


def unbounded(made: Record, table: Table) -> str:
    """Say why no bound on rounding is known for a run; empty if one is."""
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
    """Name what sets a run apart from plain gradient descent on mse, of which the bounds are; empty if nothing does."""
    plain = {"optimizer": "sgd", "schedule": "constant", "loss": "mse", "weight_decay": 0.0}
    found = {name: getattr(run, name) for name, usual in plain.items() if getattr(run, name) != usual}
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in found.items())


def differences(
    made: Record, table: Table, tensors: Mapping[str, Array], points: Mapping[int, float], metrics: Mapping[str, float]
) -> Iterator[tuple[str, float, float]]:
    """Yield the name of each comparison, the difference, and the most that rounding explains."""
    run, theta = made.run, parameters(made.tensors)
    apart = parameters(tensors) - theta  # (S, k + 1)
    bounds = [Bounds.of(run, train, weights) for (train, _), weights in zip(table, theta, strict=True)]
    steps = [-(-train.rows // train.minibatch(run)) for train, _ in table]  # updates an epoch
    for split, (bound, (train, _)) in enumerate(zip(bounds, table, strict=True)):
        name, updates = f"fold {split}" if split else "all training rows", steps[split] * run.epochs
        yield f"W, b: {name}: their norm", float(np.linalg.norm(apart[split])), bound.weights(updates)
        yield f"W, b: {name}: what they predict", train.apart(apart[split]), bound.predictions(updates)
    for name in ("mean", "scale"):
        yield name, float(np.abs(tensors[name] - made.tensors[name]).max()), 0.0
    rows, first = table[0][0], bounds[0]
    # What the weights' difference does not explain.
    own = gradient(tensors) - gradient(made.tensors) - rows.hessian @ apart[0]
    yield "grad_W, grad_b: their norm", float(np.linalg.norm(own)), first.gradient

    def explained(step: int) -> float:
        mse = float(made.curve[step])
        p = first.predictions(steps[0] * (step + 1)) + first.forward
        return squares(mse, p) + MARGIN * U * math.sqrt(rows.minibatch(run)) * mse + TINY

    for step, value in points.items():
        yield f"{CURVE}: step {step}", abs(value - float(made.curve[step])), explained(step)
    if metrics:
        scored = cross_validated(made, table, apart)
        mse = rows.mse(theta[0])
        scored["excess_mse"] = squares(mse, rows.apart(apart[0])) + EXCESS * max(mse, rows.target)
        scored["grad_error"] = MARGIN * U * math.sqrt(theta.shape[1] + rows.rows)
        scored[CURVE] = explained(run.epochs - 1)
        for key, value in metrics.items():
            now = made.metrics[key]
            yield key, abs(value - now), 2 * scored[key] + DIGITS * abs(now)  # a difference may reach the bound itself


def cross_validated(made: Record, table: Table, apart: Float64) -> dict[str, float]:
    """Bound the cv metrics, given the difference of the two weights `apart` (S, k + 1)."""
    tested = [(rows, rows.apart(difference)) for (_, rows), difference in zip(table, apart, strict=True) if rows]
    count = sum(rows.rows for rows, _ in tested)
    if not count:
        return {}
    p = math.sqrt(sum(rows.rows * one**2 for rows, one in tested) / count)
    mean = sum(rows.rows * rows.moment[-1] / 2 for rows, _ in tested) / count
    spread = sum(rows.rows * rows.target for rows, _ in tested) / count - mean**2
    mse = squares(made.metrics.get("cv/mse", 0.0), p)
    return {"cv/mse": mse, "cv/mae": p, "cv/r2": mse / spread + DIGITS if spread > 0 else math.inf}


def squares(mse: float, p: float) -> float:
    """Bound the difference of two mean squared errors whose predictions differ by p, root mean square."""
    return 2 * math.sqrt(mse) * p + p**2


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
    terms = Bounds.of(made.run, table[0][0], theta[0]).terms
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
