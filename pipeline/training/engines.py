"""Where stacks train. An engine takes stacks and yields each with its fits, in any order; it changes no bit."""

from collections.abc import Iterator, Sequence

from pipeline.tracking.protocol import Tracking
from pipeline.training import stacks
from pipeline.training.checkpoints import Checkpoints
from pipeline.training.data import Prepared
from pipeline.training.stacks import Fitted, Stack


def here(
    planned: Sequence[Stack], prepared: Prepared, tracking: Tracking, checkpoints: Checkpoints, seed: int
) -> Iterator[tuple[Stack, list[Fitted]]]:
    """Train stacks one after another, in this process; keep the paths of the runs with `seed`."""
    for stack in planned:
        tracking.start([run for run, _ in stack.fits])
        yield stack, stacks.train(stack, prepared, tracking.follow, checkpoints, seed)
