"""Shows how the runs of one variant train: what is done, how long the rest takes, and the best loss so far."""

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.progress import Display, count, duration
from pipeline.records import Array, Record
from pipeline.sweep import Run
from pipeline.training.stacks import Stack

if TYPE_CHECKING:
    from pipeline.tracking.piped import Piped

FIRST_SECONDS = 3.0  # before the first estimate
WORTH_SECONDS = 60.0  # an estimate that is announced on a line of its own


class Training:
    """Shows how the runs of one variant train, and passes on what the stage reports of them."""

    def __init__(self, display: Display, tracking: "Piped", stacks: Sequence[Stack], k: int) -> None:
        """Begin.

        Args:
            display: the stage's.
            tracking: takes what the stage reports.
            stacks: all that will be trained, in this order.
            k: the number of features.
        """
        self.display, self.tracking, self.stacks = display, tracking, stacks
        self.work = [work(stack, k) for stack in stacks]
        self.runs = len({run for stack in stacks for run, _ in stack.fits})
        self.place = -1  # of the stack in training
        self.skipped: float | None = None  # work that a checkpoint saved
        self.begun: tuple[float, int] | None = None  # when the stack's first epoch here was done, and which that was
        self.best = math.inf
        self.announced = False
        self.finished = self.diverged = 0
        self.trained = 0.0  # seconds until the last run was

    def start(self, runs: Sequence[Run]) -> None:
        """Go on to the next stack."""
        self.place += 1
        self.begun = None
        self.tracking.start(runs)

    def follow(self, places: Mapping[str, int], curves: Array, epoch: int) -> None:
        """Show the epoch, if it is time to."""
        self.tracking.follow(places, curves, epoch)
        if self.skipped is None:
            self.skipped = self.work[self.place] * (epoch - 1) / curves.shape[1]
        if self.begun is None:
            self.begun = time.monotonic(), epoch
        if self.display.is_due():
            self._draw(curves[list(places.values()), epoch - 1], epoch, curves.shape[1])

    def finish(self, records: Sequence[Record]) -> None:
        """Count trained runs."""
        self.finished += len(records)
        self.trained = self.display.elapsed
        self.diverged += sum(bool(record.diverged) for record in records)
        self.best = min([self.best, *(float(record.curve[-1]) for record in records if not record.diverged)])
        self.tracking.finish(records)

    def complete(self, evaluated: Sequence[Record], artifacts: Sequence[Path], champion: str) -> None:
        """Pass it on."""
        self.tracking.complete(evaluated, artifacts, champion)

    def end(self, status: str, error: str) -> None:
        """Pass it on."""
        self.tracking.end(status, error)

    def conclude(self) -> None:
        """Say what was trained, how long that took, and whether all of it is stored."""
        best = f"; best train/mse {self.best:.4g}" if math.isfinite(self.best) else ""
        diverged = f", of which {self.diverged:,} diverged" if self.diverged else ""
        lacking = self.finished - self.tracking.stored
        stored = f"; {lacking:,} not stored" if lacking else "; all stored"
        trained = f"{count(self.finished, 'run')} trained in {duration(self.trained)}{diverged}"
        self.display.say(f"{trained}{best}{stored}")

    def _draw(self, losses: Array, epoch: int, epochs: int) -> None:
        finite = losses[np.isfinite(losses)]
        best = min([self.best, *finite.tolist()])
        done = sum(self.work[: self.place]) + self.work[self.place] * epoch / epochs
        left = self._seconds_left(done)
        self._announce(left)
        stack = self.stacks[self.place]
        self.display.draw(
            f"{done / sum(self.work):.0%}",
            f"{duration(left)} left" if math.isfinite(left) else "",
            f"best train/mse {best:.4g}" if math.isfinite(best) else "",
            f"{self.tracking.stored:,} of {count(self.runs, 'run')} stored",
            f"batch size {stack.fits[0][0].batch_size}: epoch {epoch:,} of {epochs:,}",
            f"stack {self.place + 1} of {len(self.stacks)}",
            self._rate(epoch),
        )

    def _rate(self, epoch: int) -> str:
        assert self.begun is not None
        at, first = self.begun
        if epoch == first:
            return ""
        rate = (epoch - first) / (time.monotonic() - at)
        return f"{rate:,.0f} epochs/s" if rate >= 10 else f"{rate:.2g} epochs/s"

    def _seconds_left(self, done: float) -> float:
        made = done - (self.skipped or 0)
        if made <= 0 or self.display.elapsed < min(FIRST_SECONDS, self.display.every):
            return math.nan
        return self.display.elapsed / made * (sum(self.work) - done)

    def _announce(self, left: float) -> None:
        if self.announced or self.display.elapsed < FIRST_SECONDS or math.isnan(left):
            return
        self.announced = True
        if left < WORTH_SECONDS:
            return
        work_of: dict[str, float] = {}
        for stack, amount in zip(self.stacks[self.place :], self.work[self.place :], strict=True):
            size = str(stack.fits[0][0].batch_size)
            work_of[size] = work_of.get(size, 0) + amount
        most = max(work_of, key=lambda size: work_of[size])
        share = work_of[most] / sum(work_of.values())
        why = f"; batch size {most} is most of it" if len(work_of) > 1 and share > 0.5 else ""
        self.display.say(f"about {duration(left)}{why}")


def work(stack: Stack, k: int) -> float:
    """Estimate a stack's training time, in steps on a small minibatch.

    A step takes about 90 µs, however small, and as long again for every 2**14 numbers in it.
    """
    run = stack.fits[0][0]
    steps = -(-stack.rows // stack.batch_size)
    return run.epochs * steps * (1 + len(stack.fits) * stack.batch_size * (k + 1) / 2**14)
