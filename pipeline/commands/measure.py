"""What a sweep costs: time extrapolated from a few epochs on this machine, and constants measured on another."""

import heapq
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import median

from pipeline.execution.cost import STEP_SECONDS, curve_bytes, work
from pipeline.runs.run import Run
from pipeline.table.prepared import Prepared
from pipeline.training import stacks
from pipeline.training.stacks import Stack

WORTH_SECONDS = 0.1  # of a measurement
MOST_EPOCHS = 200
# On a machine whose step takes STEP_SECONDS:
STAGE_SECONDS = 2.0  # a stage's start and end, with what DVC does before and after
RUN_SECONDS = 2.5e-3  # storing a run without its curve, and evaluating it, as far as training does not hide it
POINT_SECONDS = 6e-6  # storing a point of its curve
# The peak memory of all processes, with shared memory counted once, and without the runs' curves:
TRAIN_BYTES = 380 * 2**20  # train and its storing process
WORKER_BYTES = 65 * 2**20  # a process that trains for it
EVALUATE_BYTES = 460 * 2**20  # evaluate and its storing process
RUN_BYTES = 30_000  # a run while it is stored; evaluate takes half of that
POINT_BYTES = 150  # a point of its curve while that is stored


def unit(stack: Stack, prepared: Prepared) -> float:
    """Measure the seconds of one unit of `work`, a step on a small minibatch, on this machine."""
    return epoch_seconds(stack, prepared) * stack.fits[0][0].epochs / work(stack, prepared.X.shape[1])


def rest(stages: int, runs: int, points: int, planned: Sequence[Stack], prepared: Prepared) -> float:
    """Estimate how long a sweep takes besides training: starting its stages, and storing and evaluating its runs.

    The estimate scales constants by the speed of the lightest stack on this machine. It is for a store in a file or in
    PostgreSQL; a server takes longer.

    Args:
        stages: the number of starts.
        runs: the number of runs.
        points: the number of points of all curves.
        planned: the stacks.
        prepared: the data.
    """
    lightest = min(planned, key=lambda stack: work(stack, prepared.X.shape[1]))
    return (
        (stages * STAGE_SECONDS + runs * RUN_SECONDS + points * POINT_SECONDS) * unit(lightest, prepared) / STEP_SECONDS
    )


def seconds(planned: Sequence[Stack], prepared: Prepared, workers: int) -> float:
    """Estimate how long one variant's stacks train, the longest first, each in the first free process."""
    k = prepared.X.shape[1]
    a_unit = unit(max(planned, key=lambda stack: work(stack, k)), prepared)
    busy = [0.0] * workers  # the time at which each process becomes free
    for amount in sorted((work(stack, k) for stack in planned), reverse=True):
        heapq.heapreplace(busy, busy[0] + amount * a_unit)
    return max(busy)


def memory(variants: Sequence[Sequence[Run]], splits: int, points: int, workers: int) -> int:
    """Estimate the memory of a sweep's largest stage in bytes, of all its processes together, without the table.

    Args:
        variants: the runs of each variant.
        splits: the number of fits of each run.
        points: the most points of a run's curve.
        workers: the number of processes that train.
    """
    each = RUN_BYTES + POINT_BYTES * points
    epochs = [sum(run.epochs for run in own) for own in variants]
    trains = [curve_bytes(count, splits) + each * len(own) for own, count in zip(variants, epochs, strict=True)]
    evaluates = (curve_bytes(sum(epochs), 0) + RUN_BYTES * sum(map(len, variants))) // 2
    return max(TRAIN_BYTES + max(trains) + WORKER_BYTES * workers * (workers > 1), EVALUATE_BYTES + evaluates)


def epoch_seconds(stack: Stack, prepared: Prepared) -> float:
    """Measure the seconds of an epoch of a stack, without what happens before the first epoch."""
    epochs = stack.fits[0][0].epochs
    few = median(_epochs(stack, min(epochs, 3), prepared))  # the first call also loads what training needs
    return median(_epochs(stack, min(epochs, MOST_EPOCHS, 3 + int(WORTH_SECONDS / few)), prepared))


def _epochs(stack: Stack, epochs: int, prepared: Prepared) -> list[float]:
    """Return the seconds of each epoch except the first; of the first if there is only one."""
    short = {run: replace(run, epochs=epochs) for run, _ in stack.fits}
    few = Stack(tuple((short[run], split) for run, split in stack.fits), stack.rows)
    ends = [time.perf_counter()]
    stacks.train(few, prepared, lambda *_: ends.append(time.perf_counter()))
    took = [end - begin for begin, end in pairwise(ends)]
    return took[1:] or took
