"""Searched sweeps as DVC runs them: the same wherever they train, stored, and each run reproducible."""

import json
import re
from pathlib import Path

from conftest import run, shorten
from test_pipeline import stored

RATES = "sweep.lr=[{from: 1e-7, to: 1e-4, num: 7, scale: log}]"
SEARCH = ("-S", "sweep.search.trials=8", "-S", "sweep.search.rounds=2", "-S", RATES, "-S", "variants=[matrix]")
STUDY = "data/trained/matrix/study.json"


def test_a_searched_experiment_is_the_same_with_one_worker_and_two_and_its_runs_reproduce(clone: Path) -> None:
    shorten(clone)
    tpe = ("dvc", "exp", "run", *SEARCH, "-S", "sweep.search.method=tpe")
    run(*tpe, cwd=clone, extra={"PIPELINE_ENGINE": "here"})
    study, lock = (clone / STUDY).read_text(), (clone / "dvc.lock").read_text()
    assert len(json.loads(study)["tried"]) == 8
    run("dvc", "repro", "--force", cwd=clone, extra={"PIPELINE_WORKERS": "2", "PIPELINE_RETRAIN": "1"})
    assert ((clone / STUDY).read_text(), (clone / "dvc.lock").read_text()) == (study, lock)
    children = stored(clone)
    assert {one.data.tags["sweep"] for one in children} == {json.loads(study)["sweep"]}
    ids = [one.info.run_id for one in children if one.info.status == "FINISHED"][:2]
    told = run("pipeline", "reproduce", *ids, cwd=clone).stdout
    assert re.findall(r": (.*)", told) == ["identical", "identical"]
    assert run("pipeline", "sync", cwd=clone).stdout.startswith(f"{len(children)} runs, all stored")
    assert run("pipeline", "doctor", "--deep", cwd=clone).stdout.startswith("nothing found")


def test_halving_says_of_each_run_when_it_left_and_that_one_and_one_that_stayed_reproduce(clone: Path) -> None:
    shorten(clone)
    run("dvc", "exp", "run", *SEARCH, "-S", "sweep.search.method=halving", "-S", "sweep.search.rounds=3", cwd=clone)
    runs = stored(clone)
    left = [one for one in runs if "left" in one.data.tags]
    stayed = next(one for one in runs if "left" not in one.data.tags)
    assert {one.data.tags["left"] for one in left} == {
        "behind, after epoch 5 of 20",
        "behind, after epoch 10 of 20",
    }
    assert all(one.data.metrics.keys() <= {"train/mse"} for one in left)
    told = run("pipeline", "reproduce", left[-1].info.run_id, stayed.info.run_id, cwd=clone).stdout
    assert re.findall(r": (.*)", told) == ["identical", "identical"]
    best = run("pipeline", "top", "-n", "1", "--by", "train/mse", "--json", cwd=clone).stdout
    assert "left" not in best
