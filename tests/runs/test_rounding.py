"""What rounding explains, and nothing more: beside float64, other orders of summation, and closed forms."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline import prepare
from pipeline.config.params import Split
from pipeline.evaluation import outcome
from pipeline.execution.engine import Here
from pipeline.execution.trainer import Trainer
from pipeline.metrics import METRICS, Metric, Rows
from pipeline.runs import rounding
from pipeline.runs.records import CURVE, Record
from pipeline.runs.rounding import Float64, Moments
from pipeline.runs.run import Run
from pipeline.table.prepared import Prepared, identity, standardization
from pipeline.training import minibatches

Tensors = Mapping[str, NDArray[Any]]
VARIANTS = ["handwritten", "matrix", "linear", "module"]


def prepared(n: int, k: int, standardize: bool, centre: float = 2.0) -> Tensors:
    chance = np.random.default_rng(n * k)
    X = chance.normal(centre, 3, size=(n, k)).astype(np.float32)
    y = (X @ chance.normal(size=(k, 1)) + chance.normal(size=(n, 1)) + 5).astype(np.float32)
    rows = prepare.split(n, Split(method="kfold", folds=3, test_fraction=0.2, seed=0))
    mean, scale = standardization(X, rows) if standardize else identity(len(rows), k)
    return {"X": X, "y": y, "train": rows, "mean": mean, "scale": scale}


def trained(tensors: Tensors, variant: str, batch_size: int | str, lr: float, epochs: int, seed: int = 1) -> Record:
    run = Run(variant, batch_size, lr, seed, epochs, "zeros", "cpu", f"{seed}")  # type: ignore[arg-type]
    prepared = Prepared(**tensors)
    [record] = Trainer(prepared, Here(prepared)).train([run])
    return replace(record, metrics=outcome.metrics(record, Prepared(**tensors)))


def in_float64(tensors: Tensors, run: Run) -> Record:
    """Train by a plain loop in float64, rounded once at the end."""
    curves, weights = [], []
    for split, rows in enumerate(tensors["train"]):
        X = ((tensors["X"] - tensors["mean"][split]) / tensors["scale"][split])[rows].astype(np.float64)
        x, y = np.hstack([X, np.ones((len(X), 1))]), tensors["y"][rows].astype(np.float64)[:, 0]
        theta, curve, size = np.zeros(x.shape[1]), [], len(x) if run.batch_size == "full" else run.batch_size
        for epoch in range(run.epochs):
            order = np.arange(len(x)) if size == len(x) else minibatches.permutation(run.seed, epoch, len(x)).numpy()
            loss = 0.0
            for start in range(0, len(x), size):
                rows_now = order[start : start + size]
                error = x[rows_now] @ theta - y[rows_now]
                loss += float(error @ error)
                theta = theta - np.float64(np.float32(run.lr)) * 2 / len(rows_now) * x[rows_now].T @ error
            curve.append(loss / len(x))
        curves.append(curve)
        weights.append(theta)
        if split == 0:
            gradient = 2 / len(x) * x.T @ (x @ theta - y)
    stacked = np.stack(weights)
    arrays = {"W": stacked[:, :-1, None], "b": stacked[:, -1:], "grad_W": gradient[:-1, None], "grad_b": gradient[-1:]}
    arrays |= {"mean": tensors["mean"], "scale": tensors["scale"]}
    record = Record(
        run,
        "",
        np.asarray(curves[0], dtype=np.float32),
        {key: np.asarray(value, dtype=np.float32) for key, value in arrays.items()},
    )
    return replace(record, metrics=outcome.metrics(record, Prepared(**tensors)))


def reached_on(tensors: Tensors) -> rounding.Reached:
    """Return what computes what a run reached on the prepared data."""
    return lambda record: outcome.of(record, Prepared(**tensors))


def used(made: Record, other: Record, tensors: Tensors) -> dict[str, float]:
    """Return, for everything that is compared, the part of what rounding explains that a difference uses up."""
    points = dict(enumerate(other.curve.tolist()))
    table, reached = rounding.table(tensors), reached_on(tensors)
    found = rounding.differences(made, table, other.tensors, points, other.metrics, reached)
    return {what: difference / explained if difference else 0.0 for what, difference, explained in found}


@pytest.mark.parametrize(
    ("n", "k", "batch_size", "epochs", "standardize"),
    [
        (12, 3, 1, 50, False),
        (12, 3, 4, 100, False),
        (12, 3, "full", 200, True),
        (200, 8, "full", 100, False),
        (30, 60, 8, 30, True),
    ],
)
@pytest.mark.parametrize("part", [0.01, 0.9])
def test_a_run_in_float64_and_the_four_variants_agree_within_the_bound_with_room_to_spare(
    n: int, k: int, batch_size: int | str, epochs: int, standardize: bool, part: float
) -> None:
    tensors = prepared(n, k, standardize)
    any_run = Run("matrix", batch_size, 1.0, 1, epochs, "zeros", "cpu", "")  # type: ignore[arg-type]
    lr = part * rounding.largest_stable_lr(any_run, rounding.table(tensors))
    first, *others = [trained(tensors, variant, batch_size, lr, epochs) for variant in VARIANTS]
    for other in (*others, in_float64(tensors, first.run)):
        parts = used(first, other, tensors)
        names = first.metrics.keys()
        assert names <= parts.keys()
        assert max(parts[key] for key in names) < 0.6  # nothing but what follows from the weights' own difference
        assert max(value for key, value in parts.items() if key not in names) < 0.25


@pytest.fixture(scope="module")
def tensors() -> Tensors:
    return prepared(12, 3, standardize=False)


@pytest.fixture(scope="module")
def record(tensors: Tensors) -> Record:
    return trained(tensors, "matrix", 4, 1e-3, 20)


def agreement(made: Record, prepared: Tensors, **on_record: Any) -> rounding.Agreement:  # noqa: ANN401
    points = {step: float(value) for step, value in enumerate(made.curve) if math.isfinite(value)}
    honest: dict[str, Any] = {"diverged": False, "tensors": made.tensors, "points": points, "metrics": made.metrics}
    return rounding.compare(made, rounding.table(prepared), **honest | on_record, reached=reached_on(prepared))


def altered(record: Record, name: str, place: tuple[int, ...], part: float) -> dict[str, NDArray[np.float32]]:
    changed = record.tensors[name].copy()
    changed[place] *= np.float32(1 + part)
    return {**record.tensors, name: changed}


def test_a_record_of_the_same_bits_agrees(record: Record, tensors: Tensors) -> None:
    assert agreement(record, tensors) == rounding.Agreement([], 0.0)


@pytest.mark.parametrize("split", [0, 3])
@pytest.mark.parametrize("weight", [0, 1, 2])
def test_every_weight_may_differ_in_its_last_bits_and_not_by_a_thousandth(
    record: Record, tensors: Tensors, split: int, weight: int
) -> None:
    close = agreement(record, tensors, tensors=altered(record, "W", (split, weight, 0), 2e-7))
    assert close.beyond == []
    assert 1e-8 < close.largest < 4e-7
    [*beyond] = agreement(record, tensors, tensors=altered(record, "W", (split, weight, 0), 1e-3)).beyond
    where = f"fold {split}" if split else "all training rows"
    assert any(one.startswith(f"W, b: {where}:") for one in beyond)


@pytest.mark.parametrize(
    ("forge", "named"),
    [
        (lambda r: {"tensors": altered(r, "grad_W", (1, 0), 1e-2)}, "grad_W, grad_b"),
        (lambda r: {"tensors": altered(r, "scale", (1, 0), 1e-6)}, "scale"),
        (lambda r: {"tensors": altered(r, "W", (0, 0, 0), math.nan)}, "W, b: all training rows"),
        (lambda r: {"tensors": altered(r, "W", (0, 0, 0), 1e30)}, "W, b: all training rows"),
        (lambda r: {"tensors": {**r.tensors, "W": r.tensors["W"][:1]}}, "its weights are missing"),
        (lambda _: {"tensors": {}}, "its weights are missing"),
        (lambda r: {"points": {7: float(r.curve[7]) * 1.001}}, "train/mse: step 7"),
        (lambda _: {"points": {7: math.inf}}, "train/mse: step 7"),
        *((lambda r, key=key: {"metrics": {key: r.metrics[key] * 1.001}}, key) for key in (CURVE, "cv/mse", "cv/mae")),
        *((lambda r, key=key: {"metrics": {key: r.metrics[key] * 1.001}}, key) for key in ("cv/r2", "excess_mse")),
        (lambda _: {"metrics": {"grad_error": 1e-4}}, "grad_error"),
        (lambda _: {"diverged": True}, "diverged: yes on record, no now"),
    ],
)
def test_what_rounding_does_not_explain_is_named(record: Record, tensors: Tensors, forge: Any, named: str) -> None:  # noqa: ANN401
    beyond = agreement(record, tensors, **forge(record)).beyond
    assert beyond
    assert all(one.startswith(named) for one in beyond if not one.startswith("grad_W"))


def test_beyond_the_largest_stable_lr_and_where_it_diverged_only_that_is_compared(
    record: Record, tensors: Tensors
) -> None:
    limit = rounding.largest_stable_lr(record.run, rounding.table(tensors))
    other = altered(record, "W", (0, 0, 0), 1.0)
    steep = replace(record, run=replace(record.run, lr=limit * 1.01))
    assert agreement(steep, tensors, tensors=other).beyond == []
    assert f"beyond the largest stable one, {limit:.3g}" in agreement(steep, tensors, tensors=other).unbounded
    assert agreement(replace(steep, run=replace(steep.run, lr=limit * 0.99)), tensors, tensors=other).beyond
    broken = replace(steep, diverged="all training rows, epoch 3")
    assert agreement(broken, tensors, diverged=True, tensors=other) == rounding.Agreement([], 0.0, "it diverged")
    assert agreement(broken, tensors).beyond == ["diverged: no on record, all training rows, epoch 3 now"]


def hessians(x: Float64, sizes: Sequence[int]) -> list[list[Float64]]:
    """Return, for each size of an epoch's minibatches, the Hessian of every minibatch that may be drawn."""
    return [[2 / m * x[list(rows)].T @ x[list(rows)] for rows in combinations(range(len(x)), m)] for m in sizes]


@pytest.mark.parametrize(("batch_size", "sizes"), [(1, [1]), (2, [2, 2, 2, 1]), (4, [4, 3]), (7, [7])])
def test_the_curvature_bounds_that_of_all_minibatches_that_may_be_drawn(batch_size: int, sizes: Sequence[int]) -> None:
    x = np.random.default_rng(0).normal(1, 2, size=(7, 3))
    drawn = hessians(x, sizes)
    squares = np.mean([np.mean([H @ H for H in of_size], axis=0) for of_size in drawn], axis=0)
    mean = np.mean([np.mean(of_size, axis=0) for of_size in drawn], axis=0)
    exact = float(np.linalg.eigvals(np.linalg.solve(mean, squares)).real.max())
    bound = Moments.of(x, x[:, 0]).curvature(batch_size)
    assert exact <= bound * (1 + 1e-12)
    assert bound < 2 * exact
    if batch_size == 7:
        assert bound == pytest.approx(exact)


@pytest.mark.parametrize(("part", "grows"), [(0.99, False), (1.01, True)])
def test_rounding_grows_from_the_largest_stable_lr_on(tensors: Tensors, part: float, grows: bool) -> None:
    run = Run("matrix", "full", 1.0, 1, 500, "zeros", "cpu", "")
    moments = rounding.table(tensors)
    H = max((train.hessian for train in moments), key=lambda one: float(np.linalg.eigvalsh(one)[-1]))
    d = np.linalg.eigh(H)[1][:, -1]
    for _ in range(500):
        d = d - part * rounding.largest_stable_lr(run, moments) * H @ d
    assert (np.linalg.norm(d) > 1) == grows


WORST = Metric("cv/max_error", "", "", lambda rows: float(np.abs(rows.error).max()))
MEDIAN = Metric("cv/median_error", "", "", lambda rows: float(np.median(np.abs(rows.error))))
MAPE = Metric("cv/mape", "", "", lambda rows: float(np.abs(rows.error / rows.y).mean()))
GAP = Metric("gap", "", "", of_run=lambda outcome: outcome.tested.mse - outcome.trained.mse)


def nudged(record: Record, data: Prepared, size: float, chance: np.random.Generator) -> Record:
    """Move every weight, and the gradient as it follows; both as float64 has them, so that no rounding is added."""
    tensors = {name: record.tensors[name].astype(np.float64) for name in record.tensors}
    for name in ("W", "b"):
        tensors[name] = tensors[name] + size * chance.normal(size=tensors[name].shape)
    rows, X = data.train[0], data.standardized(0).astype(np.float64)[data.train[0]]
    error = X @ tensors["W"][0] + tensors["b"][0] - data.y[rows]
    tensors["grad_W"], tensors["grad_b"] = 2 / len(X) * X.T @ error, 2 * error.mean(axis=0)
    return replace(record, tensors=tensors)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("size", [1e-7, 1e-4, 1e-1])
def test_every_metric_differs_by_no_more_than_its_predictions_explain(seed: int, size: float) -> None:
    chance = np.random.default_rng(seed)
    tensors = prepared(int(chance.integers(6, 60)), int(chance.integers(1, 6)), bool(seed % 2), float(seed % 5))
    data, part = Prepared(**tensors), 10.0 ** -chance.integers(1, 4)
    run = Run("matrix", "full", 1.0, 1, 30, "zeros", "cpu", "")
    lr = part * rounding.largest_stable_lr(run, rounding.table(tensors))
    first = nudged(trained(tensors, "matrix", "full", lr, 30, seed), data, 0.0, chance)
    second = nudged(first, data, size, chance)
    one, other = (outcome.of(record, data) for record in (first, second))
    moves = rounding.moved(one, other, 1e-3)
    other = replace(other, loss=one.loss + float(chance.uniform(-1e-3, 1e-3)))
    for metric in (*METRICS, WORST, MEDIAN, MAPE, GAP):
        bound = 2 * rounding.largest_change(metric, one, moves)
        assert abs(metric.value(other) - metric.value(one)) <= bound, metric.key


@pytest.mark.parametrize("p", [0.0, 1e-6, 1e-2, 10.0])
def test_the_bounds_of_today_s_metrics_are_those_of_closed_forms(record: Record, tensors: Tensors, p: float) -> None:
    reached = outcome.of(record, Prepared(**tensors))
    tested, trained, chance = reached.tested, reached.trained, np.random.default_rng(0)

    def apart(rows: Rows, size: float) -> Rows:
        by = chance.normal(size=len(rows.y))
        return replace(rows, y_pred=rows.y_pred + by * size / math.sqrt(float((by**2).mean())))

    on_record = replace(reached, tested=apart(tested, p), trained=apart(trained, 2 * p))
    moves = rounding.moved(reached, on_record, 0.5)
    square = 2 * math.sqrt(tested.mse) * p + p**2
    optimum = 1e-11 * max(trained.mse, float((trained.y**2).mean()))
    closed = {
        "cv/mse": square,
        "cv/mae": p,
        "cv/r2": square / float(tested.y.var()),
        "train/mse": 0.5,
        "excess_mse": 2 * math.sqrt(trained.mse) * 2 * p + (2 * p) ** 2 + optimum,
        "grad_error": 4 * 2**-24 * math.sqrt(4 + len(trained.y)),
    }
    assert closed.keys() == {metric.key for metric in METRICS}
    for metric in METRICS:
        found, written = rounding.largest_change(metric, reached, moves), 2e-8 * abs(metric.value(reached))
        assert closed[metric.key] * 0.99 <= found <= closed[metric.key] * 1.1 + 0.1 * written, metric.key


def test_metrics_are_not_compared_without_what_a_run_reached(record: Record, tensors: Tensors) -> None:
    with pytest.raises(ValueError, match="what a run reached"):
        rounding.compare(record, rounding.table(tensors), False, record.tensors, {}, record.metrics)
