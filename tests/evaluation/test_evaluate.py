"""The figures of a run against closed forms and scikit-learn's, and how configurations are put in order."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LinearRegression  # type: ignore[import-untyped]
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score  # type: ignore[import-untyped]

from pipeline import evaluate
from pipeline.evaluation import outcome
from pipeline.evaluation.leaderboard import rank as leaderboard
from pipeline.evaluation.leaderboard import summary
from pipeline.metrics import RUN_METRICS
from pipeline.runs.records import Record
from pipeline.runs.run import Run
from pipeline.table.prepared import Prepared

Tensors = dict[str, NDArray[Any]]
SCORES = np.loadtxt(Path(__file__).parents[2] / "data/raw/scores.csv", delimiter=",", skiprows=1)
OPTIMUM_W, OPTIMUM_B = [0.795475, 0.408379, 0.754588], 4.402110  # of the five rows: seed-figures.md


def prepared(X: NDArray[Any], y: NDArray[Any], train: NDArray[np.bool_], standardize: bool = False) -> Tensors:
    mean, scale = np.zeros((len(train), X.shape[1])), np.ones((len(train), X.shape[1]))
    if standardize:
        mean, scale = (np.stack([f(X[rows], axis=0) for rows in train]) for f in (np.mean, np.std))
    single = {"X": X, "y": y.reshape(-1, 1), "mean": mean, "scale": scale}
    return {name: value.astype(np.float32) for name, value in single.items()} | {"train": train}


def leave_one_out(n: int) -> NDArray[np.bool_]:
    return np.vstack([np.ones((1, n)), 1 - np.eye(n)]).astype(bool)


def random_data(n: int = 40, k: int = 3, folds: int = 4, standardize: bool = False) -> Tensors:
    random = np.random.default_rng(0)
    fold = random.permutation(n) % folds
    train = np.stack([np.ones(n, dtype=bool), *(fold != f for f in range(folds))])
    X = random.normal(5, 3, size=(n, k))
    return prepared(X, X @ np.arange(k) + random.normal(size=n), train, standardize)


def figures(record: Record, data: Tensors) -> dict[str, float]:
    return outcome.metrics(record, Prepared(**data))


def seen(data: Tensors, split: int) -> NDArray[np.float64]:
    """Return X as a split's runs see it."""
    X: NDArray[np.float64] = ((data["X"] - data["mean"][split]) / data["scale"][split]).astype(np.float64)
    return X


def trained(
    data: Tensors,
    W: NDArray[Any],
    b: NDArray[Any],
    run: Run | None = None,
    diverged: str = "",
    error: float = 0,
) -> Record:
    """Return a record of weights W (S, k), b (S,), its gradient off by `error` relative."""
    X, y, rows = seen(data, 0), data["y"].astype(np.float64), data["train"][0]
    tensors = {"W": W[:, :, None].astype(np.float32), "b": b[:, None].astype(np.float32)}
    residual = (X @ tensors["W"][0].astype(np.float64) + tensors["b"][0] - y)[rows]
    tensors["grad_W"] = ((1 + error) * 2 / len(residual) * X[rows].T @ residual).astype(np.float32)
    tensors["grad_b"] = ((1 + error) * 2 * residual.mean(axis=0)).astype(np.float32)
    curve = np.array([9, (residual**2).mean()], dtype=np.float32)
    return Record(run or Run("matrix", 2, 1e-5, 1, 2, "zeros", "cpu", "f"), diverged, curve, tensors)


def least_squares(data: Tensors) -> Record:
    """Return a record whose every split has the weights that are best on its training rows."""
    models = [LinearRegression().fit(seen(data, s)[rows], data["y"][rows, 0]) for s, rows in enumerate(data["train"])]
    return trained(data, np.stack([model.coef_ for model in models]), np.stack([model.intercept_ for model in models]))


def scored(seed: int, metrics: dict[str, float] | None, variant: str = "matrix", lr: float = 1e-5) -> Record:
    """Return a record with an evaluation's figures, or None for a diverged one."""
    run = Run(variant, "full", lr, seed, 2, "zeros", "cpu", f"{variant} {lr} {seed}")
    diverged = "" if metrics is not None else "fold 1, epoch 3"
    return Record(run, diverged, np.zeros(2, dtype=np.float32), {}, metrics or {})


def mse(*values: float | None, **run: Any) -> list[Record]:  # noqa: ANN401
    return [scored(seed, None if value is None else {"cv/mse": value}, **run) for seed, value in enumerate(values)]


def test_the_five_rows_least_squares_figures_are_the_post_s() -> None:
    data = prepared(SCORES[:, :3], SCORES[:, 3], leave_one_out(5))
    assert outcome.least_squares_mse(SCORES[:, :3], SCORES[:, 3:]) == pytest.approx(0.104326, abs=5e-7)
    best = least_squares(data)
    np.testing.assert_allclose(best.tensors["W"][0, :, 0], OPTIMUM_W, atol=1e-6)
    np.testing.assert_allclose(best.tensors["b"][0], OPTIMUM_B, atol=1e-5)
    assert figures(best, data)["cv/mse"] == pytest.approx(3.503010, rel=1e-5)


@pytest.mark.parametrize("standardize", [False, True])
def test_cross_validated_figures_are_scikit_learn_s_on_the_rows_each_fold_left_out(standardize: bool) -> None:
    data = random_data(standardize=standardize)
    random = np.random.default_rng(1)
    W, b = random.normal(size=(5, 3)).astype(np.float32), random.normal(size=5).astype(np.float32)
    y, y_pred = data["y"][:, 0].astype(np.float64), np.full(40, np.nan)
    for split, rows in list(enumerate(data["train"]))[1:]:
        y_pred[~rows] = seen(data, split)[~rows] @ W[split].astype(np.float64) + b[split]
    record = trained(data, W, b)
    assert figures(record, data) == pytest.approx(
        {
            "cv/mse": mean_squared_error(y, y_pred),
            "cv/mae": mean_absolute_error(y, y_pred),
            "cv/r2": r2_score(y, y_pred),
            "train/mse": record.curve[-1],
            "excess_mse": mean_squared_error(y, seen(data, 0) @ W[0] + b[0])
            - mean_squared_error(y, LinearRegression().fit(data["X"], y).predict(data["X"])),
            "grad_error": 0,
        },
        rel=1e-6,
        abs=1e-6,
    )


def test_holdout_figures_are_of_the_rows_held_out() -> None:
    rows = np.arange(40) % 5 != 0
    data = random_data() | {"train": rows[None], "mean": np.full((1, 3), 2, np.float32), "scale": np.ones((1, 3))}
    record, y, X = least_squares(data), data["y"][:, 0], data["X"]
    model = LinearRegression().fit(X[rows], y[rows])
    found = figures(record, data)
    assert found["cv/mse"] == pytest.approx(mean_squared_error(y[~rows], model.predict(X[~rows])), rel=1e-5)
    assert found["cv/mae"] == pytest.approx(mean_absolute_error(y[~rows], model.predict(X[~rows])), rel=1e-5)
    assert found["cv/r2"] == pytest.approx(r2_score(y[~rows], model.predict(X[~rows])), rel=1e-5)
    assert found["excess_mse"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("standardize", [False, True])
def test_excess_is_0_at_the_optimum_and_grows_with_the_distance_from_it(standardize: bool) -> None:
    data = random_data(standardize=standardize)
    best = least_squares(data)
    assert figures(best, data)["excess_mse"] == pytest.approx(0, abs=1e-9)
    for step in (0.5, 2.0):
        moved = trained(data, best.tensors["W"][:, :, 0], best.tensors["b"][:, 0] + step)
        assert figures(moved, data)["excess_mse"] == pytest.approx(step**2, rel=1e-5)


def test_least_squares_copes_with_features_that_say_the_same() -> None:
    X = np.hstack([SCORES[:, :3], SCORES[:, :1], np.ones((5, 1))])
    assert outcome.least_squares_mse(X, SCORES[:, 3:]) == pytest.approx(0.104326, abs=5e-7)


def test_gradient_error_tells_a_right_gradient_from_a_wrong_one() -> None:
    data = random_data()
    W, b = np.full((5, 3), 3.0), np.full(5, 50.0)
    assert figures(trained(data, W, b), data)["grad_error"] < 1e-7
    assert figures(trained(data, W, b, error=0.01), data)["grad_error"] > 1e-3
    assert figures(trained(data, W, b, error=-2), data)["grad_error"] > 0.1


def test_a_target_without_spread_has_no_r2() -> None:
    data = prepared(SCORES[:, :3], np.full(5, 7.0), leave_one_out(5))
    found = figures(trained(data, np.zeros((6, 3)), np.full(6, 6.0)), data)
    assert set(found) == set(RUN_METRICS) - {"cv/r2"}
    assert found["cv/mse"] == 1.0


def test_a_diverged_run_has_no_figures() -> None:
    data = random_data()
    assert figures(trained(data, np.ones((5, 3)), np.ones(5), diverged="fold 2, epoch 7"), data) == {}


def test_the_leaderboard_has_mean_deviation_and_number_over_the_seeds() -> None:
    board = leaderboard([*mse(1.0, 2.0, 6.0), *mse(0.5, None, lr=0.1), *mse(4.0, lr=0.2)], "cv/mse")
    rows = {row["lr"]: row for row in board.to_dict("records")}
    assert [(rows[lr]["runs"], rows[lr]["diverged"]) for lr in (1e-5, 0.1, 0.2)] == [(3, 0), (1, 1), (1, 0)]
    assert rows[1e-5]["cv/mse mean"] == pytest.approx(3.0)
    assert rows[1e-5]["cv/mse std"] == pytest.approx(np.std([1, 2, 6], ddof=1))
    assert math.isnan(float(rows[0.2]["cv/mse std"]))
    assert math.isnan(float(rows[1e-5]["cv/mae mean"]))
    assert rows[1e-5]["configuration"] == "matrix bs=full lr=1e-05 epochs=2"


def order(board: pd.DataFrame) -> list[float]:
    return [float(lr) for lr in board["lr"]]


def test_the_best_mean_comes_first_and_whatever_diverged_last() -> None:
    records = [*mse(5.0, 5.0, lr=0.5), *mse(1.0, None, lr=0.1), *mse(2.0, 3.0, lr=0.2), *mse(None, None, lr=0.9)]
    assert order(leaderboard(records, "cv/mse")) == [0.2, 0.5, 0.1, 0.9]


def test_a_configuration_without_the_figure_stands_below_those_that_have_it() -> None:
    records = [scored(1, {"cv/mae": 1.0}, lr=0.1), *mse(7.0, lr=0.2)]
    assert order(leaderboard(records, "cv/mse")) == [0.2, 0.1]


def test_of_r2_more_is_better() -> None:
    records = [scored(1, {"cv/r2": value}, lr=value) for value in (0.2, 0.9, 0.5)]
    assert order(leaderboard(records, "cv/r2")) == [0.9, 0.5, 0.2]


def test_of_configurations_that_tie_the_one_with_the_smaller_training_loss_comes_first() -> None:
    loud = scored(1, {"cv/mse": 1.0, "train/mse": 7.0}, lr=1e-4)
    quiet = scored(1, {"cv/mse": 1.0, "train/mse": 0.5}, lr=2e-4)
    worse = scored(1, {"cv/mse": 2.0, "train/mse": 0.1}, lr=3e-4)
    assert order(leaderboard([loud, worse, quiet], "cv/mse")) == [2e-4, 1e-4, 3e-4]


def test_configurations_that_tie_stay_in_the_order_of_params() -> None:
    names = ["module", "handwritten", "linear", "matrix"]
    board = leaderboard([record for name in names for record in mse(1.0, 2.0, variant=name)], "cv/mse")
    assert list(board["variant"]) == names


def test_the_summary_names_the_champion_and_counts_the_runs() -> None:
    records = [*mse(5.0, 5.0, lr=0.5), *mse(1.0, None, lr=0.1), *mse(2.0, 3.0, lr=0.2)]
    assert summary(leaderboard(records, "cv/mse"), "cv/mse", {}) == {
        "metric": "cv/mse",
        "champion": {"configuration": "matrix bs=full lr=0.2 epochs=2", "cv/mse": 2.5},
        "runs": 6,
        "diverged": 1,
    }


def test_a_sweep_that_diverged_altogether_has_no_champion() -> None:
    found = summary(leaderboard([*mse(None, None, lr=0.5), *mse(None, lr=0.1)], "cv/mse"), "cv/mse", {})
    assert found == {"metric": "cv/mse", "champion": {}, "runs": 3, "diverged": 3}


def test_outs_of_variants_that_params_no_longer_list_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("matrix", "linear", "cubic"):
        (tmp_path / "data/trained" / name).mkdir(parents=True)
        (tmp_path / "data/trained" / name / "runs.csv").write_text("name\n", encoding="utf-8")
    evaluate.forget_other_variants(["linear", "matrix"])
    assert sorted(path.name for path in (tmp_path / "data/trained").iterdir()) == ["linear", "matrix"]
    assert (tmp_path / "data/trained/matrix/runs.csv").exists()
