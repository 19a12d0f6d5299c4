"""What a stack costs to train, before it does."""

from pipeline.training.stacks import Stack

STEP_SECONDS = 1e-4  # a step on a small minibatch, roughly, on any machine


def work(stack: Stack, k: int) -> float:
    """Estimate a stack's training time, in steps on a small minibatch.

    A step takes about 90 µs, however small, and as long again for every 2**14 numbers in it.
    """
    run = stack.fits[0][0]
    steps = -(-stack.rows // stack.batch_size)
    return run.epochs * steps * (1 + len(stack.fits) * stack.batch_size * (k + 1) / 2**14)
