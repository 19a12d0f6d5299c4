"""Where stacks train: in this process, in worker processes, or on a cluster. An engine changes no bit."""

from collections.abc import Iterator, Sequence
from typing import Protocol, Self

import numpy as np

from pipeline.execution.checkpoints import Checkpoints
from pipeline.execution.listener import Listener
from pipeline.execution.messages import Grown
from pipeline.table.prepared import Prepared
from pipeline.training import stacks
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

    def __exit__(self, *_: object) -> None: ...


class Here:
    """This process. See: Engine."""

    def __init__(self, prepared: Prepared, checkpoints: Checkpoints | None = None) -> None:
        """Take the data, and where stacks resume from and keep their state."""
        self.prepared, self.checkpoints = prepared, checkpoints

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def train(self, planned: Sequence[Stack], listener: Listener, seed: int) -> Iterator[tuple[Stack, list[Fitted]]]:
        """Train stacks in the order in which they are given."""
        for stack in planned:
            listener.start(stack)
            yield stack, stacks.train(stack, self.prepared, listener.follow, self.checkpoints, seed)


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
