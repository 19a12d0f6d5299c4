"""Where the store is, how it is created, and whether runs may be stored there."""

import os
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from traceback import walk_tb
from urllib.parse import urlsplit, urlunsplit
from urllib.request import url2pathname

from filelock import FileLock
from sqlalchemy.exc import SQLAlchemyError

from pipeline.errors import InputError
from pipeline.system import repository
from pipeline.system.files import replacing, temporary_beside
from pipeline.tracking.runs import Experiment
from pipeline.tracking.values import milliseconds


def address() -> str:
    """Locate the store.

    Raises:
        StoreError: it is in memory.
    """
    uri = repository.store_uri()
    if uri.startswith("sqlite") and (":memory:" in uri or "mode=memory" in uri or not urlsplit(uri).path):
        raise StoreError(uri, "MLFLOW_TRACKING_URI: it names a store in memory, which is lost with this process")
    return uri


def lock_of(uri: str) -> FileLock:
    """Return a store's lock: beside its file, or, for another kind of store, in this machine's temporary folder."""
    file = repository.sqlite_file(uri)
    unique = sha256(uri.encode()).hexdigest()[:16]
    return FileLock(f"{file}.lock" if file else Path(tempfile.gettempdir()) / f"pipeline-{unique}.lock")


@contextmanager
def writers_lock(uri: str) -> Iterator[FileLock]:
    """Hold a store's lock; create the folder for it if needed."""
    if file := repository.sqlite_file(uri):
        file.parent.mkdir(parents=True, exist_ok=True)
    lock = lock_of(uri)
    with lock:
        yield lock


def count_rows(file: Path) -> None:
    """Let SQLite estimate how many rows MLflow's tables have, so that pages sorted by a metric come at once.

    Without estimates it compares every run with every value of that metric: 3.3 s for 10,000 runs, with them 0.03 s.
    They lie in a table of SQLite's own, which is no part of MLflow's schema and which its migrations leave alone.
    """
    # A writer may be at work; the next stage counts again.
    with closing(sqlite3.connect(file)) as connection, suppress(sqlite3.OperationalError):
        connection.execute("PRAGMA analysis_limit=1000")  # rows looked at, of an index: 4 ms, however many there are
        for table in ("runs", "latest_metrics", "params", "tags"):
            connection.execute(f"ANALYZE {table}")
        connection.commit()


def check(name: str, experiment: Experiment, uri: str) -> None:
    """Refuse an experiment in which runs must not be stored.

    Raises:
        InputError: it was deleted, or its artifacts are on another host.
    """
    place, server = urlsplit(experiment.artifact_location), urlsplit(uri)
    if place.scheme in {"http", "https"} and place.netloc != server.netloc:
        raise InputError(
            f"MLflow's experiment {name!r} keeps its artifacts at {place.hostname}, which is not the tracking "
            "server but would be sent its password; choose another track.experiment"
        )
    if experiment.is_deleted:
        raise InputError(
            f"params.yaml: track.experiment: {name!r} was deleted in MLflow; choose another name or restore it: "
            f"mlflow experiments restore --experiment-id {experiment.experiment_id}"
        )


def artifact_folder(place: str, run_id: str) -> str:
    """Return where MLflow puts a run's artifacts, below its experiment's."""
    parts = urlsplit(place)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{run_id}/artifacts"))


def local_path(uri: str) -> Path | None:
    """Return the path of artifacts on this machine; None if they lie elsewhere."""
    return Path(url2pathname(urlsplit(uri).path)) if uri.startswith("file:") else None


def write_file(folder: Path, name: str, content: bytes) -> None:
    """Write an artifact, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(folder / name)
    temporary.write_bytes(content)
    temporary.replace(folder / name)


PATIENCE_SECONDS = float(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"])  # how long a stage waits for a server
WAIT_SECONDS = 5.0  # how long a command does
REFUSED = {"UNAUTHENTICATED", "PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED", "401", "403"}


class StoreError(Exception):
    """The store fails; the message hides any password in its address. reason: the store's own message."""

    def __init__(self, uri: str, error: Exception | str) -> None:
        self.reason = repository.without_password(str(error))
        said = f"MLflow's store {uri} fails: {error}"
        if isinstance(error, Exception) and is_refusal(error):
            said = (
                f"MLflow's store {uri} refuses access; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, "
                f"or MLFLOW_TRACKING_TOKEN: {error}"
            )
        elif isinstance(error, ImportError):
            said += "; install the package that this kind of store needs"
        super().__init__(repository.without_password(said))


def errors() -> tuple[type[Exception], ...]:
    """List the errors of a store; MLflow's own only once it is loaded, as nothing else raises them."""
    loaded = sys.modules.get("mlflow.exceptions")
    return (SQLAlchemyError, sqlite3.Error, OSError, ImportError, *([loaded.MlflowException] if loaded else []))


@contextmanager
def failing(uri: str) -> Iterator[None]:
    """Turn errors of MLflow, its drivers and the file system into one kind.

    Raises:
        StoreError: any of them.
    """
    try:
        yield
    except errors() as error:
        raise StoreError(uri, error) from error


def is_refusal(error: Exception) -> bool:
    """Tell whether a server answered 401 or 403, with or without MLflow's error code."""
    return str(getattr(error, "error_code", "")) in REFUSED or http_status(error) in {401, 403}


def http_status(error: Exception) -> int:
    """Find the HTTP status of a failed request, 0 for none: of a JSON answer, MLflow keeps only the text."""
    places = [vars(error), *(frame.f_locals for frame, _ in walk_tb(error.__traceback__))]
    statuses = (getattr(place.get("response"), "status_code", None) for place in places)
    return next((status for status in statuses if isinstance(status, int)), 0)


KEPT = Path(sys.prefix) / f"share/pipeline/mlflow-{version('mlflow')}.db"  # made by this MLflow, which others upgrade
DEFAULT = "UPDATE experiments SET artifact_location = ?, creation_time = ?, last_update_time = ?"


def create_empty(file: Path) -> None:
    """Create a missing SQLite store with its tables, whole or not at all; call it under the lock.

    If several processes let MLflow create the tables, they race and fail; if one is killed, half of them are left.
    """
    if not file.exists():
        with replacing(file) as temporary:
            if KEPT.exists():
                copy(temporary)
            else:
                from pipeline.tracking.store.client import Client  # noqa: PLC0415 - loads MLflow, 1 s

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
    create_empty(KEPT)
