"""What choosing costs: against nested cross-validation from scratch, in plain loops of PyTorch."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sweeps
import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from pipeline.config.params import Params
from pipeline.errors import InputError
from pipeline.evaluation import leaderboard, nested, outcome
from pipeline.evaluation.choice import costs
from pipeline.execution import checkpoints
from pipeline.execution.checkpoints import Checkpoints
from pipeline.execution.engine import Engine, Here
from pipeline.execution.listener import Listeners
from pipeline.execution.trainer import Trainer, plan
from pipeline.runs.records import Array, Record
from pipeline.runs.run import Run
from pipeline.table.prepared import Prepared, pairs
from pipeline.training import minibatches
from pipeline.training.stacks import Stack

FOLDS = 4
AXES = {"sweep_lr": [0.003, 0.03, 0.1, 30.0], "sweep_batch_size": [3, "full"], "sweep_seed": [1, 2]}
SPLIT = sweeps.SPLIT | {"folds": FOLDS}


def settings(choose: str = "best", metric: str = "cv/mse", **changed: Any) -> Params:  # noqa: ANN401
    own = {"variants": ["matrix"], "data_split": SPLIT, "train_epochs": 8, "train_nested": True, **AXES}
    return sweeps.params(**own | changed, evaluate={"metric": metric, "choose": choose})


def table(standardize: bool, noise: float = 3.0, rows: int = 12, k: int = 3, seed: int = 4) -> Prepared:
    """Return rows in folds, of which the target owes little to the features: which lr is best is mostly chance."""
    chance = torch.Generator().manual_seed(seed)
    X = torch.randn(rows, k, generator=chance) * 2 + 1
    y = X[:, :1] + noise * torch.randn(rows, 1, generator=chance)
    place = torch.arange(rows)
    masks = torch.stack([place >= 0, *(place % FOLDS != fold for fold in range(FOLDS))])
    plain = sweeps.unscaled(X, y, masks)
    if not standardize:
        return plain
    mean = torch.stack([X[own].mean(dim=0) for own in masks]).numpy()
    return replace(plain, mean=mean, scale=torch.stack([X[own].std(dim=0, unbiased=False) for own in masks]).numpy())


def trained(prepared: Prepared, params: Params, engine: Engine | None = None) -> list[Record]:
    made, splits = sweeps.records(prepared, params), len(prepared.train)
    every = prepared.with_pairs(params.data.standardize)
    return Trainer(every, engine or Here(every)).nest(made, splits)


def estimated(made: Sequence[Record], prepared: Prepared, params: Params) -> dict[str, Any]:
    board = leaderboard.ranked(made, prepared, params.evaluate)
    return nested.estimate(made, board, prepared, params.data.standardize, params.evaluate)


def predicted(rows: Tensor, tested: Tensor, prepared: Prepared, run: Run, standardize: bool) -> Tensor | None:
    """Train on some rows as a tutorial would; predict others, or None if that diverges."""
    table, target = torch.from_numpy(prepared.X), torch.from_numpy(prepared.y)
    X, y = table[rows], target[rows]
    mean = X.mean(dim=0) if standardize else torch.zeros(X.shape[1])
    scale = X.std(dim=0, unbiased=False) if standardize else torch.ones(X.shape[1])
    seen = (X - mean) / scale
    W, b = torch.zeros(X.shape[1], 1, requires_grad=True), torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([W, b], lr=run.lr)
    size = len(rows) if run.batch_size == "full" else run.batch_size
    for epoch in range(run.epochs):
        order = minibatches.permutation(run.seed, epoch, len(rows)) if size < len(rows) else torch.arange(len(rows))
        for batch in order.split(size):
            loss = mse_loss(seen[batch] @ W + b, y[batch])
            if not loss.isfinite():
                return None
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return ((table[tested] - mean) / scale @ W + b).detach().double() if W.isfinite().all() else None


def scored(errors: Sequence[Tensor], y: Tensor, metric: str) -> float:
    """Return a loss over folds: the smaller, the better."""
    off = torch.cat(list(errors))
    if metric == "cv/mae":
        return float(off.abs().mean())
    mse = float((off**2).mean())
    return mse if metric == "cv/mse" else mse / float(y.double().var(unbiased=False)) - 1


def from_scratch(prepared: Prepared, params: Params) -> tuple[list[str], dict[str, float]]:
    """Nested cross-validation, every fit trained for itself: what each fold's choice is, and what these reach."""
    rows, every, target = torch.arange(len(prepared.X)), sweeps.records(prepared, params), torch.from_numpy(prepared.y)
    configurations: dict[str, list[Run]] = {}
    for record in every:
        configurations.setdefault(record.run.configuration, []).append(record.run)

    def off(run: Run, test: Tensor, left: Tensor) -> Tensor | None:
        kept = torch.tensor([row for row in rows.tolist() if row not in {*test.tolist(), *left.tolist()}])
        y_pred = predicted(kept, test, prepared, run, params.data.standardize)
        return None if y_pred is None else (y_pred - target[test])[:, 0]

    folds, chosen, reached = [rows[rows % FOLDS == fold] for fold in range(FOLDS)], [], []
    for outer in folds:
        losses, spreads = {}, {}
        inner = [fold for fold in folds if fold is not outer]
        y = target[torch.cat(inner)]
        for name, runs in configurations.items():
            errors = [[off(run, fold, outer) for fold in inner] for run in runs]
            whole = [[one for one in own if one is not None] for own in errors]
            if any(len(own) < len(inner) for own in whole):
                continue
            losses[name] = statistics.fmean(scored(own, y, params.evaluate.metric) for own in whole)
            means = [statistics.fmean(float((own[at] ** 2).mean()) for own in whole) for at in range(len(inner))]
            spreads[name] = statistics.stdev(means) / math.sqrt(len(inner))
        best = min(losses, key=lambda name: losses[name])
        if params.evaluate.choose == "one_se":
            within = [name for name in losses if losses[name] <= losses[best] + spreads[best]]
            rest = len(rows) - len(outer)

            def trained(name: str, rest: int = rest) -> tuple[float, float]:
                run = configurations[name][0]
                steps = 1 if run.batch_size == "full" else -(-rest // run.batch_size)
                return run.lr * steps, steps

            best = min(within, key=trained)
        chosen.append(best)
        reached.append([off(run, outer, rows[:0]) for run in configurations[best]])
    y = target[torch.cat(folds)].double()
    by_seed = [torch.cat([own[seed] for own in reached]) for seed in range(2)]  # type: ignore[misc]
    mse = statistics.fmean(float((one**2).mean()) for one in by_seed)
    mae = statistics.fmean(float(one.abs().mean()) for one in by_seed)
    return chosen, {"nested/mse": mse, "nested/mae": mae, "nested/r2": 1 - mse / float(y.var(unbiased=False))}


@pytest.mark.parametrize(
    ("choose", "metric", "standardize"),
    [("best", "cv/mse", False), ("best", "cv/mae", True), ("one_se", "cv/mse", True), ("best", "cv/r2", False)],
)
def test_the_estimate_is_that_of_nested_cross_validation_from_scratch(
    choose: str, metric: str, standardize: bool
) -> None:
    params, prepared = settings(choose, metric, data_standardize=standardize), table(standardize)
    made = trained(prepared, params)
    found, (chosen, figures) = estimated(made, prepared, params), from_scratch(prepared, params)
    assert found["chosen"] == chosen
    assert {key: found[key] for key in figures} == pytest.approx(figures, rel=1e-4)
    assert len(set(chosen)) > 1 or choose == "one_se"
    champion = leaderboard.ranked(made, prepared, params.evaluate).iloc[0]
    sign = -1 if metric == "cv/r2" else 1
    own = metric.replace("cv/", "nested/")
    assert found["nested/cost"] == pytest.approx(sign * (figures[own] - champion[f"{metric} mean"]), rel=1e-3)
    assert any(record.diverged for record in made)
    assert found["configurations"] == 8


def test_one_standard_error_chooses_otherwise_than_the_best() -> None:
    prepared = table(standardize=True)
    made = trained(prepared, settings(data_standardize=True))
    found = [estimated(made, prepared, settings(rule, data_standardize=True))["chosen"] for rule in ("best", "one_se")]
    assert found[0] != found[1]


def test_with_one_configuration_there_is_nothing_to_choose() -> None:
    params, prepared = settings(sweep_lr=[0.01], sweep_batch_size=["full"]), table(standardize=False)
    made = trained(prepared, params)
    found = estimated(made, prepared, params)
    champion = leaderboard.ranked(made, prepared, params.evaluate).iloc[0]
    for key in ("mse", "mae", "r2"):
        assert found[f"nested/{key}"] == pytest.approx(champion[f"cv/{key} mean"], rel=1e-8)
    assert found["nested/cost"] == pytest.approx(0, abs=1e-7)


def constants(prepared: Prepared, count: int, random: np.random.Generator) -> list[Record]:
    """Return runs whose every fit predicts another random number, the same for all rows."""

    def one(lr: float) -> Record:
        run = Run("matrix", "full", lr, 1, 1, "zeros", "cpu", f"{lr}")
        own, inner = random.normal(size=(FOLDS + 1, 1)), random.normal(size=(6, 1))
        tensors = {"W": np.zeros((FOLDS + 1, 3, 1)), "b": own, "grad_W": np.zeros((3, 1)), "grad_b": own[0]}
        further = {"W": np.zeros((6, 3, 1)), "b": inner}
        single = [{name: value.astype(np.float32) for name, value in part.items()} for part in (tensors, further)]
        record = Record(run, "", np.ones(1, dtype=np.float32), single[0], inner=single[1])
        return replace(record, metrics=outcome.metrics(record, prepared))

    return [one(lr) for lr in range(1, count + 1)]


def test_where_only_chance_distinguishes_configurations_choosing_costs_all_that_chance_gave() -> None:
    prepared, random, params = table(standardize=False), np.random.default_rng(0), settings()
    best, mean, reached = [], [], []
    for _ in range(20):
        made = constants(prepared, 40, random)
        board = leaderboard.ranked(made, prepared, params.evaluate)["cv/mse mean"]
        best.append(board.iloc[0])
        mean.append(board.mean())
        reached.append(estimated(made, prepared, params)["nested/mse"])
    error = statistics.stdev(reached) / math.sqrt(len(reached))
    assert statistics.fmean(reached) == pytest.approx(statistics.fmean(mean), abs=3 * error)
    assert statistics.fmean(reached) > statistics.fmean(best) + 6 * error


def test_on_noise_the_best_of_many_trained_configurations_is_worse_than_it_looks() -> None:
    params = settings(sweep_lr=[0.001, 0.003, 0.01, 0.03, 0.05], sweep_seed=[1], train_epochs=30)
    tables = [table(standardize=False, noise=30.0, k=6, seed=seed) for seed in range(8)]
    found = [estimated(trained(one, params), one, params)["nested/cost"] for one in tables]
    assert statistics.fmean(found) > 2 * statistics.stdev(found) / math.sqrt(len(found)) > 0


def test_a_configuration_that_diverges_without_two_folds_is_not_chosen_without_either() -> None:
    params, prepared = settings(sweep_lr=[0.01, 0.03], sweep_batch_size=["full"]), table(standardize=False)
    made = trained(prepared, params)
    pair = pairs(len(prepared.train)).index((2, 3))

    def lost(record: Record) -> Record:
        holed = {name: own.copy() for name, own in record.inner.items()}
        holed["W"][pair] = np.nan
        return replace(record, inner=holed)

    one, other = dict.fromkeys(record.run.configuration for record in made)
    hit = [each.run.configuration == one and each.run.seed == 2 for each in made]
    found = estimated([lost(each) if own else each for each, own in zip(made, hit, strict=True)], prepared, params)
    assert found["chosen"][1] == found["chosen"][2] == other
    assert estimated([lost(each) for each in made], prepared, params) == {"configurations": 2, "chosen": []}


def test_lacking_fits_are_named() -> None:
    params, prepared = settings(), table(standardize=False)
    with pytest.raises(InputError, match=r"^data/trained: a variant has no nested\.safetensors, for train\.nested: tr"):
        estimated(sweeps.records(prepared, params), prepared, params)


def test_each_pair_of_folds_is_left_out_once_and_final_rows_always() -> None:
    whole = table(standardize=True)
    final = np.arange(12) == 5
    kept = replace(whole, train=whole.train & ~final, final=final)
    every = kept.with_pairs(standardize=True)
    assert len(every.train) - len(kept.train) == len(pairs(len(kept.train))) == 6
    for at, (one, other) in enumerate(pairs(5), start=5):
        rows = kept.train[0] & kept.train[one] & kept.train[other]
        assert (every.train[at] == rows).all()
        assert every.mean[at].tolist() == pytest.approx(kept.X[rows].mean(axis=0).tolist(), abs=1e-6)
        assert every.scale[at].tolist() == pytest.approx(kept.X[rows].std(axis=0).tolist(), abs=1e-6)


def test_what_a_run_s_own_fits_are_does_not_depend_on_the_further_ones() -> None:
    params, prepared = settings(), table(standardize=False)
    for one, other in zip(trained(prepared, params), sweeps.records(prepared, params), strict=True):
        assert one.inner["W"].shape == (6, 3, 1)
        assert replace(one, inner={}).run == other.run
        assert one.curve.tobytes() == other.curve.tobytes()
        assert all(one.tensors[name].tobytes() == own.tobytes() for name, own in other.tensors.items())


class Killed(Listeners):
    """Ends training in the middle of a stack, or notes the first epoch that it sees."""

    def __init__(self, at: int = 0) -> None:
        super().__init__()
        self.at, self.first = at, 0

    def follow(self, stack: Stack, curves: Array, epoch: int) -> None:  # noqa: ARG002
        self.first = self.first or epoch
        if epoch == self.at:
            raise KeyboardInterrupt


def test_killed_in_the_middle_the_further_fits_resume_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)
    params, prepared = settings(sweep_batch_size=["full"]), table(standardize=False)
    made, every = sweeps.records(prepared, params), prepared.with_pairs(standardize=False)
    with pytest.raises(KeyboardInterrupt):
        Trainer(every, Here(every, Checkpoints(tmp_path)), Killed(at=5)).nest(made, 5)
    resumed = Killed()
    again = Trainer(every, Here(every, Checkpoints(tmp_path)), resumed).nest(made, 5)
    assert resumed.first > 1
    for one, other in zip(again, Trainer(every, Here(every)).nest(made, 5), strict=True):
        assert one.inner["W"].tobytes() == other.inner["W"].tobytes()


def test_stacks_of_further_fits_have_keys_of_their_own() -> None:
    prepared = table(standardize=False)
    runs = [record.run for record in sweeps.records(prepared, settings(sweep_lr=[0.01]))]
    planned = plan(runs, {}, prepared, prepared.with_pairs(standardize=False))
    assert len({stack.key for stack in planned}) == len(planned)
    assert sorted(split for stack in planned for _, split in stack.fits) == sorted([*range(11)] * len(runs))


def summary(**changed: object) -> dict[str, object]:
    nested: dict[str, object] = {
        "nested/mse": 1.31,
        "nested/cost": 0.26,
        "configurations": 12,
        "chosen": ["a", "b", "a"],
    }
    return {"metric": "cv/mse", "champion": {"cv/mse": 1.05}, "nested": {**nested, **changed}}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "cv/mse 1.05, nested/mse 1.31: choosing costs 0.26. Chosen without fold 1, 3: a; without fold 2: b"),
        ({"nested/cost": -0.1}, "nested/mse 1.31: choosing seems to cost nothing. Chosen without fold 1, 3: a; "),
        ({"chosen": list("abcdefg")}, "without fold 5: e; and 2 more"),
    ],
)
def test_the_cost_is_said_in_plain_words(changed: dict[str, object], said: str) -> None:
    told = costs(summary(**changed))
    assert told.startswith("choosing the best of 12 configurations: cv/mse 1.05")
    assert said in told


def test_what_nobody_asked_is_not_said_and_what_is_unknown_is() -> None:
    assert costs({"metric": "cv/mse", "champion": {}}) == ""
    assert costs({"metric": "cv/r2", "champion": {}, "nested": {"chosen": ["a"], "configurations": 1}}) == ""
    without = {"metric": "cv/mse", "champion": {"cv/mse": 1.0}, "nested": {"configurations": 2, "chosen": []}}
    assert costs(without).startswith("what choosing costs is unknown: without one of the folds")
