"""Where stacks train: in this process, in worker processes, or on a cluster. An engine changes no bit."""

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Protocol, Self

from pipeline.runs.records import Array, Record
from pipeline.training.stacks import Fitted, Stack


class Watch(Protocol):
    """Looks on while stacks train. An engine calls start and follow, the stage end and finish."""

    def start(self, stack: Stack) -> None:
        """Note that a stack starts to train; again, if its worker was killed."""

    def follow(self, stack: Stack, curves: Array, epoch: int) -> None:
        """Look at a stack's curves so far; may be called after every epoch.

        Args:
            stack: the stack.
            curves: (R, epochs), float32; the rows of runs on all training rows are filled, the others may be.
            epoch: the number of epochs done.
        """

    def end(self, stack: Stack) -> None:
        """Note that a stack is trained."""

    def finish(self, records: Sequence[Record]) -> None:
        """Take a run all of whose fits are trained."""


class Engine(Protocol):
    """A place where stacks train on a table; leaving it leaves no process behind."""

    def train(self, planned: Sequence[Stack], watch: Watch, seed: int) -> Iterator[tuple[Stack, list[Fitted]]]:
        """Train stacks and yield each with its fits, in any order; may be called again, with other stacks.

        Args:
            planned: the stacks.
            watch: told in this process and thread, in which the caller iterates.
            seed: of the runs whose path on all training rows is kept.
        """

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Unwatched:
    """Looks at nothing."""

    def start(self, stack: Stack) -> None:
        """Do nothing."""

    def follow(self, stack: Stack, curves: Array, epoch: int) -> None:
        """Do nothing."""

    def end(self, stack: Stack) -> None:
        """Do nothing."""

    def finish(self, records: Sequence[Record]) -> None:
        """Do nothing."""
