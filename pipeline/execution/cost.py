"""What a stack costs to train, before it does."""

from collections.abc import Sequence

from pipeline.runs.run import Run
from pipeline.training.minibatches import steps
from pipeline.training.stacks import Stack

STEP_SECONDS = 1e-4  # a step on a small minibatch, roughly, on any machine


def work(stack: Stack, k: int) -> float:
    """Estimate a stack's training time, in steps on a small minibatch.

    A step takes about 90 µs, however small, and as long again for every 2**14 numbers in it.
    """
    counts = sorted(set(stack.rows), reverse=True)
    return stack.fits[0][0].epochs * (len(steps(counts, stack.batch_size)) + sum(stack.rows) * (k + 1) / 2**14)


def curve_bytes(runs: Sequence[Run], splits: int) -> int:
    """Return the memory that the curves of one variant's runs take: every fit's, and each run's twice more in the outs.

    Args:
        runs: the variant's.
        splits: the number of fits of each run.
    """
    return sum(run.epochs for run in runs) * (splits + 2) * 4
