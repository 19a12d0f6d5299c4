"""Training stacks of runs: data, loop, checkpoints."""
