"""How far the best figure may be trusted: against closed forms, plain loops and counts by hand."""

import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_evaluate import Tensors, leave_one_out, prepared, random_data, seen, trained

from pipeline import prepare
from pipeline.config.params import Split, check
from pipeline.config.yaml import parse
from pipeline.errors import InputError
from pipeline.evaluation import leaderboard, outcome, standard_errors
from pipeline.evaluation.choice import choose, lucky
from pipeline.runs.records import Record
from pipeline.runs.run import Run
from pipeline.table.prepared import Prepared

PARAMS = (Path(__file__).parents[2] / "params.yaml").read_text(encoding="utf-8")


def run(name: str, lr: float = 1e-5, batch_size: Any = "full", seed: int = 1) -> Run:  # noqa: ANN401
    return Run("matrix", batch_size, lr, seed, 2, "zeros", "cpu", name)


def drawn(data: Tensors, seed: int, one: Run) -> Record:
    random = np.random.default_rng(seed)
    splits, k = len(data["train"]), data["X"].shape[1]
    return trained(data, random.normal(size=(splits, k)), random.normal(size=splits), one)


def test_the_standard_error_is_that_of_the_folds_errors_each_the_mean_over_the_seeds() -> None:
    data = random_data(standardize=True)  # 4 folds of 10 rows
    pair = [drawn(data, seed, run(f"f{seed}", seed=seed)) for seed in (1, 2)]
    folds = []
    for split in range(1, 5):
        test = ~data["train"][split]
        errors = []
        for one in pair:
            W, b = one.tensors["W"][split, :, 0].astype(np.float64), float(one.tensors["b"][split, 0])
            errors += [(x @ W + b - y) ** 2 for x, y in zip(seen(data, split)[test], data["y"][test, 0], strict=True)]
        folds.append(statistics.fmean(errors))
    found = standard_errors.compute({"a": pair}, Prepared(**data))
    assert (found.rows, found.folds) == (40, 4)
    assert found.of["a"]["cv/mse"] == pytest.approx(statistics.stdev(folds) / math.sqrt(4))
    assert found.of["a"]["cv/r2"] == pytest.approx(found.of["a"]["cv/mse"] / data["y"].astype(np.float64).var())


@pytest.mark.parametrize("split", ["holdout", "leave-one-out"])
def test_without_folds_of_several_rows_each_tested_row_counts_as_one(split: str) -> None:
    X = np.random.default_rng(3).normal(size=(8, 2))
    train = np.array([[True] * 5 + [False] * 3]) if split == "holdout" else leave_one_out(8)
    data = prepared(X, X.sum(axis=1), train)
    one = drawn(data, 0, run("f"))
    held = outcome.out_of_sample(outcome.predictions(one, Prepared(**data)), ~train)[:, 0] - data["y"][:, 0]
    off = [abs(value) for value in held.tolist() if not math.isnan(value)]
    found = standard_errors.compute({"a": [one]}, Prepared(**data))
    assert (found.rows, found.folds) == ((3, 1) if split == "holdout" else (8, 8))
    assert found.of["a"]["cv/mae"] == pytest.approx(statistics.stdev(off) / math.sqrt(len(off)))


def test_the_champion_is_the_least_trained_within_one_standard_error_of_the_best() -> None:
    data = random_data()
    named = {"best": (3.0, 1e-3), "least": (3.9, 1e-5), "less": (3.2, 1e-4), "beyond": (4.1, 1e-9)}
    runs = {run(name, lr).configuration: run(name, lr) for name, (_, lr) in named.items()}
    curve = np.zeros(2, dtype=np.float32)
    evaluated = [Record(one, "", curve, {}, {"cv/mse": named[one.fingerprint][0]}) for one in runs.values()]
    errors = standard_errors.Errors(40, 4, {name: {"cv/mse": 1.0} for name in runs})
    board = leaderboard.rank(evaluated, "cv/mse", errors)
    lrs = {rule: list(choose(board, runs, "cv/mse", rule, len(data["y"]))["lr"]) for rule in ("best", "one_se")}
    assert lrs == {"best": [1e-3, 1e-4, 1e-5, 1e-9], "one_se": [1e-5, 1e-3, 1e-4, 1e-9]}


def test_one_se_needs_a_metric_of_tested_rows() -> None:
    values: Any = parse(PARAMS, "params.yaml")
    values["evaluate"] |= {"choose": "one_se", "metric": "excess_mse"}
    with pytest.raises(InputError, match=r"evaluate\.choose: got 'one_se' for excess_mse, takes best, or"):
        check(values)


@pytest.mark.parametrize(
    ("configurations", "rows", "told"), [(50, 5, False), (51, 5, True), (11, 1, True), (9, 0, False)]
)
def test_more_than_ten_configurations_a_tested_row_are_told(configurations: int, rows: int, told: bool) -> None:
    said = lucky(configurations, rows)
    assert bool(said) == told
    assert not told or said.startswith(f"{configurations} configurations are compared on {rows} tested row")


@pytest.mark.parametrize("method", ["kfold", "holdout"])
def test_no_split_trains_or_tests_on_final_rows_which_do_not_depend_on_the_folds(method: Any) -> None:  # noqa: ANN401
    settings = Split(method=method, folds=4, test_fraction=0.25, seed=3, final_test=0.2)
    final, train = prepare.final(40, settings), prepare.split(40, settings)
    assert final.sum() == 8
    assert not train[:, final].any()
    none = np.zeros(1, dtype=np.float32)
    whole = Prepared(none, none, train, none, none, final=final)
    tested = whole.tested
    assert not tested[:, final].any()
    assert tested.sum() == (32 if method == "kfold" else 8)
    other = Split(method="kfold", folds=5, test_fraction=0.5, seed=3, final_test=0.2)
    assert (prepare.final(40, other) == final).all()


@pytest.mark.parametrize(("fraction", "says"), [(0.01, "keeps 0 of 5 rows"), (0.9, "keeps 4 of 5 rows")])
def test_a_final_test_of_no_row_or_of_nearly_all_is_refused(fraction: float, says: str) -> None:
    with pytest.raises(InputError, match=says):
        prepare.split(5, Split(method="kfold", folds=2, test_fraction=0.2, seed=0, final_test=fraction))


def test_the_champion_s_final_figures_are_those_of_its_fit_on_all_training_rows() -> None:
    data = random_data()
    final = np.zeros(40, dtype=bool)
    final[:6] = True
    data = data | {"train": data["train"] & ~final, "final": final}
    one = drawn(data, 0, run("f"))
    off = seen(data, 0)[final] @ one.tensors["W"][0, :, 0].astype(np.float64) + one.tensors["b"][0, 0]
    off -= data["y"][final, 0]
    found = outcome.final([one], Prepared(**data))
    assert found["final/mse"] == pytest.approx(float((off**2).mean()))
    assert found["final/mae"] == pytest.approx(float(np.abs(off).mean()))
    assert outcome.final([one], Prepared(**random_data())) == {}
