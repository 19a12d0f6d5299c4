"""What a Ray worker does: it trains a stack, and yields how it gets on.

What a worker may lack, such as torch, is imported after it has said what it computes with.
"""

import math
import pickle
import queue
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from io import BytesIO
from typing import TYPE_CHECKING, Any

from pipeline.system import machine, processes

if TYPE_CHECKING:
    from pipeline.runs.records import Array
    from pipeline.training.stacks import Stack

GROWN_SECONDS = 1.0  # between two parts of a curve


@dataclass(frozen=True)
class Started:
    """A stack starts to train: where, and what its bits depend on there; empty where torch is missing."""

    host: str
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Grown:
    """The curves on all training rows have grown: (F, n), float32, for the n epochs up to `epoch`, of `epochs`."""

    curves: "Array"
    epoch: int
    epochs: int


@dataclass(frozen=True)
class Trained:
    """A stack is trained; its fits, packed."""

    fitted: bytes


def train(
    packed: bytes, arrays: Mapping[str, Any], seed: int, tags: Mapping[str, str]
) -> Iterator[Started | Grown | Trained]:
    """Train a stack; end after Started if this worker's bits may differ.

    Args:
        packed: the stack.
        arrays: the prepared data, in memory that this node's workers share.
        seed: of the runs whose path on all training rows is kept.
        tags: what the bits of the process that asks depend on.
    """
    started = Started(processes.host(), own_tags())
    yield started
    if started.tags != tags:
        return
    from pipeline.table.prepared import Prepared  # noqa: PLC0415
    from pipeline.training import stacks  # noqa: PLC0415

    grown: queue.SimpleQueue[Grown | None] = queue.SimpleQueue()
    with ThreadPoolExecutor(1) as thread:
        training = thread.submit(stacks.train, unpack(packed), Prepared(**arrays), Growth(grown).follow, seed=seed)
        training.add_done_callback(lambda _: grown.put(None))
        while (part := grown.get()) is not None:  # Ray sends None into the generator, which `yield from` would pass on
            yield part
    yield Trained(pack(training.result()))


def own_tags() -> dict[str, str]:
    """Return what the bits depend on here, or nothing where torch is missing."""
    try:
        return machine.numeric_tags()
    except PackageNotFoundError:
        return {}


class Growth:
    """Reports each point of a stack's curves once, some every second."""

    def __init__(self, grown: "queue.SimpleQueue[Grown | None]") -> None:
        """Report into a queue."""
        self.grown = grown
        self.told, self.told_at = 0, -math.inf  # the first at once: who looks on sees where the stack begins

    def follow(self, stack: "Stack", curves: "Array", epoch: int) -> None:
        """Report what has grown, if it is time to."""
        if time.monotonic() - self.told_at < GROWN_SECONDS:
            return
        new = curves[list(stack.places.values()), self.told : epoch]  # a copy
        self.grown.put(Grown(new, epoch, curves.shape[1]))
        self.told, self.told_at = epoch, time.monotonic()


def pack(value: object) -> bytes:
    """Pickle a stack or its fits."""
    from pipeline.execution.worker import Pickler  # noqa: PLC0415

    content = BytesIO()
    Pickler(content, pickle.HIGHEST_PROTOCOL).dump(value)
    return content.getvalue()


def unpack(packed: bytes) -> Any:  # noqa: ANN401
    """Read what `pack` wrote."""
    return pickle.loads(packed)  # noqa: S301 - from our own worker, or the process that asks it
