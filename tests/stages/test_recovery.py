"""After kills, signals and simultaneous starts: every run once, none falsely RUNNING, the same bits."""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import chaos
import psutil
import pytest
from conftest import HANG_SECONDS, default_store, environment, points, run, search, until
from mlflow import MlflowClient
from mlflow.entities import Run

from pipeline.tracking.store import database

EMPTY = "empty.db"
DYING = """
import os, signal
from pipeline.execution import checkpoints
stage, left, keep = os.getpid(), {}, checkpoints.Checkpoints.keep
def kept(self, key, state):  # called after each epoch, in the stage or its workers
    global left
    keep(self, key, state)
    left -= 1
    if left == 0:
        os.kill(stage, signal.SIGKILL)
checkpoints.SECONDS, checkpoints.Checkpoints.keep = 0.05, kept
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with prepared data, and a sweep of 4 short runs of each variant."""
    folder = chaos.prepare(tmp_path_factory.mktemp("recovery") / "repository")
    run("python", "-m", "pipeline.prepare", cwd=folder)
    database.create_empty(folder / EMPTY)
    return folder


def store(folder: Path) -> dict[str, str]:
    return {"MLFLOW_TRACKING_URI": default_store(folder)}


def stored(folder: Path) -> list[Run]:
    return search(default_store(folder), "")


@contextmanager
def lasting(repository: Path, epochs: int) -> Iterator[None]:
    """Let the sweep's runs train for more epochs, for a while."""
    params = repository / "params.yaml"
    short = params.read_text()
    params.write_text(short.replace("epochs: 50", f"epochs: {epochs}"))
    try:
        yield
    finally:
        params.write_text(short)


def start_training(repository: Path, folder: Path, code: str = "") -> subprocess.Popen[bytes]:
    """Start stage train, and wait until its runs are in the store."""
    if not (folder / "mlflow.db").exists():
        shutil.copy(repository / EMPTY, folder / "mlflow.db")  # to make its tables takes MLflow seconds
    process = subprocess.Popen(
        [sys.executable, "-c", f"from pipeline import train\n{code}\ntrain.main()", "matrix"],
        cwd=repository,
        env=environment(**store(folder)),
        start_new_session=True,
    )
    try:
        wait_for_a_run(folder)
    except AssertionError:
        process.kill()
        raise
    return process


def wait_for_a_run(folder: Path) -> None:
    """Wait until the store holds a run."""
    database = folder / "mlflow.db"
    until(lambda: database.exists() and any(one.data.tags.get("role") == "run" for one in stored(folder)))


def wait_for(folder: Path, *statuses: str) -> list[Run]:
    """Wait until every run in the store has one of these statuses; return the runs."""
    until(lambda: all(one.info.status in statuses for one in stored(folder)))
    return stored(folder)


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (signal.SIGINT, "SIGINT"),
        (signal.SIGTERM, "SIGTERM"),
        (signal.SIGKILL, "the stage's process was killed"),
    ],
)
def test_a_signal_ends_the_runs_as_killed(trained: Path, tmp_path: Path, number: signal.Signals, reason: str) -> None:
    with lasting(trained, 10**6):
        process = start_training(trained, tmp_path)
    process.send_signal(number)
    assert process.wait(HANG_SECONDS) != 0
    runs = wait_for(tmp_path, "KILLED")
    assert {one.info.status for one in runs} == {"KILLED"}
    assert all(reason in one.data.tags["error"] for one in runs)
    assert not (trained / "data/trained/matrix").exists()


@pytest.mark.parametrize("kind", ["ValueError", "InputError"])
def test_an_exception_ends_the_runs_as_failed_with_the_error(trained: Path, tmp_path: Path, kind: str) -> None:
    lines = [
        "import time",
        "from pipeline.errors import InputError",
        "from pipeline.training import loop",
        "def broken(*_):",
        " time.sleep(3)",
        f" raise {kind}('on purpose')",
    ]
    code = "\n".join([*lines, "loop.fit = broken"])
    process = start_training(trained, tmp_path, code)
    assert process.wait(HANG_SECONDS) != 0
    runs = wait_for(tmp_path, "FAILED")
    assert {one.info.status for one in runs} == {"FAILED"}
    assert all(one.data.tags["error"] == f"{kind}: on purpose" for one in runs)


def test_doctor_ends_runs_whose_processes_are_gone_and_no_others(trained: Path, tmp_path: Path) -> None:
    with lasting(trained, 10**6):
        process = start_training(trained, tmp_path)
    until(lambda: any(points(default_store(tmp_path), one) for one in stored(tmp_path)))
    run("pipeline", "doctor", cwd=trained, extra=store(tmp_path), check=False)
    assert {one.info.status for one in stored(tmp_path)} == {"RUNNING"}
    for below in psutil.Process(process.pid).children():  # the storing process first, so that it cannot tell
        below.kill()
    process.kill()
    process.wait()
    assert {one.info.status for one in stored(tmp_path)} == {"RUNNING"}
    killed_at = time.time() * 1000
    time.sleep(1)
    run("pipeline", "top", cwd=trained, extra=store(tmp_path))
    assert {one.info.status for one in stored(tmp_path)} == {"RUNNING"}
    run("pipeline", "doctor", cwd=trained, extra=store(tmp_path), check=False)
    client = MlflowClient(store(tmp_path)["MLFLOW_TRACKING_URI"])
    for one in stored(tmp_path):
        assert one.info.status == "KILLED"
        assert one.info.start_time <= one.info.end_time <= killed_at
        history = client.get_metric_history(one.info.run_id, "train/mse")
        assert all(point.timestamp <= one.info.end_time for point in history)


def test_a_stage_stops_when_its_dvc_was_killed(trained: Path, tmp_path: Path) -> None:
    with lasting(trained, 10**6):
        dvc = subprocess.Popen(
            ["dvc", "repro", "train@matrix"], cwd=trained, env=environment(**store(tmp_path)), start_new_session=True
        )
        wait_for_a_run(tmp_path)
        dvc.kill()
        dvc.wait()
        runs = wait_for(tmp_path, "KILLED")
    assert len(runs) > 1
    assert {one.info.status for one in runs} == {"KILLED"}
