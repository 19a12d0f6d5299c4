"""`pipeline sync` reads a SQLite store again only if somebody wrote into it, or the outs are others."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from conftest import copy_store, enter, search
from mlflow import MlflowClient

from pipeline.__main__ import main
from pipeline.tracking import sync


@pytest.fixture
def uri(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A copy of the store, which `sync` has looked at."""
    enter(small, monkeypatch)
    copied = copy_store(small, tmp_path / "copy.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", copied)
    monkeypatch.setattr(sync, "NOTE", tmp_path / "synced")
    main(["sync"])
    return copied


def test_an_unchanged_store_is_not_read_again(
    uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = capsys.readouterr().out
    monkeypatch.setattr(sync, "store_lacking", None)
    for looking in ("sync", "top", "runs", "sync"):
        main([looking])
    assert capsys.readouterr().out.startswith(first)
    assert len(search(uri)) > 0
    main(["sync"])


@pytest.mark.parametrize("how", ["deleted", "altered", "removed from the table"])
def test_what_became_of_a_run_is_seen(uri: str, how: str, capsys: pytest.CaptureFixture[str]) -> None:
    one = next(one for one in search(uri) if one.data.params["variant"] == "matrix")
    before = {run.info.run_id for run in search(uri)}
    if how == "deleted":
        MlflowClient(uri).delete_run(one.info.run_id)
    else:
        change = {"altered": "UPDATE params SET value = '7'", "removed from the table": "DELETE FROM params"}[how]
        with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as connection, connection:
            connection.execute(f"{change} WHERE run_uuid = ? AND key = 'seed'", (one.info.run_id,))
    capsys.readouterr()
    main(["sync"])
    assert "4 runs, 1 of them stored now" in capsys.readouterr().out
    [made] = {run.info.run_id for run in search(uri)} - before
    assert MlflowClient(uri).get_run(made).data.tags["fingerprint"] == one.data.tags["fingerprint"]
    main(["sync"])
    assert "4 runs, all stored" in capsys.readouterr().out


def test_a_writer_at_work_is_seen(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows that are still in the file beside the store count, too."""
    capsys.readouterr()
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM runs").fetchone()  # so that the -wal cannot be folded
        [one] = [one for one in search(uri) if one.data.params["variant"] == "matrix"][:1]
        MlflowClient(uri).delete_run(one.info.run_id)
        main(["sync"])
    assert "4 runs, 1 of them stored now" in capsys.readouterr().out


@pytest.mark.parametrize("held", [b"\xff\xfe", b"", None])
def test_a_broken_note_costs_a_look(uri: str, held: bytes | None, capsys: pytest.CaptureFixture[str]) -> None:
    sync.NOTE.unlink()
    if held is None:
        sync.NOTE.mkdir()
    else:
        sync.NOTE.write_bytes(held)
    assert search(uri)
    capsys.readouterr()
    main(["sync"])
    assert "4 runs, all stored" in capsys.readouterr().out


def test_other_outs_are_compared(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert search(uri)
    asked: list[int] = []

    def lacking(*_: object) -> int:
        asked.append(1)
        return 0

    monkeypatch.setattr(sync, "store_lacking", lacking)
    main(["sync"])
    assert not asked
    file = Path("metrics.json")
    text = file.read_text()
    try:
        file.write_text(text + "\n")
        main(["sync"])
    finally:
        file.write_text(text)
    assert asked
