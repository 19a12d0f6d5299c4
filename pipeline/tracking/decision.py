"""Which stored run stands for a record: one decision, for all that store, evaluate, look up or check runs.

A pure function of the stored runs: what it asks of a record is read by whoever has the store. See: comparison.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from pipeline.tracking import seals
from pipeline.tracking.runs import StoredRun


class Kind(Enum):
    """What stands for a record, or what is to be done as nothing does."""

    SAME = "a complete run with the record's bits"
    CLOSE = "a complete run that equals the record within rounding"
    KNOWN = "a complete run, of which a record is still to be trained"
    BUSY = "a run that a live process fills in"
    RESUME = "an unfinished run whose process is gone: go on with it"
    STORE = "no run: store one"


@dataclass(frozen=True)
class Decision:
    """What stands for a record: a kind, and the run, None if there is none.

    contradicts: the id of the run that the record contradicts, and beside which it is to be stored; else empty.
    """

    kind: Kind
    run: StoredRun | None = None
    contradicts: str = ""

    @property
    def standing(self) -> StoredRun | None:
        """The run that stands for a record; None if the store lacks it."""
        return self.run if self.kind in {Kind.SAME, Kind.CLOSE} else None

    def has(self, metrics: Mapping[str, float]) -> bool:
        """Tell whether a run stands for a record, with the record's metrics or, if it is CLOSE, with its own."""
        if self.standing is None or self.kind is Kind.CLOSE:
            return self.standing is not None and metrics.keys() <= self.standing.metrics.keys()
        return all(self.standing.metrics.get(key) == value for key, value in metrics.items())

    @property
    def is_lacking(self) -> bool:
        """Tell whether the record is to be stored."""
        return self.kind in {Kind.RESUME, Kind.STORE}


@dataclass(frozen=True)
class Repeat:
    """A record, as far as it is compared with a stored run; each question is asked only where it decides."""

    is_same: Callable[[StoredRun], bool]
    may_differ: Callable[[StoredRun], bool]  # by rounding
    is_close: Callable[[StoredRun], bool]


def ranked(stored: Iterable[StoredRun]) -> list[StoredRun]:
    """Order the runs of one fingerprint: complete ones first, of these the one that others contradict, earliest first.

    A run that was altered after it ended is left out: it never stands for a record.
    """
    sound = [run for run in stored if run.seal_state != seals.ALTERED]
    return sorted(sound, key=lambda run: (not run.is_complete, "contradicts" in run.tags, run.start))


def decide(
    stored: Iterable[StoredRun],
    repeat: Repeat | None = None,
    may_resume: Callable[[StoredRun], bool] = lambda _: False,
) -> Decision:
    """Decide which of the stored runs of one fingerprint stands for a record.

    Args:
        stored: the runs, in any order.
        repeat: the record; None while it is still to be trained.
        may_resume: tells whether the caller would have begun an unfinished run in the same way.
    """
    runs = ranked(stored)
    complete = [run for run in runs if run.is_complete]
    begun = [run for run in runs if not run.is_complete and may_resume(run)]
    if not complete:
        run = next(iter(begun), None)
        return Decision(Kind.STORE if run is None else Kind.BUSY if run.is_at_work else Kind.RESUME, run)
    first = complete[0]
    if repeat is None:
        return Decision(Kind.KNOWN, first)
    if same := next((run for run in complete if repeat.is_same(run)), None):
        return Decision(Kind.SAME, same)
    if close := next((run for run in complete if repeat.may_differ(run) and repeat.is_close(run)), None):
        return Decision(Kind.CLOSE, close)
    beside = (run for run in begun if run.tags.get("contradicts") == first.run_id and not run.is_at_work)
    left = next(beside, None)  # by a process that was killed
    return Decision(Kind.RESUME if left else Kind.STORE, left, contradicts=first.run_id)
