"""Where the store is, how it is created, and whether runs may be stored there."""

import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from errno import EAGAIN, EINVAL
from fcntl import LOCK_EX, flock
from hashlib import sha256
from pathlib import Path
from stat import S_ISREG
from threading import RLock
from traceback import walk_tb
from typing import Self
from urllib.parse import urlsplit, urlunsplit
from urllib.request import url2pathname

from sqlalchemy.exc import SQLAlchemyError

from pipeline.errors import InputError
from pipeline.system import addresses, repository
from pipeline.system.files import temporary_beside
from pipeline.tracking.runs import Experiment

SHARED = "/tmp"  # noqa: S108 - the folder for locks that all users share, wherever their own temporary files lie


def address() -> str:
    """Locate the store.

    Raises:
        StoreError: it is in memory.
    """
    uri = repository.store_uri()
    if uri.startswith("sqlite") and (":memory:" in uri or "mode=memory" in uri or not urlsplit(uri).path):
        raise StoreError(uri, "MLFLOW_TRACKING_URI: it names a store in memory, which is lost with this process")
    return uri


class Lock:
    """A lock that the threads and processes of this machine hold in turn; its holder may take it again.

    All users of the machine share it: its file is open to all of them, whatever the umask. The file is locked and never
    written. A link, or anything but a plain file, is refused, as anyone may put one into a shared folder.
    """

    def __init__(self, path: Path) -> None:
        """Name the lock's file, which is made when the lock is first taken."""
        self.path = path
        self._thread = RLock()
        self._depth, self._file = 0, -1

    def __enter__(self) -> Self:
        self._thread.acquire()
        try:
            if self._depth == 0:
                self._file = self._locked()
        except BaseException:
            self._thread.release()
            raise
        self._depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            os.close(self._file)
        self._thread.release()

    def _locked(self) -> int:
        while True:
            file = opened(self.path)
            flock(file, LOCK_EX)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file), self.path.lstat()):
                    return file
            os.close(file)  # somebody deleted the path meanwhile, so that others do not wait for this file


def opened(path: Path) -> int:
    """Open a lock's file, or make one that all users can open; return its descriptor.

    Raises:
        OSError: the path cannot be opened, or is a link or no plain file.
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    for last in (*[False] * 20, True):
        try:
            file = os.open(path, flags)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                os.fchmod(made := os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666), 0o666)
                return made
        except PermissionError:
            if last:
                raise
            time.sleep(0.05)  # another user may have made it just now, and not yet opened it to all
        else:
            if S_ISREG(os.fstat(file).st_mode):
                return file
            os.close(file)
            raise OSError(EINVAL, "is not a plain file", str(path))
    raise OSError(EAGAIN, "is made and deleted again and again", str(path))


def lock_of(uri: str) -> Lock:
    """Return a store's lock: beside its file; for another kind of store in the folder that all users share.

    Users who reach a store with passwords of their own share its lock.
    """
    if file := repository.sqlite_file(uri):
        return Lock(Path(f"{file}.lock"))
    unique = sha256(addresses.place(uri).encode()).hexdigest()[:16]
    return Lock(Path(SHARED if os.access(SHARED, os.W_OK) else tempfile.gettempdir()) / f"pipeline-{unique}.lock")


def count_rows(uri: str) -> None:
    """Let SQLite estimate how many rows MLflow's tables have, so that pages sorted by a metric come at once.

    Without them SQLite compares every run with every value of that metric: 3.3 s for 10,000 runs, with them 0.03 s.
    They lie in a table of SQLite's own, which is no part of MLflow's schema and which its migrations leave alone.
    """
    file = repository.sqlite_file(uri)
    if file is None:
        return
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


def artifact_root() -> str:
    """Return where the artifacts of a store without a server lie."""
    return (repository.root() / "mlartifacts").as_uri()


def artifact_folder(place: str, run_id: str) -> str:
    """Return where MLflow puts a run's artifacts, below its experiment's."""
    parts = urlsplit(place)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{run_id}/artifacts"))


def local_path(uri: str) -> Path | None:
    """Return the path of artifacts on this machine; None if they lie elsewhere."""
    return Path(url2pathname(urlsplit(uri).path)) if uri.startswith("file:") else None


def read_file(path: Path, most: int | None) -> bytes:
    """Read a file of at most `most` bytes.

    Raises:
        OSError: it cannot be read, or is larger, or is not a file but a device or a pipe.
    """
    if not path.is_file():
        raise OSError("is not a file" if path.exists() else "No such file")
    if most is not None and path.stat().st_size > most:
        raise OSError(TOO_LARGE.format(most))
    return path.read_bytes()


def write_file(folder: Path, name: str, content: bytes) -> None:
    """Write an artifact, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(folder / name)
    temporary.write_bytes(content)
    temporary.replace(folder / name)


TOO_LARGE = "is not a file of at most {} bytes"
PATIENCE_SECONDS = float(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"])  # how long a stage waits for a server
WAIT_SECONDS = 5.0  # how long a command does
REFUSED = {"UNAUTHENTICATED", "PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED", "401", "403"}


class StoreError(Exception):
    """The store fails; the message hides the secrets of its address. reason: the store's own message."""

    def __init__(self, uri: str, error: Exception | str) -> None:
        self.reason = addresses.shown(error, uri)
        said = f"MLflow's store {uri} fails: {error}"
        if isinstance(error, Exception) and is_refusal(error):
            said = (
                f"MLflow's store {uri} refuses access; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, "
                f"or MLFLOW_TRACKING_TOKEN: {error}"
            )
        elif isinstance(error, ImportError):
            said += "; install the package that this kind of store needs"
        super().__init__(addresses.shown(said, uri))


def errors() -> tuple[type[Exception], ...]:
    """List the errors of a store, as of an address's port that is no number; MLflow's own only once it is loaded."""
    loaded = sys.modules.get("mlflow.exceptions")
    return (
        SQLAlchemyError,
        sqlite3.Error,
        OSError,
        ImportError,
        ValueError,
        *([loaded.MlflowException] if loaded else []),
    )


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
