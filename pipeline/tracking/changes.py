"""What to store of runs, in plain values: the one door through which every run is written. Does not import MLflow.

A stack's runs go through it together. tables.Tables carries all of them out in one transaction; where the tables are
not known, requests.Requests asks MLflow's public client run by run. What is stored is the same.
"""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pipeline.runs.records import CURVE
from pipeline.tracking.datasets import Dataset
from pipeline.tracking.runs import RUNNING, Point, StoredRun
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
