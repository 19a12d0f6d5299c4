"""What a person asks of the runs: those of a revision, and to store what the store lacks."""

import csv
import os
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from conftest import copy_store, default_store, enter, free_port, points, run, search
from mlflow import MlflowClient
from safetensors.numpy import load_file

from pipeline.__main__ import main
from pipeline.config.params import load
from pipeline.errors import InputError
from pipeline.runs import records
from pipeline.system import processes
from pipeline.tracking.session import Session
from pipeline.tracking.store import database
from pipeline.tracking.store.store import Store


def test_pipeline_runs_lists_exactly_the_runs_of_a_revision(
    small: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(small, monkeypatch)

    def listed(*revision: str) -> set[str]:
        main(["runs", *revision])
        return {line.split()[-1] for line in capsys.readouterr().out.splitlines()[1:]}

    other = {one.info.run_id for one in search(default_store(small), "tags.dvc_experiment = 'other'")} - {
        one.info.run_id for one in search(default_store(small), "tags.role = 'sweep'")
    }
    own = {one.info.run_id for one in search(default_store(small))} - other
    assert (len(own), len(other)) == (4, 2)
    assert (listed(), listed("HEAD"), listed("other")) == (own, own, other)
    for unknown in ("nonsense", "HEAD~1"):  # the second is a commit without outs
        with pytest.raises(InputError, match=unknown):
            main(["runs", unknown])


@contextmanager
def with_a_dead_run(small: Path, folder: Path) -> Iterator[tuple[str, str]]:
    """Copy a store and leave a run in it whose process is gone; yield the store's address and the run's id."""
    uri = copy_store(small, folder / "mlflow.db")
    process = subprocess.Popen(["true"])
    tags = {"host": processes.host(), "pid": str(process.pid), "pid_started": "1.0", "heartbeat": f"{time.time():.0f}"}
    process.wait()
    experiment = search(uri)[0].info.experiment_id
    yield uri, MlflowClient(uri).create_run(experiment, tags={**tags, "role": "run"}).info.run_id


def rows(file: Path) -> list[str]:
    with closing(sqlite3.connect(file)) as store:
        store.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return list(store.iterdump())


@pytest.mark.parametrize("command", [["top"], ["top", "--by", "cv/r2"], ["runs"], ["runs", "other"]])
def test_asking_changes_nothing_in_the_store(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    enter(small, monkeypatch)
    with with_a_dead_run(small, tmp_path) as (uri, dead):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        before, file = rows(tmp_path / "mlflow.db"), (tmp_path / "mlflow.db").read_bytes()
        main(command)
        assert len(capsys.readouterr().out.splitlines()) > 2
        assert rows(tmp_path / "mlflow.db") == before
        assert (tmp_path / "mlflow.db").read_bytes() == file
        assert MlflowClient(uri).get_run(dead).info.status == "RUNNING"


@pytest.mark.parametrize("command", ["top", "runs"])
def test_asking_creates_neither_a_store_nor_tables_nor_an_experiment(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    enter(small, monkeypatch)
    files = {name: tmp_path / name for name in ("missing.db", "empty.db", "other.db")}
    files["empty.db"].touch()
    database.create_empty(files["other.db"])
    before = rows(files["other.db"])
    for file in files.values():
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{file}")
        main([command])
        assert capsys.readouterr().out.count("missing") == (4 if command == "runs" else 0)
    assert not files["missing.db"].exists()
    assert files["empty.db"].stat().st_size == 0
    assert rows(files["other.db"]) == before


@pytest.mark.parametrize("what", ["a stage", "sync", "doctor"])
def test_a_stage_and_sync_and_doctor_end_the_dead(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    enter(small, monkeypatch)
    with with_a_dead_run(small, tmp_path) as (uri, dead):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        if what == "a stage":
            Session(load(), [record.run for record in records.read_evaluated(load().variants)], os.getpid())
        else:
            with suppress(SystemExit):  # doctor names what it ended
                main([what])
        ended = MlflowClient(uri).get_run(dead)
        assert ended.info.status == "KILLED"
        assert "is gone" in ended.data.tags["error"]


def test_sync_restores_every_run_once_into_a_new_store(small: Path, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'new.db'}"
    run("pipeline", "sync", cwd=small, extra={"MLFLOW_TRACKING_URI": uri})
    restored = {one.data.tags["fingerprint"]: one for one in search(uri)}
    with (small / "data/evaluated/runs.csv").open() as file:
        metrics = {row["fingerprint"]: row for row in csv.DictReader(file)}
    assert set(restored) == set(metrics)
    for variant in ("matrix", "linear"):
        folder = small / "data/trained" / variant
        curves, weights = load_file(folder / "curves.safetensors"), load_file(folder / "weights.safetensors")
        for r, row in enumerate(csv.DictReader((folder / "runs.csv").read_text().splitlines())):
            one = restored[row["fingerprint"]]
            assert (one.info.status, one.info.end_time) == ("FINISHED", None)
            assert datetime.fromisoformat(one.data.tags["restored"]).tzinfo == UTC
            assert one.data.tags["dvc_stage"] == f"train@{variant}"
            assert points(uri, one) == list(enumerate(curves["train/mse"][r].tolist()))
            evaluated = {key: float(metrics[row["fingerprint"]][key]) for key in one.data.metrics}
            assert one.data.metrics == evaluated
            assert set(evaluated) == {"cv/mse", "cv/mae", "cv/r2", "train/mse", "excess_mse", "grad_error"}
            held = load_file(Path(one.info.artifact_uri.removeprefix("file://")) / "weights.safetensors")
            assert {name: held[name].tobytes() for name in held} == {
                name: weights[name][r].tobytes() for name in weights
            }
    before = {one.info.run_id: one.to_dictionary() for one in search(uri, "")}
    assert len(before) == 5
    run("pipeline", "sync", cwd=small, extra={"MLFLOW_TRACKING_URI": uri})
    assert {one.info.run_id: one.to_dictionary() for one in search(uri, "")} == before


def test_sync_refuses_outs_that_are_missing_or_of_other_params(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("git", "clone", "--quiet", str(small), str(tmp_path / "clone"), cwd=tmp_path)
    missing = run("pipeline", "sync", cwd=tmp_path / "clone", check=False)
    assert missing.returncode == 1
    assert "dvc repro" in missing.stderr
    assert "dvc pull" not in missing.stderr  # there is no remote
    run("dvc", "remote", "add", "--default", "there", str(tmp_path / "remote"), cwd=tmp_path / "clone")
    assert "dvc pull" in run("pipeline", "sync", cwd=tmp_path / "clone", check=False).stderr
    assert "Traceback" not in missing.stderr
    assert not (tmp_path / "clone/mlflow.db").exists()
    enter(small, monkeypatch)
    before, text = search(default_store(small), ""), Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("epochs: 20", "epochs: 21"))
    try:
        with pytest.raises(InputError, match="dvc repro"):
            main(["sync"])
    finally:
        Path("params.yaml").write_text(text)
    assert {one.info.run_id for one in search(default_store(small), "")} == {one.info.run_id for one in before}


@pytest.mark.parametrize("command", ["top", "runs", "sync", "doctor"])
def test_a_store_that_does_not_answer_gets_a_message(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    enter(small, monkeypatch)
    address = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for name in ("open", "look"):
        monkeypatch.setattr(Store, name, partial(getattr(Store, name), patience=0.0))
    with pytest.raises((InputError, SystemExit)) as ended:  # doctor prints its findings
        main([command])
    assert isinstance(ended.value, InputError) or str(ended.value) == "1"
    assert address in f"{ended.value}{capsys.readouterr().out}"
