"""A plain loop over PyTorch's own training loop, which tracks nothing."""

from collections import deque

import work


def sweep() -> None:
    """Train one run after another."""
    for config in work.grid():
        deque(work.train(**config), maxlen=0)


work.timed(sweep)
