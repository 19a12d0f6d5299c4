"""A store that is copied from the environment is the one that MLflow makes."""

import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from conftest import environment
from mlflow import MlflowClient

from pipeline.tracking.store import database


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store that MLflow made elsewhere and long ago, kept as `make setup` keeps it."""
    monkeypatch.setattr(database, "KEPT", tmp_path / "share/kept.db")
    monkeypatch.chdir(tmp_path)
    database.create_empty(database.KEPT)
    return database.KEPT


def written(file: Path) -> list[str]:
    """Return the lines that define a database and its rows, without times; MLflow gives them in any order."""
    with closing(sqlite3.connect(file)) as connection:
        lines = "\n".join(connection.iterdump()).splitlines()
    return sorted(re.sub(r"\b1\d{12}\b", "now", line).strip(", \t") for line in lines)


def test_a_copied_store_is_the_one_that_mlflow_makes(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied, made = tmp_path / "repository/copied.db", tmp_path / "repository/made.db"
    made.parent.mkdir()
    monkeypatch.chdir(made.parent)
    database.create_empty(copied)
    monkeypatch.setattr(database, "KEPT", tmp_path / "nowhere.db")
    database.create_empty(made)
    assert written(copied) == written(made) != written(kept)
    [of_copy], [of_made], [old] = (
        MlflowClient(f"sqlite:///{one}").search_experiments() for one in (copied, made, kept)
    )
    assert of_copy.artifact_location == of_made.artifact_location == str(made.parent / "mlruns/0")
    assert old.creation_time < of_copy.creation_time <= of_made.creation_time
    for file in (copied, made):
        with closing(sqlite3.connect(file)) as connection:
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_opening_a_new_store_does_not_load_mlflow(kept: Path, tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from pipeline.tracking.store import database
from pipeline.tracking.store.store import Store
database.KEPT = Path({str(kept)!r})
print(Store.open("new").experiment.experiment_id, "mlflow" in sys.modules)
"""
    uri = f"sqlite:///{tmp_path / 'new.db'}"
    said = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(MLFLOW_TRACKING_URI=uri),
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout == "1 False\n"
    experiment = MlflowClient(uri).get_experiment_by_name("new")
    assert experiment is not None
    assert experiment.tags == {"mlflow.experimentKind": "custom_model_development"}
