"""What a stack costs to train, before it does."""

from pipeline.errors import InputError
from pipeline.training.minibatches import steps
from pipeline.training.stacks import Stack

STEP_SECONDS = 1e-4  # a step on a small minibatch, roughly, on any machine


def work(stack: Stack, k: int) -> float:
    """Estimate a stack's training time, in steps on a small minibatch.

    A step takes about 90 µs, however small, and as long again for every 2**14 numbers in it.
    """
    counts = sorted(set(stack.rows), reverse=True)
    return stack.fits[0][0].epochs * (len(steps(counts, stack.batch_size)) + sum(stack.rows) * (k + 1) / 2**14)


def curve_bytes(epochs: int, fits: int) -> int:
    """Return the memory that the curves of one variant's runs take: every fit's, and each run's twice more in the outs.

    Args:
        epochs: of all runs together.
        fits: the number of fits of each run.
    """
    return epochs * (fits + 2) * 4


def check_memory(runs: int, fits: int, epochs: int, available: int) -> None:
    """Refuse more epochs than fit into memory: every fit's whole curve is kept until the stage writes its outs.

    Args:
        runs: the number of runs of this stage.
        fits: the number of fits of each run, with those of nested cross-validation.
        epochs: of each fit.
        available: free memory in bytes.

    Raises:
        InputError: the curves do not fit into memory.
    """
    needed = curve_bytes(runs * epochs, fits)
    if needed > available:
        raise InputError(
            f"params.yaml: train.epochs: got {epochs}, so that the curves of {runs} run(s) of {fits} fits take "
            f"{needed / 2**30:.3g} GiB, of {available / 2**30:.3g} GiB of memory that is free; takes at most "
            f"{available // (needed // epochs)} here"
        )
