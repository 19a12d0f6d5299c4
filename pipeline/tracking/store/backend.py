"""What a store takes and returns, in plain values, and the one door through which every run is written.

A stack's runs go through it together. database.Tables carries all of them out in one transaction; where the tables are
not known, client.Requests asks MLflow's public client run by run. What is stored is the same.
"""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pipeline.runs.records import CURVE
from pipeline.tracking.datasets import Dataset
from pipeline.tracking.runs import RUNNING, Point, StoredRun, stored_key
from pipeline.tracking.store.location import local_path
from pipeline.tracking.values import milliseconds, text

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
    """What to store of a run, in this order where that takes several steps; a killed process leaves the first of them.

    datasets: those that it has already stay. folder: where its files go, name -> content. points: each with its
    metric. dropped: tags that it has, to delete. end: in milliseconds since 1970, None leaves it as it is.
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


class Writer(Protocol):
    """Writes runs."""

    def create(self, experiment_id: str, location: str, runs: Sequence[New]) -> list[StoredRun]:
        """Create runs of an experiment whose artifacts are at `location`; return them in the same order."""

    def write(self, changes: Iterable[Change]) -> None:
        """Carry out changes, those of one run in this order."""


def curve(points: Mapping[int, float], at: float) -> list[tuple[str, Point]]:
    """Return a curve's points, step -> value, with the time `at`, in seconds since 1970.

    Values that are not finite are left out, as MLflow would change them.
    """
    stamp = milliseconds(at)
    return [(CURVE, Point(step, value, stamp)) for step, value in points.items() if math.isfinite(value)]


def texts(tags: Mapping[str, object]) -> dict[str, str]:
    """Convert tags' values to text."""
    return {key: text(value) for key, value in tags.items()}


def completed(run: StoredRun, params: Mapping[str, str], datasets: Sequence[Dataset]) -> Change:
    """Store the params and datasets that a run lacks: MLflow refuses to change a param."""
    lacking = {key: value for key, value in params.items() if key not in run.params}
    return Change(run.run_id, params=lacking, datasets=datasets)


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


@dataclass(frozen=True)
class Filter:
    """Which runs are meant; empty fields allow any.

    tags: those that they have. status: theirs. id_start, fingerprint_start: with what their id or fingerprint starts,
    in hexadecimal digits. best: the metrics, best first, by which they are ordered, key -> whether more is better;
    those that lack the first one are not meant. earliest: whether they, or else equals, are ordered by their start,
    earliest first; otherwise latest first.
    """

    tags: Mapping[str, str] = field(default_factory=dict)
    status: str = ""
    id_start: str = ""
    fingerprint_start: str = ""
    best: Mapping[str, bool] = field(default_factory=dict)
    earliest: bool = False

    @property
    def condition(self) -> str:
        """The filter in MLflow's language."""
        parts = [f"attributes.status = '{self.status}'"] if self.status else []
        parts += [f"attributes.run_id LIKE '{self.id_start}%'"] if self.id_start else []
        parts += [f"tags.fingerprint LIKE '{self.fingerprint_start}%'"] if self.fingerprint_start else []
        parts += [f"tags.`{stored_key(key)}` = '{value}'" for key, value in self.tags.items()]
        parts += [f"metrics.`{key}` > -1e308" for key in list(self.best)[:1]]
        return " and ".join(parts)

    @property
    def order(self) -> list[str]:
        """The order in MLflow's language."""
        metrics = [f"metrics.`{key}` {'DESC' if more else 'ASC'}" for key, more in self.best.items()]
        return [*metrics, f"attributes.start_time {'ASC' if self.earliest else 'DESC'}"]


@dataclass(frozen=True)
class RegisteredModel:
    """A registered model: the number of each alias's version, and its tags."""

    aliases: Mapping[str, int]
    tags: Mapping[str, str]


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
