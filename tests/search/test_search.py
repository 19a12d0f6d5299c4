"""Optuna proposes rounds of runs, which are runs like any other: the same everywhere, and each reproducible."""

import json
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import sweeps
from sweeps import params, table

from pipeline.config.axes import AXES
from pipeline.config.params import Params
from pipeline.evaluation import leaderboard, outcome
from pipeline.evaluation.importance import effect, grouped, ranked
from pipeline.execution.engine import Here
from pipeline.execution.trainer import Trainer
from pipeline.runs import outs, sweep
from pipeline.runs.records import Record
from pipeline.runs.run import Run
from pipeline.search import storage
from pipeline.search.space import Choice, Configuration, Interval, Space, refused
from pipeline.search.stage import Searcher
from pipeline.search.storage import VARIABLE
from pipeline.search.study import Study, key, sizes

SPACE: Space = {"lr": Interval(1e-7, 1e-1, log=True), "weight_decay": Interval(1e-6, 1.0, log=True)}
NAMES: Space = {**SPACE, "optimizer": Choice.of(["sgd", "adam"]), "batch_size": Choice.of(["full", 4, 1, 2])}
RATES = [float(f"{10**-power:.6g}") for power in np.arange(0.0, 4.0, 0.25)]
GRID: dict[str, Any] = {"variants": ["matrix"], "sweep_lr": RATES, "sweep_seed": [1, 2]}
METHODS = [("tpe", NAMES), ("random", NAMES), ("cmaes", SPACE)]


def bowl(one: Configuration) -> float:
    """Be smallest at lr 1e-3 and weight decay 1e-4, with adam."""
    depth = math.log10(float(one["lr"])) + 3, math.log10(float(one["weight_decay"])) + 4
    return depth[0] ** 2 + depth[1] ** 2 + (one.get("optimizer") == "sgd")


def proposed(
    method: str, space: Space, seed: int = 0, allowed: Callable[[Configuration], bool] = bool
) -> list[dict[str, Any]]:
    """Return all that a study proposes in four rounds of ten."""
    study, found = Study(space, method, seed, 10, allowed), []
    for size in sizes(40, 4):
        found += (one_round := study.propose(size))
        study.tell({key(one): bowl(one) for one in one_round})
    return found


@pytest.mark.parametrize(("method", "space"), METHODS)
def test_a_study_proposes_the_same_again_no_two_alike_and_six_digits(method: str, space: Space) -> None:
    found = proposed(method, space)
    assert found == proposed(method, space)
    assert found != proposed(method, space, seed=1)
    assert len(found) == 40 == len({key(one) for one in found})
    for one in found:
        assert list(one) == list(space)
        for name in SPACE:
            assert one[name] == float(f"{one[name]:.6g}")


@pytest.mark.parametrize(("method", "space"), METHODS[::2])
def test_a_study_learns_where_the_best_is(method: str, space: Space) -> None:
    for seed in range(3):
        found = [bowl(one) for one in proposed(method, space, seed)]
        assert np.median(found[30:]) < 0.5 * np.median(found[:10])


CORNER: list[Configuration] = [{"batch_size": 1, "optimizer": "sgd"}]


def test_what_a_sweep_leaves_out_is_not_proposed_and_a_small_space_ends() -> None:
    space: Space = {"batch_size": Choice.of([1, 2, 4]), "optimizer": Choice.of(["sgd", "adam"])}
    study = Study(space, "tpe", 0, 10, lambda one: one["batch_size"] != 2)
    assert len(study.propose(10)) == 4
    study.tell({key(one): 1.0 for one in CORNER})
    assert study.propose(10) == []


def test_whole_numbers_stay_whole_and_ends_are_kept() -> None:
    space: Space = {"epochs": Interval(10, 1000, log=True), "lr": Interval(1.234567, 1.234568)}
    for one in proposed_simply(space):
        assert type(one["epochs"]) is int
        assert 10 <= one["epochs"] <= 1000
        assert 1.234567 <= one["lr"] <= 1.234568


def proposed_simply(space: Space) -> list[dict[str, Any]]:
    return Study(space, "random", 0, 10, bool).propose(20)


@pytest.mark.parametrize(("trials", "rounds", "expected"), [(10, 3, [4, 3, 3]), (2, 5, [1, 1]), (7, 1, [7])])
def test_rounds_divide_the_trials(trials: int, rounds: int, expected: list[int]) -> None:
    assert sizes(trials, rounds) == expected


def searched(method: str = "tpe", **changed: object) -> Params:
    """Return params that search a table whose optimum is known, by the distance to it."""
    own = {"method": method, "trials": 12, "rounds": 3, "metric": "excess_mse", "seed": 0}
    return params(**{**GRID, "sweep_search": own, **changed})


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    outs.PREPARED.parent.mkdir(parents=True)
    outs.PREPARED.write_bytes(b"prepared")
    return tmp_path


def trainer() -> Trainer:
    return Trainer(table(), Here(table()))


def run_search(settings: Params) -> list[Record]:
    return Searcher(settings, "matrix").run(trainer())


@pytest.mark.usefixtures("here")
def test_a_search_finds_the_best_of_a_table_and_each_of_its_runs_is_one_like_any_other() -> None:
    records = run_search(searched())
    study = json.loads(outs.study("matrix").read_text())
    scores = [one["score"] for one in study["tried"] if one["score"] is not None]
    board = leaderboard.rank(sweeps.records(table(), params(**GRID)), "excess_mse")
    assert len(records) == 24
    assert min(scores) <= board["excess_mse mean"][3]  # of 32 configurations
    assert any(one["score"] is None for one in study["tried"])  # lr 1 diverges
    for record in records[::7]:
        (alone,) = trainer().train([record.run])
        assert alone.curve.tobytes() == record.curve.tobytes()
        assert all(alone.tensors[name].tobytes() == record.tensors[name].tobytes() for name in alone.tensors)
        own = {f"sweep_{axis.name}": [getattr(record.run, axis.name)] for axis in AXES}
        assert sweep.plan(params(variants=["matrix"], **own)) == [record.run]  # as in a sweep without a search


@pytest.mark.usefixtures("here")
def test_a_search_that_was_stopped_proposes_the_same_again() -> None:
    whole = run_search(searched())
    rounds: list[Sequence[Run]] = []

    def stopped(runs: Sequence[Run]) -> dict[str, Record]:
        rounds.append(runs)
        if len(rounds) == 2:
            raise KeyboardInterrupt
        return {}

    with pytest.raises(KeyboardInterrupt):
        Searcher(searched(), "matrix").run(trainer(), stopped)
    again = run_search(searched())
    assert [one.run for one in again] == [one.run for one in whole]
    assert [one for runs in rounds for one in runs] == [one.run for one in whole[:16]]


@pytest.mark.usefixtures("here")
def test_halving_keeps_the_bits_of_those_that_stay_and_others_leave_at_their_rung() -> None:
    settings = searched("halving")
    every = {one.run.name: one for one in trainer().train(sweep.plan(settings))}
    records = run_search(settings)
    assert [one.run.name for one in records] == list(every)
    assert Counter(one.left for one in records) == {  # 32 configurations, then 16, then 8, each twice
        "behind, after epoch 10 of 40": 32,
        "behind, after epoch 20 of 40": 16,
        "": 16,
    }
    for record in records:
        whole, trained = every[record.run.name], np.isfinite(record.curve)
        same = [whole.tensors[name].tobytes() == record.tensors[name].tobytes() for name in whole.tensors]
        assert record.curve[trained].tobytes() == whole.curve[trained].tobytes()
        assert (record.run == whole.run) == record.is_whole == (all(same) and trained.all())
    board = leaderboard.rank([replace(one, metrics=outcome.metrics(one, table())) for one in records], "cv/mse")
    assert list(board["runs"]) == [2] * 8 + [0] * 24


@pytest.mark.usefixtures("here")
def test_the_id_of_a_searched_sweep_is_that_of_its_specification() -> None:
    ids = {
        sweep.sweep_id([], sweep.specification(searched(**changed)))
        for changed in ({}, {"sweep_seed": [1]}, {"train_epochs": 41}, {"variants": ["linear"]}, {"track_points": 12})
    }
    assert len(ids) == 4  # where runs are stored does not count, nor do further fits
    random = {"method": "random", "trials": 4}
    plain, nested = (searched(sweep_search=random, train_nested=value) for value in (False, True))
    assert sweep.specification(plain) == sweep.specification(nested)
    outs.PREPARED.write_bytes(b"others")
    assert sweep.sweep_id([], sweep.specification(searched())) not in ids
    assert sweep.specification(params()) == {}


def test_cmaes_refuses_what_it_cannot_search() -> None:
    assert refused(SPACE, "cmaes") == refused(NAMES, "tpe") == []
    assert [fault.split(":")[0] for fault in refused(NAMES, "cmaes")] == ["sweep.optimizer"]
    assert refused({"lr": SPACE["lr"], "batch_size": Choice.of([1])}, "cmaes") == [
        "sweep.search.method: cmaes searches two axes or more; take the method tpe"
    ]


@pytest.mark.usefixtures("here")
def test_a_list_of_one_range_is_an_interval() -> None:
    entry = {"from": 1e-4, "to": 1, "num": 3, "scale": "log"}
    found = Searcher(searched(sweep_lr=[entry]), "matrix")
    assert found.space["lr"] == Interval(1e-4, 1.0, log=True)
    assert len({one["lr"] for one in found.study().propose(4)}) == 4
    assert sweep.specification(searched(sweep_lr=[entry])) != sweep.specification(searched(sweep_lr=[1e-4, 0.01, 1]))


def test_the_study_is_copied_where_the_user_says_and_changes_nothing(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = run_search(searched())
    for url in (f"sqlite:///{here}/studies.db", f"sqlite:///{here}/studies.db", "sqlite:////nowhere/at/all.db"):
        monkeypatch.setenv(VARIABLE, url)
        assert [one.run for one in run_search(searched())] == [one.run for one in plain]
    told = capsys.readouterr().err
    assert told.count(f"WARNING: {VARIABLE}: the study could not be stored: ") == 1
    for url in ("postgresql://ann:s3cr et@127.0.0.1:1/db", "mysql://ann:s3cr@et@host/x", "redis://s3cr@host?k=s3cr"):
        assert not storage.copy(url, "name", False, {}, [])
    told = capsys.readouterr().err
    assert told.count(f"WARNING: {VARIABLE}: the study could not be stored: ") == 3
    assert "s3cr" not in told
    assert not re.search(r"\bet\b", told)
    (summary,) = optuna.get_all_study_summaries(f"sqlite:///{here}/studies.db")
    stored = optuna.load_study(study_name=summary.study_name, storage=f"sqlite:///{here}/studies.db")
    tried = json.loads(outs.study("matrix").read_text())["tried"]
    assert [one.params["lr"] for one in stored.trials] == [one["lr"] for one in tried]
    assert [one.value for one in stored.trials] == [math.inf if one["score"] is None else one["score"] for one in tried]


def test_halving_s_trials_are_in_the_study_pruned_where_they_fell_behind(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, url = searched("halving"), f"sqlite:///{here}/studies.db"
    plain, own = run_search(settings), outs.study("matrix").read_text()
    monkeypatch.setenv(VARIABLE, url)
    assert [one.run for one in run_search(settings)] == [one.run for one in plain]
    assert outs.study("matrix").read_text() == own
    (summary,) = optuna.get_all_study_summaries(url)
    trials = optuna.load_study(study_name=summary.study_name, storage=url).trials
    assert Counter(one.state.name for one in trials) == {"PRUNED": 24, "COMPLETE": 8}
    tried = json.loads(own)["tried"]
    assert [(one["round"], one["lr"], one["batch_size"]) for one in tried] == [
        (one.user_attrs["round"], one.params["lr"], one.params["batch_size"]) for one in trials
    ]
    for epochs, place in ((10, 1), (20, 2), (40, 3)):  # a run of so many epochs ends where the longer one then stood
        alone = sweeps.records(table(), searched("halving", train_epochs=epochs))
        board = leaderboard.rank(alone, "excess_mse").set_index(["batch_size", "lr"])
        for one in trials:
            values, expected = one.intermediate_values, board.loc[(one.params["batch_size"], one.params["lr"])]
            assert (epochs in values) == (one.user_attrs["round"] >= place)
            if epochs in values:
                mean = math.inf if expected["diverged"] else expected["excess_mse mean"]
                assert values[epochs] == pytest.approx(mean)
                assert one.user_attrs["round"] > place or one.value == values[epochs]


def test_importance_is_kruskals_and_wallis_test() -> None:
    stats = pytest.importorskip("scipy.stats")
    chance = random.Random(0)
    for _ in range(20):
        groups = [chance.randrange(4) for _ in range(30)]
        values = [chance.choice([1.0, 2.0, 5 * chance.random()]) + 0.5 * group for group in groups]
        h = stats.kruskal(*[[v for v, g in zip(values, groups, strict=True) if g == one] for one in set(groups)])
        count = len(set(groups))
        expected = max(0.0, (h.statistic - count + 1) / (30 - count))
        assert effect(groups, ranked(values)) == pytest.approx(expected, abs=6e-4)


def test_many_numbers_are_cut_into_groups_of_a_size_and_names_are_not() -> None:
    assert grouped([float(n) for n in range(100)]) == [n // 10 for n in range(100)]
    assert grouped(["a", "b", "a"]) == [0, 1, 0]
    assert grouped([1, 1, 1, 1, 2, 3, 4, 5, 6, 7])[:4] == [0] * 4
