"""Where stacks train: in this process, in worker processes, or on a cluster. An engine changes no bit."""

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Protocol, Self

from pipeline.execution.listener import Listener
from pipeline.training.stacks import Fitted, Stack


class Engine(Protocol):
    """A place where stacks train on a table; leaving it leaves no process behind."""

    def train(self, planned: Sequence[Stack], listener: Listener, seed: int) -> Iterator[tuple[Stack, list[Fitted]]]:
        """Train stacks and yield each with its fits, in any order; may be called again, with other stacks.

        Args:
            planned: the stacks.
            listener: called in the process and thread in which the caller iterates.
            seed: of the runs whose path on all training rows is kept.
        """

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
