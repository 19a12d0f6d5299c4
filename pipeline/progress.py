"""Shows how a stage gets on: one line that redraws at a terminal, a plain line every few seconds elsewhere.

It only looks at what passes by, and changes no bit of any out.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

import numpy as np
from rich.console import Console
from rich.control import Control
from rich.segment import ControlType

from pipeline.records import Array, Record
from pipeline.sweep import Run, Stack

if TYPE_CHECKING:
    from pipeline.tracking.piped import Piped

REDRAW_SECONDS, PLAIN_SECONDS = 0.25, 5.0
FIRST_SECONDS = 3.0  # before the first estimate
WORTH_SECONDS = 60.0  # an estimate that is announced on a line of its own
Row = TypeVar("Row")
ERASE = Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2))


class Display:
    """A stage's line on standard output."""

    def __init__(self, title: str, console: Console | None = None) -> None:
        """Begin.

        Args:
            title: stands before each line.
            console: standard output; it knows whether that is a terminal, and its width, NO_COLOR and TERM.
        """
        self.title = title
        self.console = console or Console(highlight=False, soft_wrap=True)
        self.redraws = self.console.is_terminal and not self.console.is_dumb_terminal
        self.every = REDRAW_SECONDS if self.redraws else PLAIN_SECONDS
        self.begun = time.monotonic()
        self.next = self.begun + self.every
        self.storing_since: tuple[float, int] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()

    @property
    def elapsed(self) -> float:
        """The seconds since the stage began."""
        return time.monotonic() - self.begun

    def is_due(self) -> bool:
        """Tell whether it is time for the next line; costs less than a microsecond."""
        return time.monotonic() >= self.next

    def draw(self, *parts: str) -> None:
        """Draw the line from its parts, the more important ones first: what does not fit the width is left out."""
        self.next = time.monotonic() + self.every
        line = f"{self.title}: {', '.join(filter(None, parts))}"
        if not self.redraws:
            self.console.print(line, markup=False)
            return
        most = self.console.width - 1  # a full line would wrap on some terminals
        self.console.control(ERASE)
        self.console.print(line if len(line) <= most else f"{line[: most - 1]}…", end="", markup=False)
        self.console.file.flush()

    def clear(self) -> None:
        """Make room for what others print."""
        if self.redraws:
            self.console.control(ERASE)
            self.console.file.flush()

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self.clear()
        self.console.print(f"{self.title}: {text}", markup=False)
        self.console.file.flush()

    def reading(self, rows: Iterator[Row]) -> Iterator[Row]:
        """Yield a table's rows, and show how many they are."""
        for n, row in enumerate(rows, start=1):
            if not n % 4096 and self.is_due():
                self.draw(f"{n:,} rows read")
            yield row

    def evaluating(self, records: Sequence[Record]) -> Iterator[Record]:
        """Yield records, and show how many of them are evaluated."""
        for n, record in enumerate(records):
            if self.is_due():
                left = self.elapsed / n * (len(records) - n) if n else math.nan
                self.draw(
                    f"{n:,} of {count(len(records), 'run')} evaluated", f"{duration(left)} left" if left > 0 else ""
                )
            yield record

    def storing(self, stored: int, sent: int) -> None:
        """Show how many runs are stored while the stage waits for that, if it is time to."""
        since, before = self.storing_since = self.storing_since or (time.monotonic(), stored)
        if self.is_due():
            waited = time.monotonic() - since
            left = waited / (stored - before) * (sent - stored) if stored > before and waited > 1 else math.nan
            self.draw(
                f"storing: {stored:,} of {count(sent, 'run')} stored", f"{duration(left)} left" if left > 0 else ""
            )


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
        self.place = -1  # of the stack in training
        self.skipped: float | None = None  # work that a checkpoint saved
        self.best = math.inf
        self.announced = False
        self.finished = self.diverged = 0
        self.trained = 0.0  # seconds until the last run was

    def start(self, runs: Sequence[Run]) -> None:
        """Go on to the next stack."""
        self.place += 1
        self.tracking.start(runs)

    def follow(self, places: Mapping[str, int], curves: Array, epoch: int) -> None:
        """Show the epoch, if it is time to."""
        self.tracking.follow(places, curves, epoch)
        if self.skipped is None:
            self.skipped = self.work[self.place] * (epoch - 1) / curves.shape[1]
        if self.display.is_due():
            self._draw(curves[list(places.values()), epoch - 1], epoch, curves.shape[1])

    def finish(self, record: Record) -> None:
        """Count a trained run."""
        self.finished += 1
        self.trained = self.display.elapsed
        if record.diverged:
            self.diverged += 1
        else:
            self.best = min(self.best, float(record.curve[-1]))
        self.tracking.finish(record)

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
            f"stack {self.place + 1} of {len(self.stacks)} (batch size {stack.fits[0][0].batch_size}): "
            f"epoch {epoch:,} of {epochs:,}",
            f"best train/mse {best:.4g}" if math.isfinite(best) else "",
            f"{count(self.finished, 'run')} trained, {self.tracking.stored:,} stored",
        )

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


def duration(seconds: float) -> str:
    """Say how long something takes, in at most two units."""
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes < 10 else f"{minutes} min"


def count(number: int, thing: str) -> str:
    """Say how many things there are."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"
