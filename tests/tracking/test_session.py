"""What a stage's storing process makes of what it is told: each run once, whole, and only what is true."""

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from conftest import default_store, enter, points, search
from mlflow import MlflowClient
from mlflow.entities import Run as StoredRun

from pipeline.config import params
from pipeline.execution.engine import Here as InProcess
from pipeline.execution.listener import Listeners
from pipeline.execution.trainer import Trainer
from pipeline.runs import outs, records, sweep
from pipeline.runs.records import Array, Record
from pipeline.runs.run import Run
from pipeline.system import processes
from pipeline.table.prepared import Prepared
from pipeline.tracking.session import Session
from pipeline.tracking.tracker import CurvePoints, Tracker
from pipeline.training.stacks import Stack


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


def direct(runs: Sequence[Run], settings: params.Params | None = None) -> Session:
    return Session(settings or params.load(), runs, os.getpid())


def of(uri: str, record: Record) -> list[StoredRun]:
    found = search(uri, f"tags.fingerprint = '{record.run.fingerprint}'")
    return sorted(found, key=lambda one: "contradicts" in one.data.tags)


def test_a_repeat_of_a_stored_run_is_not_stored_twice_but_confirms_it(uri: str, record: Record) -> None:
    direct([record.run]).finish([record])
    [first] = of(uri, record)
    assert (first.info.status, first.data.tags.get("confirmed")) == ("FINISHED", None)
    for times in ("1", "2"):
        before = datetime.now(UTC)
        repeat = direct([record.run])
        repeat.start([record.run])
        repeat.finish([record])
        [again] = of(uri, record)
        assert (again.info.run_id, again.data.tags["confirmed"]) == (first.info.run_id, times)
        confirmed_at = datetime.fromisoformat(again.data.tags["confirmed_at"])
        assert before.replace(microsecond=0) <= confirmed_at <= datetime.now(UTC)
        assert points(uri, again) == list(enumerate(record.curve.tolist()))


class Here(Listeners):
    """Stores what it hears from this process."""

    def __init__(self, session: Session, points: int) -> None:
        super().__init__()
        self.session, self.points = session, CurvePoints(points)

    def start(self, stack: Stack) -> None:
        self.session.start([run for run, _ in stack.fits])

    def follow(self, stack: Stack, curves: Array, epoch: int) -> None:
        self.session.grow(self.points.new(stack.places, curves, epoch))

    def finish(self, records: Sequence[Record]) -> None:
        self.session.finish(records)


def test_a_stage_stores_the_same_from_its_own_process_as_through_the_pipe(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(small, monkeypatch)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri := f"sqlite:///{tmp_path / 'mlflow.db'}")
    settings = params.load()
    runs = sweep.plan(settings)
    here = Session(settings, runs, os.getpid())
    for variant in settings.variants:
        own = [run for run in runs if run.variant == variant]
        prepared = Prepared.load(outs.PREPARED)
        Trainer(prepared, InProcess(prepared), Here(here, settings.track.points)).train(own)
    here.measure(records.read_evaluated(settings.variants))
    here.conclude(outs.evaluation(), outs.champion())
    here.close("FINISHED", "")

    def told(uri: str, one: StoredRun) -> tuple[object, ...]:
        datasets = sorted(str(part) for part in one.inputs.dataset_inputs)
        return one.info.status, one.data.params, one.data.metrics, points(uri, one), set(one.data.tags), datasets

    piped = {one.data.tags["fingerprint"]: one for one in search(default_store(small))}
    stored = search(uri)
    assert {one.data.tags["fingerprint"] for one in stored} == {run.fingerprint for run in runs}
    for one in stored:
        assert told(uri, one) == told(default_store(small), piped[one.data.tags["fingerprint"]])


def test_a_run_lasts_as_long_as_its_training_however_late_it_is_stored(
    uri: str, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "stop_when_told", lambda: None)  # it would change this whole test run's signals
    before = time.time()
    with Tracker(params.load(), [record.run]) as tracking:
        begin = time.time()
        tracking.start(Stack(((record.run, 0),), (5,)))
        time.sleep(1)
        tracking.finish([record])
        end = time.time()
    [stored] = of(uri, record)
    assert begin - 0.01 < stored.info.start_time / 1000 < stored.info.end_time / 1000 < end + 0.01
    assert stored.info.end_time - stored.info.start_time >= 1000
    parent = MlflowClient(uri).get_run(stored.data.tags["mlflow.parentRunId"])
    assert before - 0.01 < parent.info.start_time / 1000 < begin + 0.01


@pytest.mark.parametrize("what", ["weights", "curve"])
def test_a_repeat_that_differs_in_one_bit_is_stored_beside_the_first(
    uri: str, record: Record, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, curve = record.tensors["W"].copy(), record.curve.copy()
    changed = weights.reshape(-1) if what == "weights" else curve
    changed[5] = np.nextafter(changed[5], np.float32(np.inf))
    other = replace(record, curve=curve, tensors={**record.tensors, "W": weights})
    stage = direct([record.run])
    capsys.readouterr()  # MLflow may have said that it makes its tables
    stage.start([record.run])
    stage.finish([record])
    assert capsys.readouterr().err == ""
    stage.finish([other])
    first, second = of(uri, record)
    warning = capsys.readouterr().err
    assert warning.startswith("WARNING")
    assert first.info.run_id in warning
    assert second.data.tags["contradicts"] == first.info.run_id
    assert (first.info.status, second.info.status) == ("FINISHED", "FINISHED")
    assert points(uri, second) == list(enumerate(curve.tolist()))
    for repeated in (other, other, record):
        stage.finish([repeated])
    assert [one.data.tags["confirmed"] for one in of(uri, record)] == ["1", "2"]
    assert capsys.readouterr().err == ""


def test_of_a_run_that_diverged_only_finite_numbers_are_stored(uri: str, record: Record) -> None:
    curve = np.array([3.5, 1e30, np.inf, np.nan, 2.5, *[-np.inf] * 15], dtype=np.float32)
    broken = replace(record, curve=curve, diverged="all training rows, epoch 2")
    metrics = {"cv/mse": float("nan"), "cv/mae": float("inf"), "cv/r2": 0.5}
    stage = direct([record.run])
    stage.finish([broken])
    stage.measure([replace(broken, metrics=metrics)])
    stage.conclude([], "")
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
    direct([record.run], params.check(values)).finish([replace(record, curve=curve)])
    [stored] = of(uri, record)
    assert points(uri, stored) == list(enumerate(curve.tolist()))
    kept, whole = stored.data.params["data.features"], json.dumps(names)
    assert whole.startswith(kept[:5000])
    assert f"{len(whole)} characters" in kept
    assert kept.endswith(hashlib.sha256(whole.encode()).hexdigest())
