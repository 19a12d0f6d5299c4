"""Runs read from the store's tables are those that MLflow's client reads; and SQLite finds its way through them."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import copy_store, default_store, enter
from mlflow import MlflowClient
from sqlalchemy import event
from sqlalchemy.engine import Engine

from pipeline.__main__ import main
from pipeline.commands import doctor
from pipeline.runs.records import CURVE
from pipeline.tracking.runs import FINISHED, StoredRun
from pipeline.tracking.store import database, location, releases
from pipeline.tracking.store.backend import Filter
from pipeline.tracking.store.client import Client
from pipeline.tracking.store.database import Database
from pipeline.tracking.store.store import reach

RUN = {"role": "run"}


def comparable(run: StoredRun) -> StoredRun:
    """Sort the datasets, which have no order."""
    return replace(run, datasets=tuple(sorted(run.datasets, key=str)))


@pytest.fixture
def altered(small: Path, tmp_path: Path) -> str:
    """A store with rows that no client would write: missing names and times, NaN, other experiments, deleted runs."""
    uri = copy_store(small, tmp_path / "mlflow.db")
    client = MlflowClient(uri)
    other = client.create_experiment("other")
    client.create_run(other, tags={"role": "run"})
    plain = client.create_run("1", tags={"empty": "", "mlflow.pipeline.seal": "hidden", "seal": "older"})
    client.log_metric(plain.info.run_id, "cv/mse", float("nan"))
    client.log_metric(plain.info.run_id, CURVE, float("inf"), step=3)
    client.delete_run(client.create_run("1", tags={"role": "run"}).info.run_id)
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        ids = [run_id for (run_id,) in connection.execute("SELECT run_uuid FROM runs WHERE experiment_id = 1")]
        connection.execute("UPDATE runs SET name = '' WHERE run_uuid = ?", [ids[0]])
        connection.execute("UPDATE runs SET name = NULL WHERE run_uuid = ?", [ids[1]])
        connection.execute("DELETE FROM tags WHERE key = 'mlflow.runName' AND run_uuid = ?", [ids[1]])
        connection.execute("UPDATE latest_metrics SET value = 0, is_nan = 1 WHERE run_uuid = ?", [ids[2]])
        connection.execute("UPDATE datasets SET dataset_profile = NULL, dataset_schema = NULL")
        connection.execute("DELETE FROM input_tags WHERE input_uuid IN (SELECT input_uuid FROM inputs LIMIT 1)")
        connection.commit()
    return uri


def test_every_search_finds_what_mlflows_client_finds(altered: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "READ_AT_ONCE", 2)  # so that there are several queries
    tables, client = Database(altered), Client(altered, 0)
    experiment = client.experiment("regression")
    assert experiment is not None
    assert tables.experiment("regression") == experiment
    assert tables.experiment("none") is None
    one = next(client.search("1", Filter(RUN), 1))
    best = {"cv/r2": True, CURVE: False}
    filters = [
        *(Filter(), Filter(RUN), Filter(earliest=True), Filter(status="RUNNING"), Filter({"role": "sweep"})),
        *(Filter(RUN, FINISHED, best=best), Filter(best={"cv/mse": False}, earliest=True)),
        *(Filter(RUN, id_start=one.run_id[:9]), Filter(fingerprint_start=one.tags["fingerprint"][:9])),
        *(Filter({"seal": "hidden"}), Filter({"role": "run", "sweep": one.tags["sweep"]}, earliest=True)),
    ]
    found = [[comparable(run) for run in tables.search("1", wanted)] for wanted in filters]
    expected = [[comparable(run) for run in client.search("1", wanted, 1000)] for wanted in filters]
    assert repr(found) == repr(expected)  # where NaN equals NaN
    assert [len(runs) for runs in expected] == [9, 6, 9, 1, 2, 5, 5, 1, 1, 1, len(found[10])]
    assert len(found[10]) in {2, 4}
    ids = [run.run_id for run in expected[0]]
    histories, others = (backend.histories(ids, CURVE) for backend in (tables, client))
    assert {one: sorted(histories.get(one, [])) for one in ids} == {one: sorted(others[one]) for one in ids}
    assert repr([comparable(tables.run(one)) for one in ids]) == repr([comparable(client.run(one)) for one in ids])
    fingerprints = [run.tags["fingerprint"] for run in expected[1]]
    for asked, count in ((fingerprints, 6), (fingerprints[:1], 1), ([*fingerprints[:2], *map(str, range(30))], 2)):
        by_table, by_client = (list(one.with_fingerprints("1", frozenset(asked))) for one in (tables, client))
        assert sorted(run.run_id for run in by_table) == sorted(run.run_id for run in by_client)
        assert len(by_table) == count
    assert list(tables.with_fingerprints("1", {"none"})) == list(client.with_fingerprints("1", {"none"})) == []


def test_a_store_of_another_schema_is_read_through_mlflow_to_the_same_end(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    enter(small, monkeypatch)
    commands = [["runs"], ["top"], ["top", "--all"], ["leaderboard", "--all"], ["sync"]]

    def said() -> list[str]:
        told = []
        for command in commands:
            main([*command, *(["--json"] if command[0] in {"runs", "top", "leaderboard"} else [])])
            told.append(capsys.readouterr().out)
        return told

    assert isinstance(reach(default_store(small), 0), Database)
    here = said()
    assert doctor.examine(deep=True).findings == []
    monkeypatch.setattr(releases, "is_known", lambda _: False)
    assert isinstance(reach(default_store(small), 0), Client)
    assert said() == here
    [finding] = doctor.examine(deep=True).findings
    assert "schema dc11669786a5 is unknown" in finding.what
    sqlite3.connect(tmp_path / "empty.db").close()
    assert reach(f"sqlite:///{tmp_path / 'empty.db'}", 0) is None
    assert isinstance(reach("http://127.0.0.1:5000", 0), Client)


def test_the_served_version_is_the_registrys(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables, registry = Database(default_store(small)), Client(default_store(small), 0)
    held = tables.served("regression-scores", "champion")
    assert held is not None
    assert held == replace(registry.version("regression-scores", held.number), tags={})
    assert tables.served("regression-scores", "none") is None
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "sqlite:///elsewhere.db")
    assert tables.served("regression-scores", "champion") is None


def test_sqlite_does_not_compare_every_run_with_every_value_of_the_metric_that_a_page_is_sorted_by(
    small: Path, tmp_path: Path
) -> None:
    """The plan of MLflow's own query is asked, as its time depends on the machine; first that the trap is there."""
    file = tmp_path / "mlflow.db"
    uri = copy_store(small, file)
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_stat1 WHERE tbl = 'latest_metrics'").fetchone() > (0,)
        connection.execute("DROP TABLE sqlite_stat1")
        for table in ("runs", "latest_metrics"):
            columns = [column for _, column, *_ in connection.execute(f"PRAGMA table_info({table})")]
            new = ", ".join("printf('%032d', n)" if column == "run_uuid" else f'"{column}"' for column in columns)
            one = f"(SELECT * FROM {table} WHERE run_uuid = (SELECT run_uuid FROM latest_metrics WHERE key = 'cv/mse'))"
            numbers = "WITH RECURSIVE few(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM few WHERE n < 2000)"
            connection.execute(f"{numbers} INSERT INTO {table} SELECT {new} FROM few, {one}")
        connection.commit()
    assert [step for step in plan(uri) if step.startswith("SCAN anon")]
    location.count_rows(uri)
    assert not [step for step in plan(uri) if step.startswith("SCAN anon")]


def plan(uri: str) -> list[str]:
    """Return the steps of the query by which MLflow finds the runs of a page that is sorted by a metric."""
    asked: list[tuple[str, tuple[object, ...]]] = []

    def note(_: object, __: object, statement: str, values: tuple[object, ...], *___: object) -> None:
        asked.append((statement, values))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        MlflowClient(uri).search_runs(["1"], "tags.role = 'run'", order_by=["metrics.`cv/mse` ASC"])
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    [(statement, values)] = [one for one in asked if "latest_metrics" in one[0] and "ORDER BY" in one[0]]
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as connection:
        return [step for *_, step in connection.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
