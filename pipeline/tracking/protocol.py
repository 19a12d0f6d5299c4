"""How a stage reports its runs while it works: to a store in this process, through a pipe, or to nobody.

direct.Direct stores them, piped.Piped sends them to a process that does, Untracked drops them.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from pipeline.runs.records import Array, Record
from pipeline.runs.run import Run, curve_steps

FOLLOW_SECONDS = 5.0  # between two batches of a curve's points
Follow = Callable[[Mapping[str, int], Array, int], None]
Points = Mapping[str, Mapping[int, float]]  # fingerprint -> step -> value


class Tracking(Protocol):
    """A run goes through start, follow and finish, and complete after its evaluation; a stage calls end last."""

    def start(self, runs: Sequence[Run]) -> None:
        """Open runs that start to train."""

    def follow(self, places: Mapping[str, int], curves: Array, epoch: int) -> None:
        """Report the curves of running runs so far; may be called after every epoch.

        Args:
            places: fingerprint -> row of `curves`.
            curves: (R, epochs), float32.
            epoch: the number of epochs done.
        """

    def finish(self, records: Sequence[Record]) -> None:
        """Store and end trained runs, such as those of a stack."""

    def complete(self, evaluated: Sequence[Record], artifacts: Sequence[Path], champion: str) -> None:
        """Store the evaluation of all runs, and end the sweep."""

    def end(self, status: str, error: str) -> None:
        """End the stage; runs left open get the status, and the error unless it is FINISHED."""


class Untracked:
    """Tracks nothing: for tests."""

    def start(self, runs: Sequence[Run]) -> None:
        """Do nothing."""

    def follow(self, places: Mapping[str, int], curves: Array, epoch: int) -> None:
        """Do nothing."""

    def finish(self, records: Sequence[Record]) -> None:
        """Do nothing."""

    def complete(self, evaluated: Sequence[Record], artifacts: Sequence[Path], champion: str) -> None:
        """Do nothing."""

    def end(self, status: str, error: str) -> None:
        """Do nothing."""


class Growth:
    """Chooses which points of growing curves to store, every few seconds."""

    def __init__(self, points: int) -> None:
        """Start with empty curves, of which at most so many points are stored."""
        self.points = points
        self.done: dict[str, int] = {}  # fingerprint -> epochs of the curve already returned
        self.followed = time.monotonic()

    def new(self, places: Mapping[str, int], curves: Array, epoch: int) -> Points:
        """Return the points added since the last time, none if that is too recent; takes the arguments of `follow`."""
        if time.monotonic() - self.followed <= FOLLOW_SECONDS:
            return {}
        grown, steps = {}, curve_steps(curves.shape[1], self.points)
        for fingerprint, r in places.items():
            new = [step for step in steps if self.done.get(fingerprint, 0) <= step < epoch]
            grown[fingerprint] = dict(zip(new, curves[r, new].tolist(), strict=True))
            self.done[fingerprint] = epoch
        self.followed = time.monotonic()
        return grown
