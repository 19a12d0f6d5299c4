"""An unknown release of MLflow is named with what it costs, and no store is ever migrated."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from conftest import copy_store, default_store, enter, search
from test_store_uri import stored

from pipeline.commands import doctor
from pipeline.config import params
from pipeline.runs import records
from pipeline.tracking import tracker
from pipeline.tracking.session import Session
from pipeline.tracking.store import database, releases
from pipeline.tracking.store.client import Client
from pipeline.tracking.store.location import StoreError

KNOWN, UNKNOWN = "dc11669786a5", "f4a9b2c7d1e6"  # of 3.17.2 and 3.18.0


@pytest.fixture
def uri(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A copy of a repository's store."""
    enter(small, monkeypatch)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", copied := copy_store(small, tmp_path / "mlflow.db"))
    return copied


def dump(uri: str) -> list[str]:
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as connection:
        return list(connection.iterdump())


def stage() -> Session:
    """Begin to store a stage, as its storing process does."""
    everything = records.read_evaluated(params.load().variants)
    return Session(params.load(), [one.run for one in everything], os.getpid())


@pytest.mark.parametrize("revision", [UNKNOWN, "90e64c465722"])  # a later release's, and an earlier one's
def test_a_store_of_another_release_is_named_and_left_as_it_is(
    uri: str, revision: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", [revision])
        connection.execute("DROP TABLE webhooks")  # MLflow migrates a store that lacks a table without a question
    before = dump(uri)
    assert stored(0.0, monkeypatch) == tracker.STORE_LOST
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert all(part in said for part in (revision, KNOWN, "3.17.2", "left as they are"))
    assert any(revision in finding.what for finding in doctor.examine(deep=False).findings)
    with pytest.raises(StoreError, match=revision):
        Client(uri, 0)
    assert dump(uri) == before


def test_pages_of_an_unknown_release_get_no_views_and_the_stage_and_doctor_say_so(
    uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(database, "version", lambda _: "3.18.0")
    direct = stage()
    direct.close("FINISHED", "")
    [said] = capsys.readouterr().err.splitlines()
    assert said.startswith("WARNING: the pages of MLflow 3.18.0 are unknown, so no saved views are written")
    [finding] = doctor.examine(deep=False).findings
    assert "3.18.0" in finding.what
    assert "saved views" in finding.what
    assert uri == direct.store.backend.uri


def test_an_unknown_schema_costs_the_fast_store_and_nothing_else(
    uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    held = len(search(uri))
    monkeypatch.setattr(releases, "RELEASES", {})
    direct = stage()
    direct.close("FINISHED", "")
    [said] = capsys.readouterr().err.splitlines()
    assert KNOWN in said
    assert "slowly" in said
    assert "no saved views" in said
    [finding] = doctor.examine(deep=False).findings
    assert finding.what in said
    assert len(search(uri)) == held


def test_a_known_release_is_not_mentioned(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    stage().close("FINISHED", "")
    assert capsys.readouterr().err == ""
    assert doctor.examine(deep=False).findings == []
    assert releases.schema(uri) == KNOWN
    assert releases.schema("http://127.0.0.1:5000") is None


def test_a_database_without_mlflows_tables_has_no_schema(small: Path, tmp_path: Path) -> None:
    assert releases.schema(f"sqlite:///{tmp_path / 'new.db'}") == ""
    assert releases.is_known(releases.schema(default_store(small)) or "")
