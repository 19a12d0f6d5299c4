"""A SQLite store without runs: MLflow takes 1.5 s to make its tables, so `make setup` keeps some in the environment."""

import shutil
import sqlite3
import sys
import time
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

from pipeline.system.files import replacing
from pipeline.tracking.values import milliseconds

KEPT = Path(sys.prefix) / f"share/pipeline/mlflow-{version('mlflow')}.db"  # made by this MLflow, which others upgrade
DEFAULT = "UPDATE experiments SET artifact_location = ?, creation_time = ?, last_update_time = ?"


def create(file: Path) -> None:
    """Create a missing SQLite store with its tables, whole or not at all; call it under the lock.

    If several processes let MLflow create the tables, they race and fail; if one is killed, half of them are left.
    """
    if not file.exists():
        with replacing(file) as temporary:
            if KEPT.exists():
                copy(temporary)
            else:
                from pipeline.tracking.client import Client  # noqa: PLC0415 - loads MLflow, 1 s

                Client(f"sqlite:///{temporary}", 0)
    with closing(sqlite3.connect(file)) as connection:
        if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
            connection.execute("PRAGMA journal_mode=WAL")  # stays with the file; readers no longer block the writer


def copy(file: Path) -> None:
    """Copy the store that is kept; its one experiment is MLflow's own, of the folder and the time where it was made."""
    shutil.copyfile(KEPT, file)
    now = milliseconds(time.time())
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute(DEFAULT, (str(Path.cwd() / "mlruns/0"), now, now))


if __name__ == "__main__":
    create(KEPT)
