"""MLflow's store, in terms of fingerprints, sweeps and seals. Every search of it is here.

Store: MLFLOW_TRACKING_URI if set, else <repository>/mlflow.db with <repository>/mlartifacts beside it.
"""

import math
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from filelock import FileLock

from pipeline import repository
from pipeline.params import HIGHER_IS_BETTER, InputError
from pipeline.records import CURVE
from pipeline.tracking import client, location, seals
from pipeline.tracking.client import NOTHING, WAIT_SECONDS, Client, Experiment, StoreError, failing
from pipeline.tracking.runs import FINISHED, HIDDEN, RUNNING, Point, StoredRun
from pipeline.tracking.values import milliseconds, text

BATCH = 1000  # most metrics that MLflow takes at once
PAGE = 1000  # most runs
OWNED = ("host", "pid", "pid_started", "heartbeat")  # the tags of the process that fills in a run


@dataclass(frozen=True)
class Store:
    """An experiment in a tracking store, and the lock that its writers on this machine share."""

    client: Client
    experiment: Experiment
    lock: FileLock

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
        sound = [run for run in self.of(fingerprint) if run.seal_state != seals.ALTERED]
        return sorted(sound, key=lambda run: (not run.is_complete, "contradicts" in run.tags))

    def create(self, name: str, tags: Mapping[str, str], begun: float) -> StoredRun:
        """Create a run that says RUNNING; `begun` is in seconds since 1970."""
        attempt = uuid.uuid4().hex
        tags = {**tags, "attempt": attempt, "heartbeat": f"{time.time():.0f}"}
        run = self.client.create_run(self.experiment.experiment_id, milliseconds(begun), tags, name)
        if self.client.remote:
            # The client repeats a request whose answer was lost, and the server then creates a run for each.
            for ghost in list(self._search(f"tags.`{HIDDEN}attempt` = '{attempt}'")):
                if ghost.run_id != run.run_id:
                    self.client.delete_run(ghost.run_id)
        return run

    def take(self, run: StoredRun, owner: Mapping[str, str]) -> None:
        """Set an abandoned run to RUNNING again, with the tags of the process that continues it."""
        self.client.set_status(run.run_id, RUNNING)
        mended = {"went_wrong": ""} if "went_wrong" in run.tags else {}
        self.log_tags(run, {**owner, "heartbeat": f"{time.time():.0f}", **mended})
        if "error" in run.tags:
            self.client.delete_tag(run.run_id, "error")

    def stop(self, run: StoredRun, status: str, end: int, error: str) -> None:
        """End an incomplete run, and store why; `end` is in milliseconds since 1970."""
        self.log_tags(run, {"error": error, "went_wrong": status.lower()})
        self.client.set_status(run.run_id, status, end)

    def log_params(self, run: StoredRun, params: Mapping[str, str]) -> None:
        """Store the params that a run lacks: MLflow refuses to change one."""
        new = {key: value for key, value in params.items() if key not in run.params}
        if new:
            self.client.log(run.run_id, params=new)

    def log_points(
        self, run: StoredRun, points: Mapping[int, float], at: float, tags: Mapping[str, str] = NOTHING
    ) -> None:
        """Store points of a curve, step -> value, with the time `at`, in seconds since 1970, then tags.

        Values that are not finite are left out, as MLflow would change them.
        """
        stamp = milliseconds(at)
        finite = [(CURVE, Point(step, value, stamp)) for step, value in points.items() if math.isfinite(value)]
        while len(finite) > BATCH:
            self.client.log(run.run_id, finite[:BATCH])
            finite = finite[BATCH:]
        self.log_tags(run, tags, finite)

    def log_tags(self, run: StoredRun, tags: Mapping[str, str], points: Sequence[tuple[str, Point]] = ()) -> None:
        """Store points of metrics, then tags, in one request."""
        if tags or points:
            self.client.log(run.run_id, points, tags={key: text(value) for key, value in tags.items()})

    def log_metrics(self, run: StoredRun, metrics: Mapping[str, float], at: float) -> None:
        """Store metrics that the run lacks, or has with another value, and seal them.

        They are stored at step 0: MLflow's pages then draw bars. A new value comes after the old one, at its step.
        """
        new = {key: value for key, value in metrics.items() if math.isfinite(value) and run.metrics.get(key) != value}
        if not new:
            return
        before = run.contents
        if "seal" in run.tags:  # one of the two matches after a kill between the requests
            self.log_tags(run, {"seal": f"{before.with_({}, new).seal()} {before.seal()}"})
        points = []
        for key, value in new.items():
            held = self.client.history(run.run_id, key) if key in run.metrics else []
            points.append((key, Point(max((point.step for point in held), default=0), value, milliseconds(at))))
        self.log_tags(run, {}, points)

    def log_artifact(self, run: StoredRun, name: str, content: bytes) -> None:
        """Store a file with a run."""
        with failing(self.client.uri), tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(content)
            self.client.upload(self.artifact_uri(run), path)

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
