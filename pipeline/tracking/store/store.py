"""An experiment of the store, in terms of fingerprints, sweeps and seals. Every search of it is here."""

import math
import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from pipeline.errors import InputError
from pipeline.metrics import HIGHER_IS_BETTER
from pipeline.runs.records import CURVE
from pipeline.system import addresses, repository
from pipeline.tracking.runs import FINISHED, RUNNING, Experiment, Point, StoredRun, milliseconds
from pipeline.tracking.store import database, location, releases
from pipeline.tracking.store.backend import PAGE, Backend, Change, Filter, New
from pipeline.tracking.store.location import WAIT_SECONDS, StoreError, failing

RUN = {"role": "run"}
OWNED = ("host", "pid", "pid_started", "heartbeat")  # the tags of the process that fills in a run


@dataclass(frozen=True)
class Store:
    """An experiment in a tracking store, and the lock that its writers on this machine share."""

    backend: Backend
    experiment: Experiment
    lock: location.Lock

    @classmethod
    def open(cls, name: str, patience: float = WAIT_SECONDS) -> Self:
        """Connect to the store, creating it and its experiment if missing.

        Args:
            name: the experiment's.
            patience: how many seconds to wait for a server.

        Raises:
            InputError: the experiment was deleted, or its artifacts are on another host.
            StoreError: the store fails.
        """
        uri = location.address()
        with failing(uri), location.lock_of(uri):
            if file := repository.sqlite_file(uri):
                database.create_empty(file)
            backend = reach(uri, patience) or client_of(uri, patience)
            experiment = backend.experiment(name)
            if experiment is None:
                try:
                    backend.create_experiment(name)
                except StoreError:  # another host was faster, or the answer to our first try was lost
                    if backend.experiment(name) is None:
                        raise
                backend = reach(uri, patience) or backend  # MLflow may have made the tables only now
                experiment = backend.experiment(name)
        assert experiment is not None
        location.check(name, experiment, uri)
        return cls(backend, experiment, location.lock_of(uri))

    @classmethod
    def look(cls, name: str, patience: float = WAIT_SECONDS) -> Self | None:
        """Connect to the store as `open` does, creating nothing; None if it or its experiment is missing."""
        uri = location.address()
        file = repository.sqlite_file(uri)
        backend = reach(uri, patience) if file is None or file.exists() else None
        experiment = backend.experiment(name) if backend else None
        if backend is None or experiment is None:
            return None
        location.check(name, experiment, uri)
        return cls(backend, experiment, location.lock_of(uri))

    @property
    def has_views(self) -> bool:
        """Whether the pages of the MLflow that shows the store take saved views."""
        return releases.has_views(self.backend.mlflow_version())

    @property
    def lost(self) -> str:
        """What is lost because the store's schema, or the MLflow that shows it, is unknown; empty if nothing is."""
        return releases.lost(self.backend.schema, self.backend.mlflow_version())

    def _search(self, wanted: Filter, page: int = PAGE) -> Iterator[StoredRun]:
        return self.backend.search(self.experiment.experiment_id, wanted, page)

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

    def running(self) -> Iterator[StoredRun]:
        """Find the runs that say RUNNING."""
        return self._search(Filter(status=RUNNING))

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
        by_fingerprint: dict[str, list[StoredRun]] = {}
        found = self.backend.with_fingerprints(self.experiment.experiment_id, fingerprints) if fingerprints else ()
        for run in found:
            by_fingerprint.setdefault(run.tags["fingerprint"], []).append(run)
        return by_fingerprint

    def named(self, start: str) -> list[StoredRun]:
        """Find the runs whose id or fingerprint starts with some hexadecimal digits, earliest first."""
        filters = Filter(RUN, fingerprint_start=start, earliest=True), Filter(RUN, id_start=start, earliest=True)
        found = [run for wanted in filters for run in self._search(wanted)]
        return list({run.run_id: run for run in found}.values())

    def run(self, run_id: str) -> StoredRun:
        """Read a run.

        Raises:
            StoreError: there is none of this id, or the store fails.
        """
        return self.backend.run(run_id)

    def history(self, run: StoredRun, key: str) -> list[Point]:
        """Read all values of a metric of a run."""
        return self.histories([run], key)[run.run_id]

    def histories(self, runs: Iterable[StoredRun], key: str) -> dict[str, list[Point]]:
        """Read all values of a metric of many runs, id -> points."""
        ids = [run.run_id for run in runs]
        found = self.backend.histories(ids, key)
        return {run_id: found.get(run_id, []) for run_id in ids}

    def now(self) -> Experiment:
        """Read the experiment again, with the tags of now."""
        return self.backend.experiment(self.experiment.name) or self.experiment

    def tag(self, tags: Mapping[str, str]) -> None:
        """Set tags of the experiment, in this order."""
        self.backend.tag_experiment(self.experiment.experiment_id, tags)

    def create(self, runs: Sequence[New]) -> list[StoredRun]:
        """Create runs that say RUNNING."""
        own = {"attempt": uuid.uuid4().hex, "heartbeat": f"{time.time():.0f}"}
        return self.backend.create(self.experiment, [replace(new, tags={**new.tags, **own}) for new in runs])

    def write(self, changes: Iterable[Change]) -> None:
        """Carry out changes, those of one run in this order."""
        self.backend.write(changes)

    def settle(self, owner: Mapping[str, str], known: Collection[str]) -> None:
        """Tidy up at the end of a stage; `known` are the ids of the runs that the owner knows."""
        self.backend.settle(self.experiment.experiment_id, owner, known)

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
        before = run.sealed  # one of the two seals matches after a kill between the two changes
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
                return location.read_file(folder / name, most)
            return self.backend.download(uri, name, most)
        except (StoreError, OSError) as error:
            reason = error.reason if isinstance(error, StoreError) else error
            raise FileNotFoundError(addresses.shown(f"{run.name}: {uri}/{name}: {reason}", uri)) from error

    def artifact_uri(self, run: StoredRun) -> str:
        """Locate a run's artifacts, even after the repository moved: MLflow stores an absolute path.

        Raises:
            FileNotFoundError: they are not where MLflow would have put them; a client would follow, with its password,
                to any host.
        """
        uri = run.artifact_uri
        if uri != location.artifact_folder(self.experiment.artifact_location, run.run_id):
            place = ascii(addresses.shown(uri, uri))
            raise FileNotFoundError(f"its artifacts' location {place} is not below its experiment's")
        moved = repository.root() / "mlartifacts" / run.run_id
        if uri.startswith("file:") and not Path(uri.removeprefix("file://")).exists() and moved.exists():
            return (moved / "artifacts").as_uri()
        return uri


def reach(uri: str, patience: float) -> Backend | None:
    """Connect to a store by the backend that fits it; None for a database without MLflow's tables."""
    revision = releases.schema(uri)
    if revision == "":
        return None
    if revision and releases.is_known(revision) and releases.kind(uri) in database.DIALECTS:
        return database.Database(uri)
    return client_of(uri, patience)


def client_of(uri: str, patience: float) -> Backend:
    """Connect to a store by MLflow's client."""
    from pipeline.tracking.store.client import Client  # noqa: PLC0415 - loads MLflow, 1 s

    return Client(uri, patience)


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
