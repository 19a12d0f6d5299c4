"""Shows how the runs of one variant train: what is done, how long the rest takes, and the best loss so far."""

import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.execution.cost import work
from pipeline.execution.listener import Listener
from pipeline.runs.records import Array, Record
from pipeline.system.progress import Display, count, duration
from pipeline.training.stacks import Stack

FIRST_SECONDS = 3.0  # before the first estimate
WORTH_SECONDS = 60.0  # an estimate that is announced on a line of its own
LISTED = 3  # the most stacks whose epoch is shown


@dataclass
class Advance:
    """How far a stack in training is: the epochs done, those done when it was first seen, and when that was."""

    epoch: int = 0
    first: int = 0
    begun: float = math.nan

    @property
    def rate(self) -> float:
        """The epochs per second here; 0 while nobody knows."""
        return (self.epoch - self.first) / (time.monotonic() - self.begun) if self.epoch > self.first else 0.0


class Training(Listener):
    """Shows how the runs of one variant train."""

    def __init__(
        self,
        display: Display,
        stacks: Sequence[Stack],
        k: int,
        splits: int = sys.maxsize,
        stored: Callable[[], int] | None = None,
    ) -> None:
        """Take what is known of the training before it begins.

        Args:
            display: the stage's.
            stacks: all that will be trained, as far as they are known.
            k: the number of features.
            splits: the number of fits of a run; splits beyond are nested cross-validation's.
            stored: returns the number of runs stored so far; None if nobody stores them.
        """
        self.display, self.k, self.splits, self.stored = display, k, splits, stored
        self.planned = {stack.key: stack for stack in stacks}
        self.work = {stack: work(stack, k) for stack in stacks}
        self.runs = len({run for stack in stacks for run, split in stack.fits if split < splits})
        self.at_work: dict[Stack, Advance] = {}
        self.ended: set[Stack] = set()
        self.skipped = 0.0  # work that checkpoints saved
        self.best = math.inf
        self.announced = False
        self.finished = self.diverged = self.nested = 0
        self.trained = 0.0  # seconds until the last run was

    def start(self, stack: Stack) -> None:
        """Show a stack from now on, in place of the planned one with the same fits, if there is one."""
        self.work.pop(self.planned.pop(stack.key, stack), None)
        self.work.setdefault(stack, work(stack, self.k))
        self.at_work[stack] = Advance()

    def follow(self, stack: Stack, curves: Array, epoch: int) -> None:
        """Show the epoch, if it is time to."""
        advance = self.at_work[stack]
        advance.epoch = epoch
        if not advance.first:
            advance.first, advance.begun = epoch, time.monotonic()
            self.skipped += self.work[stack] * (epoch - 1) / curves.shape[1]
        if self.display.is_due():
            self._draw(curves[list(stack.places.values()), epoch - 1])

    def end(self, stack: Stack) -> None:
        """Count a trained stack."""
        del self.at_work[stack]
        self.ended.add(stack)
        self.nested += sum(split >= self.splits for _, split in stack.fits)

    def finish(self, records: Sequence[Record]) -> None:
        """Count trained runs."""
        self.finished += len(records)
        self.trained = self.display.elapsed
        self.diverged += sum(bool(record.diverged) for record in records)
        self.best = min([self.best, *(float(record.curve[record.last]) for record in records if not record.diverged)])

    def conclude(self, runs: int) -> None:
        """Print how many of the runs were trained, how long that took, and whether all of it is stored."""
        best = f"; best train/mse {self.best:.4g}" if math.isfinite(self.best) else ""
        diverged = f", of which {self.diverged:,} diverged" if self.diverged else ""
        lacking = self.finished - self.stored() if self.stored else 0
        stored = f"; {lacking:,} not stored" if lacking else "; all stored" if self.stored else ""
        took = f" in {duration(self.trained)}" if self.finished else ""
        trained = f"{count(self.finished, 'run')} trained{took}{diverged}"
        known = f", {runs - self.finished:,} known" if runs > self.finished else ""
        nested = f"; {count(self.nested, 'fit')} for train.nested, all in {duration(self.display.elapsed)}"
        self.display.say(f"{trained}{known}{nested if self.nested else ''}{best}{stored}")

    def _draw(self, losses: Array) -> None:
        best = min([self.best, *losses[np.isfinite(losses)].tolist()])
        done = sum(self.work[stack] for stack in self.ended)
        done += sum(self.work[stack] * one.epoch / _epochs(stack) for stack, one in self.at_work.items())
        left = self._seconds_left(done)
        self._announce(left)
        first, last = len(self.ended) + 1, len(self.ended) + len(self.at_work)
        rate = sum(one.rate for one in self.at_work.values())
        self.display.draw(
            f"{done / sum(self.work.values()):.0%}",
            f"{duration(left)} left" if math.isfinite(left) else "",
            f"best train/mse {best:.4g}" if math.isfinite(best) else "",
            f"{self.stored():,} of {count(self.runs, 'run')} stored" if self.stored else "",
            *(
                f"batch size {stack.fits[0][0].batch_size}: epoch {one.epoch:,} of {_epochs(stack):,}"
                for stack, one in list(self.at_work.items())[:LISTED]
            ),
            f"stack{'' if first == last else f's {first} to'} {last} of {len(self.work)}",
            f"{rate:{',.0f' if rate >= 10 else '.2g'}} epochs/s" if rate else "",
        )

    def _seconds_left(self, done: float) -> float:
        made = done - self.skipped
        if made <= 0 or self.display.elapsed < min(FIRST_SECONDS, self.display.every):
            return math.nan
        # At the end, one stack may train on while others wait for it.
        each = [(_epochs(stack) - one.epoch) / one.rate for stack, one in self.at_work.items() if one.rate]
        return max([self.display.elapsed / made * (sum(self.work.values()) - done), *each])

    def _announce(self, left: float) -> None:
        if self.announced or self.display.elapsed < FIRST_SECONDS or math.isnan(left):
            return
        self.announced = True
        if left < WORTH_SECONDS:
            return
        work_of: dict[str, float] = defaultdict(float)
        for stack in [one for one in self.work if one not in self.ended]:
            work_of[str(stack.fits[0][0].batch_size)] += self.work[stack]
        most = max(work_of, key=lambda size: work_of[size])
        share = work_of[most] / sum(work_of.values())
        why = f"; batch size {most} is most of it" if len(work_of) > 1 and share > 0.5 else ""
        self.display.say(f"about {duration(left)}{why}")


def _epochs(stack: Stack) -> int:
    return stack.fits[0][0].epochs
