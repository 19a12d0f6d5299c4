"""What a stage tells of its runs while it works, whoever listens: a store in this process, a pipe, or nobody.

direct.Direct stores what it is told, piped.Piped tells another process that does, Untracked stores nothing.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from pipeline.records import Array, Record
from pipeline.sweep import Run, curve_steps

FOLLOW_SECONDS = 5.0  # between two batches of a growing curve
Follow = Callable[[Mapping[str, int], Array, int], None]
Points = Mapping[str, Mapping[int, float]]  # by fingerprint, step -> value


class Tracking(Protocol):
    """A run goes through start, follow and finish, and after the evaluation complete; a stage ends with end."""

    def start(self, runs: Sequence[Run]) -> None:
        """Open runs that begin to train."""

    def follow(self, places: Mapping[str, int], curves: Array, epoch: int) -> None:
        """Pass on how far the curves of running runs have come; may be called after every epoch.

        Args:
            places: by fingerprint, rows of `curves`.
            curves: (R, epochs), float32.
            epoch: the number of epochs done.
        """

    def finish(self, record: Record) -> None:
        """Store and end a trained run."""

    def complete(self, evaluated: Sequence[Record], artifacts: Sequence[Path], champion: str) -> None:
        """Store the evaluation of all runs, and end the sweep."""

    def end(self, status: str, error: str) -> None:
        """End the stage; what it left open gets the status, and the error where that is not FINISHED."""


class Untracked:
    """Runs that nobody tracks: those of tests and of workers."""

    def start(self, runs: Sequence[Run]) -> None:
        """Do nothing."""

    def follow(self, places: Mapping[str, int], curves: Array, epoch: int) -> None:
        """Do nothing."""

    def finish(self, record: Record) -> None:
        """Do nothing."""

    def complete(self, evaluated: Sequence[Record], artifacts: Sequence[Path], champion: str) -> None:
        """Do nothing."""

    def end(self, status: str, error: str) -> None:
        """Do nothing."""


class Growth:
    """Chooses which points of growing curves to store, every few seconds."""

    def __init__(self, epochs: int, points: int) -> None:
        """Begin with empty curves.

        Args:
            epochs: of a curve.
            points: the most that are stored of it.
        """
        self.steps = curve_steps(epochs, points)
        self.told: dict[str, int] = {}  # by fingerprint, how many epochs of the curve were passed on
        self.followed = time.monotonic()

    def new(self, places: Mapping[str, int], curves: Array, epoch: int) -> Points:
        """Return the points that have come since, none where it is too soon; the arguments are those of `follow`."""
        if time.monotonic() - self.followed <= FOLLOW_SECONDS:
            return {}
        grown = {}
        for fingerprint, r in places.items():
            new = [step for step in self.steps if self.told.get(fingerprint, 0) <= step < epoch]
            grown[fingerprint] = dict(zip(new, curves[r, new].tolist(), strict=True))
            self.told[fingerprint] = epoch
        self.followed = time.monotonic()
        return grown
