"""Every run in MLflow leads back to its code, data and process, and says truly whether it runs."""

import hashlib
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from conftest import copy_store, default_store, enter, run, search
from mlflow import MlflowClient

from pipeline.system import processes
from pipeline.tracking import sync
from pipeline.tracking.store.store import Store


def test_every_run_names_its_code_its_data_its_dataset_and_its_process(small: Path) -> None:
    lock, raw = (small / "dvc.lock").read_text(), (small / "data/raw/scores.csv").read_bytes()
    prepared = (small / "data/prepared/tensors.safetensors").read_bytes()
    md5s = [hashlib.md5(content).hexdigest() for content in (raw, prepared)]
    commits = run("git", "rev-list", "HEAD", cwd=small).stdout.split()
    uri = default_store(small)
    assert len(search(uri)) == len({one.data.tags["fingerprint"] for one in search(uri)}) == 6
    for one in search(uri):
        tags = MlflowClient(uri).get_run(one.info.run_id).data.tags
        experiment = tags.get("dvc_experiment")
        assert tags["git_commit"] == commits[0 if experiment else 1]
        assert (experiment, tags.get("dvc_baseline")) in {(None, None), ("other", commits[0])}
        assert (tags["git_dirty"], tags["dvc_stage"]) == ("false", f"train@{one.data.params['variant']}")
        assert [tags["source_md5"], tags["data_md5"]] == md5s
        assert all(f"md5: {md5}\n" in lock for md5 in md5s)
        assert tags["mlflow.pipeline.host"].startswith(socket.gethostname())
        assert tags["mlflow.pipeline.pid"].isdecimal()
        parent = MlflowClient(uri).get_run(tags["mlflow.parentRunId"])
        assert parent.data.tags["sweep"] == tags["sweep"]
        inputs = MlflowClient(uri).get_run(one.info.run_id).inputs.dataset_inputs
        found = {item.tags[0].value: item.dataset for item in inputs}
        assert set(found) == {"training", "cross-validation"}
        assert [found[context].digest for context in ("training", "cross-validation")] == md5s
        assert [json.loads(found[context].source)["uri"] for context in ("training", "cross-validation")] == [
            "data/raw/scores.csv",
            "data/prepared/tensors.safetensors",
        ]
        header, *rows = raw.decode().split()
        for dataset in found.values():
            columns = [column["name"] for column in json.loads(dataset.schema)["mlflow_colspec"]]
            assert ",".join(columns) == header
            assert json.loads(dataset.profile)["num_rows"] == len(rows)
            assert dataset.name.startswith("scores")


@pytest.fixture
def gone() -> Iterator[dict[str, str]]:
    """The tags of a process of this host that has ended; its parent has not asked for its exit code yet."""
    process = subprocess.Popen(["sleep", "60"])
    yield {"pid": str(process.pid), "pid_started": str(psutil.Process(process.pid).create_time())}
    process.wait()


def test_only_runs_whose_process_is_gone_are_ended_at_their_last_sign_of_life(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: dict[str, str]
) -> None:
    enter(small, monkeypatch)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri := f"sqlite:///{tmp_path / 'mlflow.db'}")
    psutil.Process(int(gone["pid"])).kill()
    Store.open("regression")
    client, now = MlflowClient(uri), int(time.time())
    [experiment] = [one.experiment_id for one in client.search_experiments() if one.name == "regression"]
    here, alive = processes.host(), psutil.Process()
    assert socket.gethostname() in here
    living = {"pid": str(alive.pid), "pid_started": str(alive.create_time())}
    silent = str(now - int(processes.SILENCE_SECONDS) - 10)
    started, measured = (now - 5000) * 1000, (now - 3000) * 1000 + 7

    def create(host: str, process: dict[str, str], heartbeat: str) -> str:
        tags = {"host": host, **process, "heartbeat": heartbeat}
        created: str = client.create_run(experiment, started, tags).info.run_id
        client.log_metric(created, "train/mse", 1.0, measured, 0)
        return created

    expected = {
        create(here, gone, str(now - 4000)): ("KILLED", measured),
        create(here, gone, str(now - 2000)): ("KILLED", (now - 2000) * 1000),
        create(here, {**living, "pid_started": "1.0"}, str(now - 4000)): ("KILLED", measured),
        create("elsewhere", living, silent): ("KILLED", int(silent) * 1000),
        create("elsewhere", gone, str(now - 10)): ("RUNNING", None),
        create(here, living, silent): ("RUNNING", None),
        client.create_run(experiment, started).info.run_id: ("RUNNING", None),
    }
    sync.end_stale("regression")
    found = {run_id: client.get_run(run_id).info for run_id in expected}
    assert {run_id: (info.status, info.end_time) for run_id, info in found.items()} == expected


def test_a_running_run_that_someone_else_stored_in_the_experiment_is_left_alone(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = copy_store(small, tmp_path / "mlflow.db")
    enter(small, monkeypatch)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    foreign = MlflowClient(uri).create_run(search(uri)[0].info.experiment_id, tags={"host": "a cluster"})
    assert sync.end_stale("regression") == []
    assert MlflowClient(uri).get_run(foreign.info.run_id).info.status == "RUNNING"
