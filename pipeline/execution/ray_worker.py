"""What a Ray worker does: it trains a stack, and yields messages about it.

What a worker may lack, such as torch, is imported after its first message, which reports what it computes with.
"""

import queue
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError
from typing import Any

from pipeline.execution.messages import Grown, Reporter, Started, Task, Trained, pack, unpack
from pipeline.system import machine, processes

REPORT_SECONDS = 1.0  # between two reports of a stack's curves


def train(packed: bytes, arrays: Mapping[str, Any], tags: Mapping[str, str]) -> Iterator[bytes]:
    """Train a stack; yield packed messages, and end after Started if this worker's bits may differ.

    Args:
        packed: the task.
        arrays: the prepared data, in memory that this node's workers share.
        tags: what the bits of the process that asks depend on.
    """
    started = Started(processes.host(), own_tags())
    yield pack(started)
    if started.tags != tags:
        return
    from pipeline.table.prepared import Prepared  # noqa: PLC0415
    from pipeline.training import stacks  # noqa: PLC0415

    task: Task = unpack(packed)
    reports: queue.SimpleQueue[Grown | None] = queue.SimpleQueue()
    follow = Reporter(reports.put, REPORT_SECONDS).follow
    with ThreadPoolExecutor(1) as thread:
        training = thread.submit(stacks.train, task.stack, Prepared(**arrays), follow, seed=task.seed)
        training.add_done_callback(lambda _: reports.put(None))
        while (grown := reports.get()) is not None:  # Ray sends None into the generator, as `yield from` would not take
            yield pack(grown)
    yield pack(Trained(training.result()))


def own_tags() -> dict[str, str]:
    """Return what the bits depend on here, or nothing where torch is missing."""
    try:
        return machine.numeric_tags()
    except PackageNotFoundError:
        return {}
