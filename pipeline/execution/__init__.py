"""Where and when stacks train: engines, checkpoints, what is reused. It changes no bit of any result."""
