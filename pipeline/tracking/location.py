"""Where the store lies, how it is made, and whether runs may be stored there."""

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock

from pipeline import outs, repository
from pipeline.params import InputError
from pipeline.tracking.client import Client, Experiment, StoreError


def address() -> str:
    """Locate the store.

    Raises:
        StoreError: it lies in memory.
    """
    uri = repository.store_uri()
    if uri.startswith("sqlite") and (":memory:" in uri or "mode=memory" in uri or not urlsplit(uri).path):
        raise StoreError(uri, "MLFLOW_TRACKING_URI: it names a store in memory, which is lost with this process")
    return uri


def lock_of(uri: str) -> FileLock:
    """Name the lock of a store: beside its file, or, for another kind, in this machine's temporary folder."""
    file = repository.sqlite_file(uri)
    unique = sha256(uri.encode()).hexdigest()[:16]
    return FileLock(f"{file}.lock" if file else Path(tempfile.gettempdir()) / f"pipeline-{unique}.lock")


@contextmanager
def writers_lock(uri: str) -> Iterator[FileLock]:
    """Hold the lock of a store, making the folder that it lies in."""
    if file := repository.sqlite_file(uri):
        file.parent.mkdir(parents=True, exist_ok=True)
    lock = lock_of(uri)
    with lock:
        yield lock


def create_sqlite(file: Path) -> None:
    """Create a SQLite store with its tables where it is missing, whole or not at all; under the lock.

    Several processes that let MLflow create the tables race and fail, and one that is killed leaves half of them.
    """
    if not file.exists():
        with outs.replacing(file) as temporary:
            Client(f"sqlite:///{temporary}", 0)
    connection = sqlite3.connect(file)
    if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
        connection.execute("PRAGMA journal_mode=WAL")  # stays with the file; readers no longer block the writer
    connection.close()


def check(name: str, experiment: Experiment, uri: str) -> None:
    """Refuse an experiment that runs must not be stored in.

    Raises:
        InputError: it was deleted, or its artifacts lie at another host.
    """
    place, server = urlsplit(experiment.artifact_location), urlsplit(uri)
    if place.scheme in {"http", "https"} and place.netloc != server.netloc:
        raise InputError(
            f"MLflow's experiment {name!r} keeps its artifacts at {place.hostname}, which is not the tracking "
            "server, and would be sent its password; choose another track.experiment"
        )
    if experiment.is_deleted:
        raise InputError(
            f"params.yaml: track.experiment: {name!r} was deleted in MLflow; choose another name or bring it back: "
            f"mlflow experiments restore --experiment-id {experiment.experiment_id}"
        )
