"""Wherever a kill leaves DVC or a stage, `make repro` or the next stage goes on, and each run is stored once."""

import os
import random
import re
import shutil
import signal
import sys
from collections import Counter
from pathlib import Path

import chaos
import pytest
from conftest import HANG_SECONDS, REPOSITORY, run
from mlflow import MlflowClient
from test_recovery import DYING, EMPTY, lasting, start_training, store, trained, wait_for

__all__ = ["trained"]  # a fixture

KILLED = """
import os, signal, sys
import dvc.rwlock
from dvc.cli import main
from ruamel.yaml import YAML
dump = YAML.dump
def die(*_, **__):  # the file is open for writing by then, and empty
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv.pop(1) == "dvc.lock":
    YAML.dump = lambda yaml, data, file: (die if file.name.endswith("dvc.lock") else dump)(yaml, data, file)
else:
    dvc.rwlock.json.dump = die
main(["repro"])
"""


@pytest.mark.parametrize("name", ["dvc.lock", ".dvc/tmp/rwlock"])
def test_make_repro_goes_on_where_a_bare_dvc_repro_was_killed_in_the_act_of_writing(tmp_path: Path, name: str) -> None:
    repository = chaos.prepare(tmp_path / "repository", "matrix")
    killed = run("python", "-c", KILLED, name, cwd=repository, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (repository / name).read_bytes() == b""
    assert run("dvc", "repro", cwd=repository, check=False).returncode != 0
    told = run("make", "--assume-old", "setup", "repro", cwd=repository).stdout
    assert f"{name}: was " in told
    assert "matrix bs=full" in told
    assert chaos.store_faults(f"sqlite:///{repository / 'mlflow.db'}", 4) == []


@pytest.mark.long
def test_a_training_killed_at_five_random_epochs_ends_with_the_same_bits(trained: Path, tmp_path: Path) -> None:
    epochs = 2000
    (tmp_path / "undisturbed").mkdir()
    folder, checkpoints = trained / "data/trained/matrix", trained / ".dvc/tmp/checkpoints"
    chance = random.Random(0)
    with lasting(trained, epochs):
        assert start_training(trained, tmp_path / "undisturbed").wait(HANG_SECONDS) == 0
        undisturbed = {path.name: path.read_bytes() for path in folder.iterdir()}
        for path in folder.iterdir():
            path.unlink()
        for _ in range(5):
            process = start_training(trained, tmp_path, DYING.format(chance.randrange(300, 900)))
            assert process.wait(HANG_SECONDS) == -signal.SIGKILL
            assert list(checkpoints.glob("[!.]*"))
        assert start_training(trained, tmp_path).wait(HANG_SECONDS) == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == undisturbed
    assert list(checkpoints.iterdir()) == []
    runs = [one for one in wait_for(tmp_path, "FINISHED", "SCHEDULED") if one.data.tags["role"] == "run"]
    assert len(runs) == 4
    client = MlflowClient(store(tmp_path)["MLFLOW_TRACKING_URI"])
    for one in runs:
        assert one.info.status == "FINISHED"
        steps = Counter(point.step for point in client.get_metric_history(one.info.run_id, "train/mse"))
        assert set(steps) == {*range(0, epochs, 20), epochs - 1}
        assert max(steps.values()) == 1


@pytest.mark.long
def test_storing_that_is_killed_before_any_of_its_steps_ends_as_if_undisturbed(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "begin").mkdir()
    shutil.copy(trained / EMPTY, tmp_path / "begin/mlflow.db")
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}  # with the tests' folders
    told = run("python", str(REPOSITORY / "tools/killed_storing.py"), str(tmp_path), cwd=trained, extra=path).stdout
    assert re.fullmatch("train: [5-9][0-9] steps\nevaluate: [5-9][0-9] steps\n", told), told


@pytest.mark.long
def test_killed_anywhere_dvc_repro_finishes_the_job(tmp_path: Path) -> None:
    repository = chaos.prepare(tmp_path / "repository", "matrix, linear")
    assert chaos.tally(repository, kills=2, seed=3, count=8) == []


def test_processes_that_start_at_once_on_a_missing_store_store_each_run_once(trained: Path, tmp_path: Path) -> None:
    assert chaos.start_at_once(trained, tmp_path, 4) == []
