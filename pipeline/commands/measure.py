"""How long stacks will train on this machine: a few epochs of real ones, extrapolated by what stacks cost."""

import heapq
import time
from collections.abc import Sequence
from dataclasses import replace

from pipeline.training import stacks
from pipeline.training.cost import work
from pipeline.training.data import Prepared
from pipeline.training.stacks import Stack

WORTH_SECONDS = 0.1  # of a measurement
MOST_EPOCHS = 200


def seconds(planned: Sequence[Stack], prepared: Prepared, workers: int) -> float:
    """Estimate how long one variant's stacks train, the longest first, each in the process that is free first."""
    k = prepared.X.shape[1]
    heaviest = max(planned, key=lambda stack: work(stack, k))
    a_unit = epoch_seconds(heaviest, prepared) * heaviest.fits[0][0].epochs / work(heaviest, k)
    busy = [0.0] * workers  # until when each process is
    for amount in sorted((work(stack, k) for stack in planned), reverse=True):
        heapq.heapreplace(busy, busy[0] + amount * a_unit)
    return max(busy)


def epoch_seconds(stack: Stack, prepared: Prepared) -> float:
    """Measure an epoch of a stack, without what comes before the first."""
    epochs = stack.fits[0][0].epochs
    _train(stack, 1, prepared)  # loads what training needs
    first = _train(stack, 1, prepared)
    more = min(epochs, MOST_EPOCHS, 1 + max(1, int(WORTH_SECONDS / first)))
    return max(1e-6, (_train(stack, more, prepared) - first) / (more - 1)) if more > 1 else first


def _train(stack: Stack, epochs: int, prepared: Prepared) -> float:
    short = {run: replace(run, epochs=epochs) for run, _ in stack.fits}
    few = Stack(tuple((short[run], split) for run, split in stack.fits), stack.rows)
    begun = time.perf_counter()
    stacks.train(few, prepared, lambda *_: None)
    return time.perf_counter() - begun
