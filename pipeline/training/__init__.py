"""The training of stacks of runs: data, loop, checkpoints."""
