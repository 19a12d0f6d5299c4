"""What is stored in one transaction is, in every table and artifact, what MLflow's own client stores run by run."""

import os
import re
import sqlite3
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import enter, points, search

from pipeline.config import params
from pipeline.runs import outs, records
from pipeline.runs.records import Record
from pipeline.tracking import values
from pipeline.tracking.session import Session
from pipeline.tracking.store import database, releases
from pipeline.tracking.store.client import plain

NOW = 1.7e9
TIMES = ("creation_time", "last_update_time")  # of experiments, which MLflow stamps itself


@pytest.fixture
def swept(small: Path, monkeypatch: pytest.MonkeyPatch) -> list[Record]:
    """Four runs in their repository, of which the second diverged, at a time that stands still."""
    enter(small, monkeypatch)
    monkeypatch.setattr(time, "time", lambda: NOW)
    monkeypatch.setattr(values, "now", lambda: "2026-01-01T00:00:00+00:00")
    evaluated = records.read_evaluated(params.load().variants)
    curve = np.where(np.arange(20) < 5, evaluated[1].curve, np.inf).astype(np.float32)
    evaluated[1] = replace(evaluated[1], curve=curve, diverged="all training rows, epoch 5", metrics={"cv/mse": np.nan})
    return evaluated


def begin(everything: list[Record]) -> Session:
    return Session(params.load(), [one.run for one in everything], os.getpid(), clock=lambda: NOW)


def store(everything: list[Record]) -> None:
    """Store a sweep: a run killed and continued, a diverged, a confirmed, a contradicted, and a restored one."""
    first, diverged, third, _ = everything
    killed = begin(everything)
    killed.start([first.run, diverged.run])
    killed.grow({first.run.fingerprint: {0: float(first.curve[0]), 1: float(first.curve[1])}})
    killed.close("KILLED", "on purpose")
    stage = begin(everything)
    stage.start([one.run for one in (first, diverged, third)])
    stage.finish([first, diverged, third])
    other = replace(third, curve=np.nextafter(third.curve, np.float32(np.inf)))
    stage.finish([first, other])
    stage.close("FINISHED", "")
    evaluation = begin(everything)
    evaluation.measure(everything)
    evaluation.conclude(outs.evaluation(), "")
    evaluation.close("FINISHED", "")


def content(file: Path) -> tuple[dict[str, list[str]], dict[str, bytes]]:
    """Read all tables, and all files of the artifacts, with names in place of ids."""
    with closing(sqlite3.connect(file)) as connection:
        connection.row_factory = sqlite3.Row
        found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        rows = {name: [dict(row) for row in connection.execute(f"SELECT * FROM {name}")] for (name,) in found}
    others = {row["run_uuid"] for row in rows["tags"] if row["key"] == "contradicts"}
    names = {row["run_uuid"]: f"{row['name']}{row['run_uuid'] in others}" for row in rows["runs"]}
    names |= {row["dataset_uuid"]: row["name"] for row in rows["datasets"]}
    uses = {
        row["input_uuid"]: f"{names[row['destination_id']]} uses {names[row['source_id']]}" for row in rows["inputs"]
    }
    names |= uses | {
        row["value"]: row["key"] for row in rows["tags"] if row["key"].endswith(("attempt", ".seal", "note_md5"))
    }
    ids = re.compile("|".join(sorted(names, key=len, reverse=True)) or "(?!)")

    def shown(row: Mapping[str, object]) -> str:
        text = str({key: value for key, value in row.items() if key not in TIMES})
        return ids.sub(lambda match: names[match[0]], text)

    files: dict[str, bytes] = {}
    for row in rows["runs"]:
        folder = Path(row["artifact_uri"].removeprefix("file://"))
        files |= {f"{names[row['run_uuid']]}/{path.name}": path.read_bytes() for path in folder.glob("*")}
    return {name: sorted(map(shown, of_table)) for name, of_table in rows.items()}, files


def test_both_ways_of_storing_make_the_same_rows_and_artifacts(
    swept: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast, slow = (f"sqlite:///{tmp_path / name}" for name in ("fast.db", "slow.db"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", fast)
    store(swept)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", slow)
    monkeypatch.setattr(releases, "is_known", lambda _: False)
    monkeypatch.setattr(database.Database, "write", None)
    store(swept)
    (made, files), (expected, expected_files) = (content(tmp_path / name) for name in ("fast.db", "slow.db"))
    assert files == expected_files
    assert made.keys() == expected.keys()
    for name, rows in expected.items():
        assert made[name] == rows, name
    runs = search(fast)
    assert {one.info.status for one in runs} == {"FINISHED", "FAILED"}
    assert len(runs) == 5
    assert {plain(one).seal_state for one in search(fast, "")} == {"sealed"}
    [confirmed] = [one for one in runs if "confirmed" in one.data.tags]
    assert points(fast, confirmed) == list(enumerate(swept[0].curve.tolist()))
