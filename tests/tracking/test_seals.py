"""Records that were altered after their run ended: found, named, marked, and never believed."""

import json
import os
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import alterations
import pytest
from conftest import copy_store, default_store, enter, points, search
from mlflow import MlflowClient

from pipeline.__main__ import main
from pipeline.commands import doctor
from pipeline.config import params
from pipeline.errors import InputError
from pipeline.runs import records
from pipeline.runs.records import Record
from pipeline.system.tables import Row
from pipeline.tracking import queries
from pipeline.tracking.session import Session
from pipeline.tracking.store import releases
from pipeline.tracking.store.client import Client, plain

Shown = Callable[..., list[dict[str, str]]]


@pytest.fixture
def store(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A copy of the small sweep's store, to spoil."""
    enter(small, monkeypatch)
    uri = copy_store(small, tmp_path / "copy.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return uri


def alter(uri: str, sql: str) -> None:
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as connection:
        assert connection.execute(sql).rowcount > 0
    connection.close()


def top(metric: str = "cv/mse", limit: int = 10) -> list[Row]:
    return queries.top(params.load().track.experiment, metric, limit, queries.Scope())


def evaluated() -> list[Record]:
    return records.read_evaluated(params.load().variants)


@pytest.mark.parametrize(
    "name",
    [
        *("last cv/mse", "cv/mse", "point", "param lr", "tag git_commit", "tag data_md5", "tag fingerprint", "status"),
        *(
            "run deleted",
            "tag weights_md5 removed",
            "weights and their md5",
            "artifacts/params.yaml",
            "tag mlflow.pipeline.seal removed",
        ),
        *(
            "artifacts/summary.json",
            "dataset source",
            "sweep's champion",
            "sweep's figure",
            "tag confirmed added",
            "dvc.lock",
        ),
    ],
)
def test_a_single_alteration_is_found_and_named(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    enter(small, monkeypatch)

    def look(uri: str) -> str:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        return "\n".join(finding.what for finding in doctor.examine(deep=True).findings)

    assert alterations.Altered(small, tmp_path, look).cases()[name]()
    assert look(default_store(small)) == ""


def test_a_run_whose_metric_was_forged_is_marked_and_is_not_the_best(store: str) -> None:
    before = top()
    assert {row["seal"] for row in before} == {"sealed"}
    victim = before[-1]["run_id"]
    alter(store, f"UPDATE latest_metrics SET value = 1e-9 WHERE run_uuid = '{victim}' AND key = 'cv/mse'")
    rows = top()
    assert [row["run_id"] for row in rows] == [*[row["run_id"] for row in before[:-1]], victim]
    assert (rows[-1]["seal"], rows[-1]["cv/mse"]) == ("altered", 1e-9)
    few = top(limit=2)  # the true two best, and the forged one, which claims to be better, below them
    assert [row["run_id"] for row in few] == [before[0]["run_id"], before[1]["run_id"], victim]


def test_many_forged_runs_do_not_push_true_ones_out_of_a_short_list(store: str) -> None:
    before = top()
    forged = ", ".join(f"'{row['run_id']}'" for row in before[1:])
    alter(store, f"UPDATE latest_metrics SET value = 1e-9 WHERE run_uuid IN ({forged}) AND key = 'cv/mse'")
    assert top(limit=1)[0]["run_id"] == before[0]["run_id"]


def test_what_people_add_breaks_no_seal(store: str) -> None:
    client = MlflowClient(store)
    for one in search(store, ""):
        client.set_tag(one.info.run_id, "mlflow.note.content", "looks good")
        client.set_tag(one.info.run_id, "reviewed", "yes")
        client.log_metric(one.info.run_id, "my own metric", 0.5)
        client.update_run(one.info.run_id, name=f"{one.info.run_name} (best?)")
    assert {row["seal"] for row in top()} == {"sealed"}
    assert doctor.examine(deep=True).findings == []


def test_runs_that_are_older_than_seals_read_unsealed_and_are_no_findings(store: str) -> None:
    alter(store, "DELETE FROM tags WHERE key LIKE '%seal%'")
    assert {row["seal"] for row in top()} == {"unsealed"}
    examined = doctor.examine(deep=True)
    assert examined.findings == []
    assert "6 of them unsealed" in examined.looked_at


def test_records_of_versions_that_hid_no_tags_and_had_no_figures_stay_sealed(store: str) -> None:
    for run in map(plain, search(store, "")):
        sweep = run.tags["role"] == "sweep"
        seal = replace(run, metrics={} if sweep else run.metrics).sealed.seal()
        alter(store, f"UPDATE tags SET value = '{seal}' WHERE run_uuid = '{run.run_id}' AND key LIKE '%.seal'")
        if sweep:
            alter(store, f"DELETE FROM latest_metrics WHERE run_uuid = '{run.run_id}'")
    alter(store, "UPDATE tags SET key = replace(key, 'mlflow.pipeline.', '') WHERE key LIKE 'mlflow.pipeline.%'")
    assert not any(key.startswith("mlflow.pipeline.") for one in search(store, "") for key in one.data.tags)
    examined = doctor.examine(deep=True)
    assert (examined.findings, "unsealed" in examined.looked_at) == ([], False)


def test_a_sweep_whose_run_was_altered_is_stored_again_beside_it(
    store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    record = evaluated()[0]
    [victim] = search(store, f"tags.fingerprint = '{record.run.fingerprint}'")
    alter(store, f"UPDATE params SET value = '1.0' WHERE run_uuid = '{victim.info.run_id}' AND key = 'lr'")
    main(["sync"])
    assert "1 of them stored now" in capsys.readouterr().out
    found = {one.info.run_id: one for one in search(store, f"tags.fingerprint = '{record.run.fingerprint}'")}
    assert len(found) == 2
    [restored] = [one for run_id, one in found.items() if run_id != victim.info.run_id]
    assert restored.data.metrics == record.metrics
    assert found[victim.info.run_id].data.tags == victim.data.tags  # neither believed nor touched
    MlflowClient(store).delete_run(victim.info.run_id)
    assert doctor.examine(deep=True).findings == []


def test_an_altered_run_is_not_confirmed_by_a_repeat(store: str) -> None:
    settings, record = params.load(), evaluated()[0]
    [victim] = search(store, f"tags.fingerprint = '{record.run.fingerprint}'")
    alter(store, f"UPDATE latest_metrics SET value = 0 WHERE run_uuid = '{victim.info.run_id}' AND key = 'cv/mse'")
    Session(settings, [one.run for one in evaluated()], os.getpid()).finish([record])
    found = search(store, f"tags.fingerprint = '{record.run.fingerprint}'")
    assert [("confirmed" in one.data.tags, "contradicts" in one.data.tags) for one in found] == [(False, False)] * 2


def test_the_seal_is_the_hash_of_what_it_says_it_covers(store: str) -> None:
    # By hand, from what MLflow's own client returns: another implementation than the one that wrote it.
    one = search(store)[0]
    unsealed = ("mlflow.pipeline.", "confirmed", "mlflow.runName", "mlflow.note.content", "error")
    covered = {key: value for key, value in one.data.tags.items() if not key.startswith(unsealed)}
    inputs = [
        [part.dataset.name, part.dataset.digest, *(f"{tag.key}={tag.value}" for tag in part.tags)]
        for part in one.inputs.dataset_inputs
    ]
    values = {
        "status": one.info.status,
        "start": one.info.start_time,
        "end": one.info.end_time,
        "params": one.data.params,
        "metrics": one.data.metrics,
        "tags": covered | {"seal_files": one.data.tags["mlflow.pipeline.seal_files"]},
        "datasets": sorted(inputs),
    }
    expected = sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    assert one.data.tags["mlflow.pipeline.seal"].split()[0] == expected


@pytest.mark.parametrize("alteration", ["nothing", "point", "param"])
def test_a_killed_attempt_is_continued_unless_it_was_altered(store: str, alteration: str) -> None:
    settings, everything = params.load(), evaluated()
    record = replace(everything[0], run=replace(everything[0].run, fingerprint=uuid4().hex))
    attempt = Session(settings, [record.run], os.getpid())
    attempt.start([record.run])
    attempt.grow({record.run.fingerprint: {0: float(record.curve[0]), 1: float(record.curve[1])}})
    attempt.close("KILLED", "on purpose")
    [killed] = search(store, f"tags.fingerprint = '{record.run.fingerprint}'")
    where = f"WHERE run_uuid = '{killed.info.run_id}'"
    if alteration == "point":
        alter(store, f"UPDATE metrics SET value = 7 {where} AND key = 'train/mse' AND step = 1")
    elif alteration == "param":
        alter(store, f"UPDATE params SET value = '7' {where} AND key = 'epochs'")
    again = Session(settings, [record.run], os.getpid())
    again.start([record.run])
    again.finish([record])
    again.close("FINISHED", "")
    found = search(store, f"tags.fingerprint = '{record.run.fingerprint}'")
    assert {one.info.run_id: one.info.status for one in found}[killed.info.run_id] == (
        "FINISHED" if alteration == "nothing" else "KILLED"
    )
    assert len(found) == (1 if alteration == "nothing" else 2)
    [whole] = [one for one in found if one.info.status == "FINISHED"]
    assert points(store, whole) == list(enumerate(record.curve.tolist()))
    assert plain(whole).seal_state == "sealed"
    assert whole.data.params["epochs"] == "20"


@pytest.mark.parametrize("way", ["tables", "client"])
@pytest.mark.usefixtures("store")
def test_a_stage_that_is_killed_amid_the_metrics_leaves_a_seal_that_matches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    uri = f"sqlite:///{tmp_path / 'new.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    if way == "client":
        monkeypatch.setattr(releases, "is_known", lambda _: False)
    everything = evaluated()
    session = Session(params.load(), [one.run for one in everything], os.getpid())
    session.finish(everything)
    log, calls = Client._log, []

    def killed(*arguments: Any, **given: Any) -> None:  # noqa: ANN401
        calls.append(arguments)
        if way == "tables" or len(calls) == 2:  # when all rows are written; after the first seal, before its metrics
            raise KeyboardInterrupt
        log(*arguments, **given)

    with monkeypatch.context() as patched:
        patched.setattr(
            f"pipeline.tracking.store.{'database.conclude' if way == 'tables' else 'client.Client._log'}", killed
        )
        with pytest.raises(KeyboardInterrupt):
            session.measure(everything)
    left = [plain(one) for one in search(uri)]
    assert {one.seal_state for one in left} == {"sealed"}
    assert {len(one.tags["seal"].split()) for one in left} == ({1} if way == "tables" else {1, 2})
    assert {tuple(one.metrics) for one in left} == {("train/mse",)}
    session.measure(everything)
    session.conclude([], "champion")
    session.close("FINISHED", "")
    assert {plain(one).seal_state for one in search(uri, "")} == {"sealed"}
    monkeypatch.undo()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert doctor.examine(deep=True).findings == []


def test_artifacts_are_read_and_written_where_mlflow_would_have_put_them(store: str, tmp_path: Path) -> None:
    victim = search(store)[0]
    stray = tmp_path / "stray"
    stray.mkdir()
    weights = Path(victim.info.artifact_uri.removeprefix("file://")) / "weights.safetensors"
    (stray / weights.name).write_bytes(weights.read_bytes())
    where = f"WHERE run_uuid = '{victim.info.run_id}'"
    alter(store, f"UPDATE runs SET artifact_uri = '{stray.as_uri()}' {where}")
    [finding] = doctor.examine(deep=True).findings
    assert str(stray) in finding.what
    (stray / weights.name).unlink()
    alter(store, f"UPDATE runs SET status = 'KILLED' {where}")
    main(["sync"])
    assert list(stray.iterdir()) == []  # stored beside it, not into it


def test_an_experiment_whose_artifacts_another_host_keeps_is_refused(store: str) -> None:
    alter(store, "UPDATE experiments SET artifact_location = 'http://127.0.0.1:9/stolen' WHERE name = 'regression'")
    with pytest.raises(InputError, match="password"):
        top()
