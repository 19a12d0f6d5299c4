"""MLflow's store, in terms of fingerprints, sweeps and seals. Every search of it is here.

Store: MLFLOW_TRACKING_URI if set, else <repository>/mlflow.db with <repository>/mlartifacts beside it.
"""

import math
import tempfile
import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Self

from filelock import FileLock

from pipeline.errors import InputError
from pipeline.metrics import HIGHER_IS_BETTER
from pipeline.runs.records import CURVE
from pipeline.system import repository
from pipeline.tracking import seals
from pipeline.tracking.runs import FINISHED, NOTHING, RUNNING, Experiment, Point, StoredRun
from pipeline.tracking.store import database, location
from pipeline.tracking.store.backend import Change, Filter, New, Writer
from pipeline.tracking.store.database import Bulk, has_tables
from pipeline.tracking.store.location import WAIT_SECONDS, StoreError, failing
from pipeline.tracking.values import milliseconds

if TYPE_CHECKING:  # it imports MLflow
    from pipeline.tracking.store.client import Client

PAGE = 1000  # most runs that MLflow finds at once
FEW = 20  # fingerprints that a server is asked for one by one: a search takes 10 ms, and one for all runs 1 ms for each
RUN = {"role": "run"}
TOO_LARGE = "is not a file of at most {} bytes"
OWNED = ("host", "pid", "pid_started", "heartbeat")  # the tags of the process that fills in a run


@dataclass(frozen=True)
class Store:
    """An experiment in a tracking store, and the lock that its writers on this machine share.

    patience: how many seconds to wait for a server. bulk: the store's tables, None if they cannot be read as such.
    """

    uri: str
    experiment: Experiment
    lock: FileLock
    patience: float
    bulk: Bulk | None

    @property
    def is_server(self) -> bool:
        """Tell whether the store is reached through an MLflow server."""
        return self.uri.startswith("http")

    @cached_property
    def client(self) -> "Client":
        """MLflow's client, which takes a second to load: only writing needs it, and a store without `bulk`."""
        return connect(self.uri, self.patience)

    @cached_property
    def writer(self) -> Writer:
        """What writes runs: into the store's tables, or through MLflow's client where they are not known."""
        if self.bulk:
            return database.Tables(self.bulk, self._upload)
        from pipeline.tracking.store.client import Requests  # noqa: PLC0415 - loads MLflow, 1 s

        return Requests(self.client)

    def _upload(self, folder_uri: str, name: str, content: bytes) -> None:
        if folder := location.local_path(folder_uri):
            location.write_file(folder, name, content)
        else:
            self.client.upload(folder_uri, name, content)

    @classmethod
    def open(cls, name: str, patience: float = WAIT_SECONDS) -> Self:
        """Connect to the store, creating it and its experiment if missing.

        Raises:
            InputError: the experiment was deleted, or its artifacts are on another host.
            StoreError: the store fails.
        """
        uri = location.address()
        with failing(uri), location.writers_lock(uri):
            if file := repository.sqlite_file(uri):
                location.create_empty(file)
            if (store := cls._of(name, uri, patience)) is None:
                try:
                    create_experiment(name, uri, patience)
                except StoreError:  # another host was faster, or the answer to our first try was lost
                    if cls._of(name, uri, patience) is None:
                        raise
                store = cls._of(name, uri, patience)
        assert store is not None
        location.check(name, store.experiment, uri)
        return store

    @classmethod
    def look(cls, name: str, patience: float = WAIT_SECONDS) -> Self | None:
        """Connect to the store without creating anything; None if it or its experiment is missing.

        Raises:
            InputError: the experiment was deleted, or its artifacts are on another host.
            StoreError: the store fails.
        """
        uri = location.address()
        file = repository.sqlite_file(uri)
        if (file is not None and not file.exists()) or not has_tables(uri):
            return None
        if store := cls._of(name, uri, patience):
            location.check(name, store.experiment, uri)
        return store

    @classmethod
    def _of(cls, name: str, uri: str, patience: float) -> Self | None:
        bulk = Bulk.of(uri)
        experiment = bulk.experiment(name) if bulk else connect(uri, patience).experiment(name)
        return cls(uri, experiment, location.lock_of(uri), patience, bulk) if experiment else None

    def _search(self, wanted: Filter, page: int = PAGE) -> Iterator[StoredRun]:
        if self.bulk:
            return self.bulk.search(self.experiment.experiment_id, wanted)
        return self.client.search(self.experiment.experiment_id, wanted, page)

    def everything(self) -> Iterator[StoredRun]:
        """Find all runs of the experiment, whoever stored them."""
        return self._search(Filter())

    def runs(self) -> Iterator[StoredRun]:
        """Find all runs that trained."""
        return self._search(Filter(RUN))

    def best(self, metric: str, page: int) -> Iterator[StoredRun]:
        """Find the finished runs that have a metric, best first, `page` a request.

        Of equals, the one with the smaller training loss comes first, then the earlier one, as on the leaderboard.
        """
        keys = dict.fromkeys((metric, CURVE))
        best = {key: key in HIGHER_IS_BETTER for key in keys}
        return self._search(Filter(RUN, FINISHED, best=best, earliest=True), min(PAGE, page))

    def running(self, owner: Mapping[str, str] = NOTHING) -> list[StoredRun]:
        """Find the runs that say RUNNING; given an owner's tags, only its own."""
        found = self._search(Filter(status=RUNNING))  # few: compared here, as older runs' tags have no prefix
        return [run for run in found if owner.items() <= run.tags.items()]

    def owned(self) -> list[StoredRun]:
        """Find the runs that say RUNNING and name the process that fills them in."""
        return [run for run in self.running() if run.tags.keys() >= set(OWNED)]

    def sweeps(self, sweep: str) -> Iterator[StoredRun]:
        """Find the runs that represent a sweep itself, earliest first."""
        return self._search(Filter({"sweep": sweep, "role": "sweep"}, earliest=True))

    def all_sweeps(self) -> Iterator[StoredRun]:
        """Find the runs that represent sweeps, latest first."""
        return self._search(Filter({"role": "sweep"}))

    def of_many(self, fingerprints: Collection[str]) -> dict[str, list[StoredRun]]:
        """Find the runs with each of the fingerprints, including altered ones, earliest first; none has no entry."""
        if self.bulk:
            ids = self.bulk.with_tag(self.experiment.experiment_id, "fingerprint", frozenset(fingerprints))
            found = list(self.bulk.runs(run_id for own in ids.values() for run_id in own))
        elif len(fingerprints) <= FEW:
            filters = [Filter(RUN | {"fingerprint": one}, earliest=True) for one in fingerprints]
            found = [run for wanted in filters for run in self._search(wanted)]
        else:
            everything = self._search(Filter(RUN, earliest=True))
            found = [run for run in everything if run.tags.get("fingerprint") in fingerprints]
        by_fingerprint: dict[str, list[StoredRun]] = {}
        for run in found:
            if run.tags.get("role") == RUN["role"]:
                by_fingerprint.setdefault(run.tags["fingerprint"], []).append(run)
        return by_fingerprint

    def named(self, start: str) -> list[StoredRun]:
        """Find the runs whose id or fingerprint starts with some hexadecimal digits, earliest first."""
        filters = Filter(RUN, fingerprint_start=start, earliest=True), Filter(RUN, id_start=start, earliest=True)
        found = [run for wanted in filters for run in self._search(wanted)]
        return list({run.run_id: run for run in found}.values())

    def find(self, fingerprint: str) -> list[StoredRun]:
        """Find the runs with a fingerprint, complete ones first: one, and after it those that contradict it.

        A run that was altered after it ended is left out.
        """
        return self.find_many([fingerprint])[fingerprint]

    def find_many(self, fingerprints: Collection[str]) -> dict[str, list[StoredRun]]:
        """Find for each of many fingerprints what `find` does for one, in a few queries."""
        stored = self.of_many(fingerprints) if fingerprints else {}
        found = {}
        for fingerprint in fingerprints:
            sound = [run for run in stored.get(fingerprint, []) if run.seal_state != seals.ALTERED]
            found[fingerprint] = sorted(sound, key=lambda run: (not run.is_complete, "contradicts" in run.tags))
        return found

    def run(self, run_id: str) -> StoredRun:
        """Read a run.

        Raises:
            StoreError: there is none of this id, or the store fails.
        """
        found = next(self.bulk.runs([run_id]), None) if self.bulk else None
        return found or self.client.run(run_id)

    def history(self, run: StoredRun, key: str) -> list[Point]:
        """Read all values of a metric of a run."""
        return self.histories([run], key)[run.run_id]

    def histories(self, runs: Iterable[StoredRun], key: str) -> dict[str, list[Point]]:
        """Read all values of a metric of many runs, id -> points."""
        ids = [run.run_id for run in runs]
        found = self.bulk.histories(ids, key) if self.bulk else None
        return {one: found.get(one, []) if found is not None else self.client.history(one, key) for one in ids}

    def now(self) -> Experiment:
        """Read the experiment again, with the tags of now."""
        name = self.experiment.name
        return (self.bulk.experiment(name) if self.bulk else self.client.experiment(name)) or self.experiment

    def mlflow_version(self) -> str:
        """Return the version of the MLflow that shows the store: the server's, else the one here; empty if unknown."""
        return version("mlflow") if self.bulk else self.client.mlflow_version()

    def create(self, runs: Sequence[New]) -> list[StoredRun]:
        """Create runs that say RUNNING."""
        attempt = uuid.uuid4().hex
        own = {"attempt": attempt, "heartbeat": f"{time.time():.0f}"}
        stamped = [replace(new, tags={**new.tags, **own}) for new in runs]
        place = self.experiment
        made = self.writer.create(place.experiment_id, place.artifact_location, stamped)
        if self.is_server and made:
            # The client repeats a request whose answer was lost, and the server then creates a run for each.
            known = {run.run_id for run in made}
            for ghost in list(self._search(Filter({"attempt": attempt}))):
                if ghost.run_id not in known:
                    self.client.delete_run(ghost.run_id)
        return made

    def write(self, changes: Iterable[Change]) -> None:
        """Carry out changes, those of one run in this order."""
        self.writer.write(changes)

    def measure(self, run: StoredRun, metrics: Mapping[str, float], at: float) -> list[Change]:
        """Return how to store metrics that a run lacks, or has with another value, and to seal them.

        They are stored at step 0: MLflow's pages then draw bars. A new value comes after the old one, at its step.
        """
        new = {key: value for key, value in metrics.items() if math.isfinite(value) and run.metrics.get(key) != value}
        if not new:
            return []
        points = []
        for key, value in new.items():
            held = self.history(run, key) if key in run.metrics else []
            points.append((key, Point(max((point.step for point in held), default=0), value, milliseconds(at))))
        measured = Change(run.run_id, points=points)
        if "seal" not in run.tags:
            return [measured]
        before = run.contents  # one of the two seals matches after a kill between the two changes
        return [Change(run.run_id, tags={"seal": f"{before.with_({}, new).seal()} {before.seal()}"}), measured]

    def artifact(self, run: StoredRun, name: str, most: int | None = None) -> bytes:
        """Read a file of a run, of at most `most` bytes.

        Raises:
            FileNotFoundError: it is missing, or larger, or not a file but a device or a pipe.
        """
        uri = ""
        try:
            uri = self.artifact_uri(run)
            if folder := location.local_path(uri):
                return read_file(folder / name, most)
            if most is not None and self.client.sizes(uri).get(name, 0) > most:
                raise OSError(TOO_LARGE.format(most))
            with tempfile.TemporaryDirectory() as temporary:
                return self.client.download(uri, name, Path(temporary)).read_bytes()
        except (StoreError, OSError) as error:
            reason = error.reason if isinstance(error, StoreError) else error
            raise FileNotFoundError(f"{run.name}: {uri}/{name}: {reason}") from error

    def artifact_uri(self, run: StoredRun) -> str:
        """Locate a run's artifacts, even after the repository moved: MLflow stores an absolute path.

        Raises:
            FileNotFoundError: they are not where MLflow would have put them; a client would follow, with its password,
                to any host.
        """
        uri = run.artifact_uri
        if uri != location.artifact_folder(self.experiment.artifact_location, run.run_id):
            raise FileNotFoundError(f"its artifacts' location {uri!a} is not below its experiment's")
        moved = repository.root() / "mlartifacts" / run.run_id
        if uri.startswith("file:") and not Path(uri.removeprefix("file://")).exists() and moved.exists():
            return (moved / "artifacts").as_uri()
        return uri


def connect(uri: str, patience: float) -> "Client":
    """Load MLflow, and connect to a store with its client."""
    from pipeline.tracking.store.client import Client  # noqa: PLC0415 - loads MLflow, 1 s

    return Client(uri, patience)


def create_experiment(name: str, uri: str, patience: float) -> None:
    """Create an experiment; its artifacts lie in the repository, or where a server says."""
    folder = (repository.root() / "mlartifacts").as_uri()
    if bulk := Bulk.of(uri):
        database.create_experiment(bulk, name, folder)
    else:
        client = connect(uri, patience)
        client.create_experiment(name, None if client.remote else folder)


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


@contextmanager
def answering() -> Iterator[None]:
    """Turn a store's failure into a message.

    Raises:
        InputError: the store fails.
    """
    try:
        yield
    except StoreError as error:
        raise InputError(str(error)) from error
