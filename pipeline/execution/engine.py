"""Where stacks train: in this process, in worker processes, or on a cluster. An engine changes no bit."""

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Protocol, Self

import numpy as np

from pipeline.execution.listener import Listener
from pipeline.execution.messages import Grown
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


class RemoteStack:
    """A stack that trains in another process, and its curves (R, epochs), as far as that has reported them.

    host: where it trains, if that is known.
    """

    def __init__(self, stack: Stack) -> None:
        self.stack, self.host = stack, ""
        self.curves = np.zeros((len(stack.fits), stack.fits[0][0].epochs), dtype=np.float32)
        self.rows = list(stack.places.values())

    def grow(self, grown: Grown, listener: Listener) -> None:
        """Add what has grown, and let the listener follow."""
        self.curves[self.rows, grown.epoch - grown.columns.shape[1] : grown.epoch] = grown.columns
        listener.follow(self.stack, self.curves, grown.epoch)
