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
from pathlib import Path
from typing import Self

from filelock import FileLock

from pipeline import repository
from pipeline.params import HIGHER_IS_BETTER, InputError
from pipeline.records import CURVE
from pipeline.tracking import client, location, seals
from pipeline.tracking.changes import Change, New, Writer
from pipeline.tracking.client import WAIT_SECONDS, Client, Experiment, StoreError, failing
from pipeline.tracking.requests import Requests
from pipeline.tracking.runs import FINISHED, HIDDEN, NOTHING, RUNNING, Point, StoredRun
from pipeline.tracking.tables import Tables
from pipeline.tracking.values import milliseconds

PAGE = 1000  # most runs that MLflow finds at once
FEW = 20  # fingerprints that are asked for one by one: a search takes 10 ms, and one for all runs 1 ms for each
OWNED = ("host", "pid", "pid_started", "heartbeat")  # the tags of the process that fills in a run


@dataclass(frozen=True)
class Store:
    """An experiment in a tracking store, and the lock that its writers on this machine share."""

    client: Client
    experiment: Experiment
    lock: FileLock

    @cached_property
    def writer(self) -> Writer:
        """What writes runs: the store's own tables, or MLflow's client where they are not known."""
        return Tables.of(self.client.uri) or Requests(self.client)

    @classmethod
    def open(cls, name: str, patience: float = WAIT_SECONDS) -> Self:
        """Connect to the store, creating it and its experiment if missing.

        Raises:
            InputError: the experiment was deleted, or its artifacts are on another host.
            StoreError: the store fails.
        """
        uri = location.address()
        with failing(uri), location.writers_lock(uri) as lock:
            if file := repository.sqlite_file(uri):
                location.create_sqlite(file)
            connected = Client(uri, patience)
            experiment = connected.experiment(name)
            if experiment is None:
                folder = None if connected.remote else (repository.root() / "mlartifacts").as_uri()
                try:
                    connected.create_experiment(name, folder)
                except StoreError:  # another host was faster, or the answer to our first try was lost
                    if connected.experiment(name) is None:
                        raise
                experiment = connected.experiment(name)
        assert experiment is not None
        location.check(name, experiment, uri)
        return cls(connected, experiment, lock)

    @classmethod
    def look(cls, name: str, patience: float = WAIT_SECONDS) -> Self | None:
        """Connect to the store without creating anything; None if it or its experiment is missing.

        Raises:
            InputError: the experiment was deleted, or its artifacts are on another host.
            StoreError: the store fails.
        """
        uri = location.address()
        file = repository.sqlite_file(uri)
        if (file is not None and not file.exists()) or not client.has_tables(uri):
            return None
        connected = Client(uri, patience)
        experiment = connected.experiment(name)
        if experiment is None:
            return None
        location.check(name, experiment, uri)
        return cls(connected, experiment, location.lock_of(uri))

    def _search(self, condition: str, order_by: Sequence[str] = (), page: int = PAGE) -> Iterator[StoredRun]:
        return self.client.search(self.experiment.experiment_id, condition, order_by, page)

    def everything(self) -> Iterator[StoredRun]:
        """Find all runs of the experiment, whoever stored them."""
        return self._search("")

    def runs(self) -> Iterator[StoredRun]:
        """Find all runs that trained."""
        return self._search("tags.role = 'run'")

    def best(self, metric: str, page: int) -> Iterator[StoredRun]:
        """Find the finished runs that have a metric, best first, `page` a request.

        Of equals, the one with the smaller training loss comes first, then the earlier one, as on the leaderboard.
        """
        condition = f"attributes.status = '{FINISHED}' and tags.role = 'run' and metrics.`{metric}` > -1e308"
        order = f"metrics.`{metric}` {'DESC' if metric in HIGHER_IS_BETTER else 'ASC'}"
        ties = [] if metric == CURVE else [f"metrics.`{CURVE}` ASC"]
        return self._search(condition, [order, *ties, "attributes.start_time ASC"], min(PAGE, page))

    def running(self, owner: Mapping[str, str] = NOTHING) -> list[StoredRun]:
        """Find the runs that say RUNNING; given an owner's tags, only its own."""
        found = self._search(
            f"attributes.status = '{RUNNING}'"
        )  # few: compared here, as older runs' tags have no prefix
        return [run for run in found if owner.items() <= run.tags.items()]

    def owned(self) -> list[StoredRun]:
        """Find the runs that say RUNNING and name the process that fills them in."""
        return [run for run in self.running() if run.tags.keys() >= set(OWNED)]

    def sweeps(self, sweep: str) -> Iterator[StoredRun]:
        """Find the runs that represent a sweep itself, earliest first."""
        return self._search(f"tags.sweep = '{sweep}' and tags.role = 'sweep'", ["attributes.start_time"])

    def all_sweeps(self) -> Iterator[StoredRun]:
        """Find the runs that represent sweeps, latest first."""
        return self._search("tags.role = 'sweep'", ["attributes.start_time DESC"])

    def of(self, fingerprint: str) -> list[StoredRun]:
        """Find the runs with a fingerprint, including altered ones, earliest first."""
        condition = f"tags.fingerprint = '{fingerprint}' and tags.role = 'run'"
        return list(self._search(condition, ["attributes.start_time"]))

    def named(self, start: str) -> list[StoredRun]:
        """Find the runs whose id or fingerprint starts with some hexadecimal digits, earliest first."""
        fields = ("tags.fingerprint", "attributes.run_id")
        conditions = [f"{field} LIKE '{start}%' and tags.role = 'run'" for field in fields]
        found = [run for condition in conditions for run in self._search(condition, ["attributes.start_time"])]
        return list({run.run_id: run for run in found}.values())

    def find(self, fingerprint: str) -> list[StoredRun]:
        """Find the runs with a fingerprint, complete ones first: one, and after it those that contradict it.

        A run that was altered after it ended is left out.
        """
        return self.find_many([fingerprint])[fingerprint]

    def find_many(self, fingerprints: Collection[str]) -> dict[str, list[StoredRun]]:
        """Find for each of many fingerprints what `find` does for one."""
        if len(fingerprints) <= FEW:
            stored = [run for fingerprint in fingerprints for run in self.of(fingerprint)]
        else:
            stored = sorted(self.runs(), key=lambda run: run.start)
        found: dict[str, list[StoredRun]] = {fingerprint: [] for fingerprint in fingerprints}
        for run in stored:
            if (fingerprint := run.tags.get("fingerprint", "")) in found and run.seal_state != seals.ALTERED:
                found[fingerprint].append(run)
        for runs in found.values():
            runs.sort(key=lambda run: (not run.is_complete, "contradicts" in run.tags))
        return found

    def create(self, runs: Sequence[New]) -> list[StoredRun]:
        """Create runs that say RUNNING."""
        attempt = uuid.uuid4().hex
        own = {"attempt": attempt, "heartbeat": f"{time.time():.0f}"}
        stamped = [replace(new, tags={**new.tags, **own}) for new in runs]
        place = self.experiment
        made = self.writer.create(place.experiment_id, place.artifact_location, stamped)
        if self.client.remote and made:
            # The client repeats a request whose answer was lost, and the server then creates a run for each.
            known = {run.run_id for run in made}
            for ghost in list(self._search(f"tags.`{HIDDEN}attempt` = '{attempt}'")):
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
            held = self.client.history(run.run_id, key) if key in run.metrics else []
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
            if most is not None:
                folder = client.local_path(uri)
                if self.client.sizes(uri).get(name, 0) > most or (folder and not (folder / name).is_file()):
                    raise OSError(f"is not a file of at most {most} bytes")
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
        if uri != client.artifact_folder(self.experiment.artifact_location, run.run_id):
            raise FileNotFoundError(f"its artifacts' location {uri!a} is not below its experiment's")
        moved = repository.root() / "mlartifacts" / run.run_id
        if uri.startswith("file:") and not Path(uri.removeprefix("file://")).exists() and moved.exists():
            return (moved / "artifacts").as_uri()
        return uri


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
