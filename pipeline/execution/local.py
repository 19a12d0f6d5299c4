"""The engine that trains stacks one after another, in this process."""

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from pipeline.execution.checkpoints import Checkpoints
from pipeline.execution.listener import Listener
from pipeline.table.prepared import Prepared
from pipeline.training import stacks
from pipeline.training.stacks import Fitted, Stack


class Here:
    """This process. See: engine.Engine."""

    def __init__(self, prepared: Prepared, checkpoints: Checkpoints | None = None) -> None:
        """Take the data, and where stacks resume from and keep their state."""
        self.prepared, self.checkpoints = prepared, checkpoints

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def train(self, planned: Sequence[Stack], listener: Listener, seed: int) -> Iterator[tuple[Stack, list[Fitted]]]:
        """Train stacks in the order in which they are given."""
        for stack in planned:
            listener.start(stack)
            yield stack, stacks.train(stack, self.prepared, listener.follow, self.checkpoints, seed)
