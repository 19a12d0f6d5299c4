"""Who listens to training: the display, MLflow's tracker, both or nobody. Training knows none of them."""

from collections.abc import Sequence
from typing import Protocol

from pipeline.runs.records import Array, Record
from pipeline.training.stacks import Stack


class Listener(Protocol):
    """Hears how stacks train, in the stage's process and thread.

    An engine calls start and follow; a trainer calls end and finish.
    """

    def start(self, stack: Stack) -> None:
        """Hear that a stack starts to train; again, if its worker was killed."""

    def follow(self, stack: Stack, curves: Array, epoch: int) -> None:
        """Look at a stack's curves so far; may be called after every epoch.

        Args:
            stack: the stack.
            curves: (R, epochs), float32; the rows of runs on all training rows are filled, the others may be.
            epoch: the number of epochs done.
        """

    def end(self, stack: Stack) -> None:
        """Hear that a stack is trained."""

    def finish(self, records: Sequence[Record]) -> None:
        """Take runs all of whose fits are trained."""


class Listeners(Listener):
    """Several listeners as one, in their order; without any, nobody listens."""

    def __init__(self, *listeners: Listener) -> None:
        self.listeners = listeners

    def start(self, stack: Stack) -> None:
        """Pass it on."""
        for one in self.listeners:
            one.start(stack)

    def follow(self, stack: Stack, curves: Array, epoch: int) -> None:
        """Pass it on."""
        for one in self.listeners:
            one.follow(stack, curves, epoch)

    def end(self, stack: Stack) -> None:
        """Pass it on."""
        for one in self.listeners:
            one.end(stack)

    def finish(self, records: Sequence[Record]) -> None:
        """Pass it on."""
        for one in self.listeners:
            one.finish(records)
