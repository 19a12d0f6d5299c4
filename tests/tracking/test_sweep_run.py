"""A sweep's own run says what came of the sweep, and leaves what a person wrote there."""

import os
from pathlib import Path

import pytest
from conftest import copy_store, enter, search
from mlflow import MlflowClient
from mlflow.entities import Run

from pipeline.config import params
from pipeline.runs import outs, records
from pipeline.system.files import md5_of
from pipeline.tracking.runs import NOTE
from pipeline.tracking.seals import SWEEP_METRICS
from pipeline.tracking.session import Session
from pipeline.tracking.store.client import plain


@pytest.fixture
def store(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    uri = copy_store(small, tmp_path / "mlflow.db")
    enter(small, monkeypatch)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return uri


def parent(uri: str) -> Run:
    """Find the run of the workspace's sweep."""
    [one] = [one for one in search(uri, "tags.role = 'sweep'") if "dvc_experiment" not in one.data.tags]
    return one


def evaluate_again() -> None:
    settings = params.load()
    evaluated = records.read_evaluated(settings.variants)
    session = Session(settings, [record.run for record in evaluated], os.getpid())
    session.measure(evaluated)
    session.conclude(outs.evaluation(), outs.champion())
    session.close("FINISHED", "")


def test_a_sweeps_run_has_a_readable_name_its_champions_figures_and_a_description(store: str) -> None:
    one = parent(store)
    assert one.info.run_name.startswith("scores: 2 variants × 2 batch sizes · lr 1e-5 · seed 1 · 20 epochs · data of ")
    champion = one.data.tags["champion"]
    best = [run for run in search(store) if plain(run).name.startswith(f"{champion} ")]
    assert one.data.metrics["champion/cv/mse"] == pytest.approx(best[0].data.metrics["cv/mse"])
    assert one.data.metrics.keys() <= SWEEP_METRICS
    assert (one.data.metrics["sweep/runs"], one.data.metrics["sweep/diverged"]) == (4, 0)
    note = one.data.tags[NOTE]
    assert note.startswith(f"**Champion: {champion}, cv/mse ")
    assert f"get-artifact?path=loss.svg&run_uuid={one.info.run_id}" in note
    assert one.data.tags["data"] == one.data.params["data"] == search(store)[0].data.params["data"]


def test_a_description_is_renewed_unless_a_person_changed_it(store: str) -> None:
    client, run_id, true = MlflowClient(store), parent(store).info.run_id, parent(store).data.tags[NOTE]
    client.set_tag(run_id, NOTE, "ours, but old")
    client.set_tag(run_id, "mlflow.pipeline.note_md5", md5_of(b"ours, but old"))
    client.update_run(run_id, name="my name")
    evaluate_again()
    assert parent(store).data.tags[NOTE] == true
    client.set_tag(run_id, NOTE, "a person's")
    evaluate_again()
    assert (parent(store).data.tags[NOTE], parent(store).info.run_name) == ("a person's", "my name")
    client.delete_tag(run_id, NOTE)
    evaluate_again()
    assert NOTE not in parent(store).data.tags
    assert plain(parent(store)).seal_state == "sealed"


def test_metrics_stand_at_step_0_also_after_a_change_to_one_of_an_older_version(store: str) -> None:
    client, one = MlflowClient(store), search(store)[0]
    keys = one.data.metrics.keys() - {"train/mse"}
    assert {p.step for key in keys for p in client.get_metric_history(one.info.run_id, key)} == {0}
    client.log_metric(one.info.run_id, "cv/mse", 7.0, step=19)  # where older versions stored it
    settings = params.load()
    session = Session(settings, [record.run for record in records.read_evaluated(settings.variants)], os.getpid())
    stored = plain(client.get_run(one.info.run_id))
    session.store.write(session.store.measure(stored, {"cv/mse": one.data.metrics["cv/mse"]}, session.clock()))
    assert client.get_run(one.info.run_id).data.metrics == one.data.metrics
    session.close("FINISHED", "")
