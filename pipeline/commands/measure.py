"""How long stacks will train on this machine: a few epochs of real ones, extrapolated by what stacks cost."""

import heapq
import time
from collections.abc import Sequence
from dataclasses import replace

from pipeline.training import stacks
from pipeline.training.cost import STEP_SECONDS, work
from pipeline.training.data import Prepared
from pipeline.training.stacks import Stack

WORTH_SECONDS = 0.1  # of a measurement
MOST_EPOCHS = 200
# Where a step takes STEP_SECONDS:
STAGE_SECONDS = 2.0  # a stage's start and end, with what DVC does before and after
RUN_SECONDS = 4e-3  # storing a run and evaluating it, beside what training hides


def unit(stack: Stack, prepared: Prepared) -> float:
    """Measure how many seconds a step on a small minibatch takes here, if a stack's cost is as `work` says."""
    return epoch_seconds(stack, prepared) * stack.fits[0][0].epochs / work(stack, prepared.X.shape[1])


def rest(stages: int, runs: int, planned: Sequence[Stack], prepared: Prepared) -> float:
    """Estimate how long a sweep takes beside its training: these stages' starts, and storing and evaluating its runs.

    Too much happens there to try it out, so that it is taken to be as fast here as the lightest of the stacks is.
    """
    lightest = min(planned, key=lambda stack: work(stack, prepared.X.shape[1]))
    return (stages * STAGE_SECONDS + runs * RUN_SECONDS) * unit(lightest, prepared) / STEP_SECONDS


def seconds(planned: Sequence[Stack], prepared: Prepared, workers: int) -> float:
    """Estimate how long one variant's stacks train, the longest first, each in the process that is free first."""
    k = prepared.X.shape[1]
    a_unit = unit(max(planned, key=lambda stack: work(stack, k)), prepared)
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
