"""What MLflow holds of each run: once, whole, true, and found from both sides."""

import csv
import hashlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import numpy as np
import psutil
import pytest
from conftest import copy_checkout, environment, free_port, run
from mlflow import MlflowClient
from mlflow.entities import Run as StoredRun
from safetensors.numpy import load_file

from pipeline import params, provenance, records
from pipeline.__main__ import main
from pipeline.recorder import Recorder
from pipeline.records import Record
from pipeline.sweep import Run
from pipeline.tracker import Tracker
from pipeline.tracking import Store

SMALL = {
    "epochs: 1000": "epochs: 20",
    "seed: [1, 2, 3]": "seed: [1]",
    "batch_size: [1, 2, 4, full]": "batch_size: [2, full]",
    "variants: [handwritten, matrix, linear, module]": "variants: [matrix, linear]",
}


def small_repository(folder: Path) -> Path:
    """Make, once a test session, a repository with 4 runs of its own and 2 of the queued experiment `other`."""
    if not folder.exists():
        folder.mkdir()
        text = (copy_checkout(folder) / "params.yaml").read_text()
        for old, new in SMALL.items():
            assert old in text
            text = text.replace(old, new)
        (folder / "params.yaml").write_text(text)
        (folder / "dvc.lock").unlink()
        run("git", "commit", "--quiet", "--all", "--message", "A small sweep", cwd=folder)
        run("dvc", "repro", cwd=folder)
        run("git", "add", "dvc.lock", cwd=folder)
        run("git", "commit", "--quiet", "--message", "Its outs", cwd=folder)
        settings = ("-S", "variants=[linear]", "-S", "sweep.lr=[1e-6,2e-6]", "-S", "sweep.batch_size=[full]")
        run("dvc", "exp", "run", "--queue", "--name", "other", *settings, cwd=folder)
        run("dvc", "exp", "run", "--run-all", cwd=folder)
    return folder


def enter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder as a user's fresh shell would, in this process."""
    for key in [key for key in os.environ if key.startswith(("MLFLOW_RUN", "MLFLOW_TRACKING", "DVC_"))]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("PATH", environment()["PATH"])
    monkeypatch.delattr(signal, "SIGPIPE")  # which `main` would set, for this whole test run
    monkeypatch.chdir(folder)


def default_store(repository: Path) -> str:
    return f"sqlite:///{repository / 'mlflow.db'}"


def copy_store(repository: Path, file: Path) -> str:
    """Copy a repository's store, so that a test may spoil it; the artifacts stay where they are."""
    with sqlite3.connect(repository / "mlflow.db") as original, sqlite3.connect(file) as copy:
        original.backup(copy)
    return f"sqlite:///{file}"


def search(uri: str, condition: str = "tags.role = 'run'") -> list[StoredRun]:
    client = MlflowClient(uri)
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(ids, condition, max_results=1000, order_by=["attributes.start_time"]))


def points(uri: str, one: StoredRun) -> list[tuple[int, float]]:
    return sorted((p.step, p.value) for p in MlflowClient(uri).get_metric_history(one.info.run_id, "train/mse"))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_repository(tmp_path_factory.getbasetemp() / "small")


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"


@pytest.fixture
def record(small: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> Record:
    """A trained run that the store `uri` has never seen, in the repository that would store it."""
    enter(small, monkeypatch)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    one = records.read(Path("data/trained/matrix"))[0]
    return replace(one, run=replace(one.run, fingerprint=uuid4().hex))


def recorder(runs: Sequence[Run], settings: params.Params | None = None) -> Recorder:
    return Recorder(settings or params.load(), runs, os.getpid())


def of(uri: str, record: Record) -> list[StoredRun]:
    return search(uri, f"tags.fingerprint = '{record.run.fingerprint}'")


def test_a_repeat_of_a_stored_run_is_not_stored_twice_but_confirms_it(uri: str, record: Record) -> None:
    recorder([record.run]).finish(record)
    [first] = of(uri, record)
    assert (first.info.status, first.data.tags.get("confirmed")) == ("FINISHED", None)
    for times in ("1", "2"):
        repeat = recorder([record.run])
        repeat.start([record.run])
        repeat.finish(record)
        [again] = of(uri, record)
        assert (again.info.run_id, again.data.tags["confirmed"]) == (first.info.run_id, times)
        assert abs(datetime.now(UTC) - datetime.fromisoformat(again.data.tags["confirmed_at"])).total_seconds() < 60
        assert points(uri, again) == list(enumerate(record.curve.tolist()))


def test_a_run_lasts_as_long_as_its_training_however_late_it_is_stored(
    uri: str, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "stop_when_told", lambda: None)  # it would change this whole test run's signals
    with Tracker(params.load(), [record.run]) as tracker:
        begin = time.time()
        tracker.start([record.run])
        time.sleep(1)
        tracker.finish(record)
        end = time.time()
    stored_at = time.time()
    [stored] = of(uri, record)
    assert begin - 0.01 < stored.info.start_time / 1000 < stored.info.end_time / 1000 < end + 0.01
    assert stored.info.end_time - stored.info.start_time >= 1000
    assert stored_at - end > 0.5  # the storing process has hardly begun when the training is over
    parent = MlflowClient(uri).get_run(stored.data.tags["mlflow.parentRunId"])
    assert begin - 1 < parent.info.start_time / 1000 < begin + 0.01


@pytest.mark.parametrize("what", ["weights", "curve"])
def test_a_repeat_that_differs_in_one_bit_is_stored_beside_the_first(
    uri: str, record: Record, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, curve = record.tensors["W"].copy(), record.curve.copy()
    changed = weights.reshape(-1) if what == "weights" else curve
    changed[5] = np.nextafter(changed[5], np.float32(np.inf))
    other = replace(record, curve=curve, tensors={**record.tensors, "W": weights})
    stage = recorder([record.run])
    stage.start([record.run])
    stage.finish(record)
    assert capsys.readouterr().err == ""
    stage.finish(other)
    first, second = of(uri, record)
    warning = capsys.readouterr().err
    assert warning.startswith("WARNING")
    assert first.info.run_id in warning
    assert second.data.tags["contradicts"] == first.info.run_id
    assert (first.info.status, second.info.status) == ("FINISHED", "FINISHED")
    assert points(uri, second) == list(enumerate(curve.tolist()))
    for repeated in (other, other, record):
        stage.finish(repeated)
    assert [one.data.tags["confirmed"] for one in of(uri, record)] == ["1", "2"]
    assert capsys.readouterr().err == ""


def test_of_a_run_that_diverged_only_finite_numbers_are_stored(uri: str, record: Record) -> None:
    curve = np.array([3.5, 1e30, np.inf, np.nan, 2.5, *[-np.inf] * 15], dtype=np.float32)
    broken = replace(record, curve=curve, diverged="all training rows, epoch 2")
    metrics = {"cv/mse": float("nan"), "cv/mae": float("inf"), "cv/r2": 0.5}
    stage = recorder([record.run])
    stage.finish(broken)
    stage.complete([replace(broken, metrics=metrics)], [], "")
    [stored] = of(uri, record)
    assert (stored.info.status, stored.data.tags["diverged"]) == ("FAILED", "all training rows, epoch 2")
    assert points(uri, stored) == [(0, 3.5), (1, float(curve[1])), (4, 2.5)]
    assert stored.data.metrics == {"train/mse": 2.5, "cv/r2": 0.5}
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as table:
        strange = table.execute("SELECT count(*) FROM metrics WHERE is_nan OR abs(value) > 1e300").fetchone()
    assert strange == (0,)


def test_long_params_and_long_curves_are_not_cut_silently(uri: str, record: Record) -> None:
    names = [f"feature {n}" for n in range(2000)]
    values = params.load().model_dump()
    values["data"]["features"], values["track"]["points"], values["train"]["epochs"] = names, 5000, 2500
    curve = np.random.default_rng(0).normal(size=2500).astype(np.float32)
    recorder([record.run], params.check(values)).finish(replace(record, curve=curve))
    [stored] = of(uri, record)
    assert points(uri, stored) == list(enumerate(curve.tolist()))
    kept, whole = stored.data.params["data.features"], json.dumps(names)
    assert whole.startswith(kept[:5000])
    assert f"{len(whole)} characters" in kept
    assert kept.endswith(hashlib.sha256(whole.encode()).hexdigest())


@pytest.fixture
def gone() -> Iterator[dict[str, str]]:
    """The tags of a process of this host that has ended; its parent has not asked for its exit code yet."""
    process = subprocess.Popen(["sleep", "60"])
    yield {"pid": str(process.pid), "pid_started": str(psutil.Process(process.pid).create_time())}
    process.wait()


@pytest.mark.usefixtures("record")
def test_only_runs_whose_process_is_gone_are_ended_at_their_last_sign_of_life(uri: str, gone: dict[str, str]) -> None:
    psutil.Process(int(gone["pid"])).kill()
    Store.open("regression")
    client, now = MlflowClient(uri), int(time.time())
    [experiment] = [one.experiment_id for one in client.search_experiments() if one.name == "regression"]
    here, alive = provenance.host(), psutil.Process()
    assert socket.gethostname() in here
    living = {"pid": str(alive.pid), "pid_started": str(alive.create_time())}
    silent = str(now - int(provenance.SILENCE_SECONDS) - 10)
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
    Store.open("regression")
    found = {run_id: client.get_run(run_id).info for run_id in expected}
    assert {run_id: (info.status, info.end_time) for run_id, info in found.items()} == expected


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
            assert points(uri, one) == list(enumerate(curves["train/mse"][r].tolist()))
            figures = {key: float(metrics[row["fingerprint"]][key]) for key in one.data.metrics}
            assert one.data.metrics == figures
            assert set(figures) == {"cv/mse", "cv/mae", "cv/r2", "train/mse", "excess_mse", "grad_error"}
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
    assert "dvc pull" in missing.stderr
    assert "Traceback" not in missing.stderr
    assert not (tmp_path / "clone/mlflow.db").exists()
    enter(small, monkeypatch)
    before, text = search(default_store(small), ""), Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("epochs: 20", "epochs: 21"))
    try:
        with pytest.raises(SystemExit, match="dvc repro"):
            main(["sync"])
    finally:
        Path("params.yaml").write_text(text)
    assert {one.info.run_id for one in search(default_store(small), "")} == {one.info.run_id for one in before}


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
        assert tags["host"].startswith(socket.gethostname())
        assert tags["pid"].isdecimal()
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
        with pytest.raises(SystemExit, match=unknown) as ended:
            main(["runs", unknown])
        assert isinstance(ended.value.code, str)  # a message, which Python prints, and exit code 1


def test_an_experiment_stores_in_the_repository_and_in_no_run_that_the_environment_names(small: Path) -> None:
    uri = f"sqlite:///{small / 'other.db'}"
    before = {one.info.run_id for one in search(default_store(small), "")}
    try:
        victim = MlflowClient(uri).create_run("0").info.run_id
        settings = ("-S", "variants=[matrix]", "-S", "sweep.batch_size=[full]", "-S", "sweep.lr=[3e-6]")
        extra = {"MLFLOW_TRACKING_URI": "sqlite:///other.db", "MLFLOW_RUN_ID": victim}
        run("dvc", "exp", "run", "--temp", "--name", "relative", *settings, cwd=small, extra=extra)
        [stored] = search(uri)
        assert (stored.info.status, stored.data.params["lr"]) == ("FINISHED", "3e-06")
        hijacked = MlflowClient(uri).get_run(victim)
        assert (hijacked.info.status, hijacked.data.metrics, hijacked.data.params) == ("RUNNING", {}, {})
        assert {one.info.run_id for one in search(default_store(small), "")} == before
    finally:
        for path in small.glob("other.db*"):
            path.unlink()


@pytest.mark.parametrize("command", ["top", "runs", "sync", "doctor"])
def test_a_store_that_does_not_answer_gets_a_message(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    enter(small, monkeypatch)
    address = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(SystemExit) as ended:
        main([command])
    assert ended.value.code not in {None, 0}
    assert address in f"{ended.value.code}{capsys.readouterr().out}"


def test_a_running_run_that_someone_else_stored_in_the_experiment_is_left_alone(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = copy_store(small, tmp_path / "mlflow.db")
    enter(small, monkeypatch)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    foreign = MlflowClient(uri).create_run(search(uri)[0].info.experiment_id, tags={"host": "a cluster"})
    main(["top"])
    assert MlflowClient(uri).get_run(foreign.info.run_id).info.status == "RUNNING"
