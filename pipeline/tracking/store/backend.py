"""What a store is: the protocol of its two backends, and the plain values that they take and return."""

import math
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pipeline.runs.records import CURVE
from pipeline.tracking.runs import RUNNING, Dataset, Experiment, Point, StoredRun, milliseconds, text
from pipeline.tracking.store.location import local_path

PAGE = 1000  # most runs that MLflow finds in one request
CONTRADICTS = "contradicts another run"  # what went wrong with a run that is stored beside one of its fingerprint


@dataclass(frozen=True)
class New:
    """A run to create, which will say RUNNING; `begun` is in milliseconds since 1970."""

    title: str
    begun: int
    tags: Mapping[str, str]
    params: Mapping[str, str]
    datasets: Sequence[Dataset]


@dataclass(frozen=True)
class Change:
    """What to store of a run.

    params: those that it lacks. datasets: those that it already has stay. folder: where its files go, name -> content.
    points: each with its metric. dropped: tags that it has, to delete. end: in milliseconds since 1970; None leaves it
    as it is.
    """

    run_id: str
    params: Mapping[str, str] = field(default_factory=dict)
    datasets: Sequence[Dataset] = ()
    folder: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)
    points: Sequence[tuple[str, Point]] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    dropped: Sequence[str] = ()
    status: str = ""
    end: int | None = None


@dataclass(frozen=True)
class Filter:
    """Which runs of an experiment are meant; empty fields allow any.

    tags: those that they have. status: theirs. id_start, fingerprint_start: the first hexadecimal digits of their id or
    fingerprint. best: the metrics by which they are ordered, best first, key -> whether more is better; runs without
    the first of them are left out. earliest: whether they, or else equals, are ordered by their start, earliest first;
    otherwise latest first.
    """

    tags: Mapping[str, str] = field(default_factory=dict)
    status: str = ""
    id_start: str = ""
    fingerprint_start: str = ""
    best: Mapping[str, bool] = field(default_factory=dict)
    earliest: bool = False


@dataclass(frozen=True)
class Version:
    """A version of a registered model: its number, the run that it was made of, its tags, and where its files lie."""

    number: int
    run_id: str
    tags: Mapping[str, str]
    source: str

    @property
    def is_here(self) -> bool:
        """Tell whether its files are where they should be, if that is on this machine."""
        folder = local_path(self.source)
        return folder is None or folder.exists()


class Backend(Protocol):
    """An MLflow store: `Database` reads and writes its tables, `Client` goes through MLflow's public client.

    Both store the same, and every method of both raises StoreError if the store fails.

    Who calls. Any process of any machine may read at any time. Of one machine, the processes that find and create runs
    take turns by the store's lock; the lock does not reach other machines. A backend may be used from several threads.

    Who owns a run. A run that says RUNNING belongs to the process that its tags name (host, pid, pid_started), which
    alone writes to it and renews its heartbeat. Others may end it or take it over once that process is gone. A run that
    has ended is sealed: only metrics and confirmations are added, by whoever holds the lock.

    What is durable. All that a call stores is durable when it returns. `Database` stores a call in one transaction, all
    or nothing, and files come first. `Client` stores one change of a run after the other, and each in the order params,
    datasets, files, points, tags, dropped, status. So a run that has ended is whole, whatever was killed.

    What a repeated call does. `write` has the same effect when it is repeated, but a param must be new to its run.
    `create` makes other runs: find before you create. A server may carry out a request twice, or long after its answer
    was lost; `create` and `settle` delete the runs that appear in this way.
    """

    @property
    def uri(self) -> str:
        """The store's address."""

    @property
    def schema(self) -> str:
        """The revision of its tables, if they are tables that this pipeline does not know; else empty."""

    def experiment(self, name: str) -> Experiment | None:
        """Find an experiment by name, even if it was deleted."""

    def create_experiment(self, name: str) -> None:
        """Create an experiment, with its artifacts in the repository, or where a server says."""

    def tag_experiment(self, experiment_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of an experiment, in this order."""

    def search(self, experiment_id: str, wanted: Filter, page: int = PAGE) -> Iterator[StoredRun]:
        """Find an experiment's runs, reading `page` of them at a time; deleted ones are left out."""

    def with_fingerprints(self, experiment_id: str, fingerprints: Collection[str]) -> Iterable[StoredRun]:
        """Find the runs with any of the fingerprints, those of one fingerprint earliest first."""

    def run(self, run_id: str) -> StoredRun:
        """Read a run, even if it was deleted.

        Raises:
            StoreError: there is none of this id.
        """

    def histories(self, ids: Iterable[str], key: str) -> Mapping[str, list[Point]]:
        """Read all values of a metric of runs, id -> points; a run without any may be missing."""

    def create(self, experiment: Experiment, runs: Sequence[New]) -> list[StoredRun]:
        """Create runs, all with the same tag `attempt`, which no other call has; return them in the same order."""

    def write(self, changes: Iterable[Change]) -> None:
        """Carry out changes, those of one run in this order.

        Raises:
            StoreError: a run is missing or was deleted.
        """

    def download(self, folder_uri: str, name: str, most: int | None) -> bytes:
        """Read an artifact that is not on this machine, of at most `most` bytes.

        Raises:
            OSError: it is larger.
        """

    def settle(self, experiment_id: str, owner: Mapping[str, str], known: Collection[str]) -> None:
        """Tidy up at the end of a stage: delete RUNNING runs with the owner's tags that the owner does not know."""

    def served(self, name: str, alias: str) -> Version | None:
        """Read the version that an alias of a registered model names; None if there is none, or if it is unknown."""

    def mlflow_version(self) -> str:
        """Return the version of the MLflow that shows the store's pages; empty if unknown."""


def curve(points: Mapping[int, float], at: float) -> list[tuple[str, Point]]:
    """Return a curve's points, step -> value, with the time `at`, in seconds since 1970.

    Values that are not finite are left out, as MLflow would change them.
    """
    stamp = milliseconds(at)
    return [(CURVE, Point(step, value, stamp)) for step, value in points.items() if math.isfinite(value)]


def texts(tags: Mapping[str, object]) -> dict[str, str]:
    """Convert tags' values to text."""
    return {key: text(value) for key, value in tags.items()}


def lacking(run: StoredRun, params: Mapping[str, str], datasets: Sequence[Dataset]) -> Change:
    """Store the params and datasets that a run lacks: MLflow refuses to change a param."""
    new = {key: value for key, value in params.items() if key not in run.params}
    return Change(run.run_id, params=new, datasets=datasets)


def taken(run: StoredRun, owner: Mapping[str, str]) -> Change:
    """Set an abandoned run to RUNNING again, with the tags of the process that continues it.

    Its end stays until it ends again: MLflow's client cannot take it back.
    """
    wrong = {"went_wrong": CONTRADICTS} if "contradicts" in run.tags else {}
    tags = {**owner, "heartbeat": f"{time.time():.0f}", **wrong}
    dropped = [key for key in ("error", "went_wrong") if key in run.tags and key not in wrong]
    return Change(run.run_id, tags=texts(tags), dropped=dropped, status=RUNNING)


def stopped(run: StoredRun, status: str, end: int, error: str) -> Change:
    """End an incomplete run, and store why; `end` is in milliseconds since 1970."""
    return Change(run.run_id, tags=texts({"error": error, "went_wrong": status.lower()}), status=status, end=end)
