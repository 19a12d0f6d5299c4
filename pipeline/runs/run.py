"""What a run is: one training of one configuration."""

from dataclasses import dataclass

from pipeline.config.axes import OF_CONFIGURATION, BatchSize
from pipeline.runs.names import run_name

PATH_POINTS = 101  # the most epochs at which a path is kept; track.points would retrain a sweep for a curve's sake


@dataclass(frozen=True)
class Run:
    """One training of one configuration: a fit on all training rows and one for each fold.

    From `momentum` on, the settings of its optimizer, schedule, loss and stopping: None where not used.
    """

    variant: str
    batch_size: BatchSize
    lr: float
    seed: int
    epochs: int
    init: str
    device: str
    fingerprint: str
    optimizer: str = "sgd"
    weight_decay: float = 0.0
    schedule: str = "constant"
    loss: str = "mse"
    momentum: float | None = None
    beta1: float | None = None
    beta2: float | None = None
    eps: float | None = None
    step_every: int | None = None
    step_factor: float | None = None
    huber_delta: float | None = None
    patience: int | None = None
    min_delta: float | None = None

    @property
    def configuration(self) -> str:
        """The name shared by runs that differ only in their seed."""
        return run_name(vars(self), OF_CONFIGURATION)

    @property
    def name(self) -> str:
        """The run's name, for people."""
        return run_name(vars(self))

    def minibatch(self, rows: int) -> int:
        """Return the number of rows in a minibatch of a fit on so many rows."""
        return rows if self.batch_size == "full" else min(self.batch_size, rows)


def curve_steps(epochs: int, points: int) -> list[int]:
    """Choose the epochs of a stored curve: every 1st, 2nd, 5th, 10th, … and the last; at most `points` in all."""
    strides = (digit * 10**power for power in range(20) for digit in (1, 2, 5))
    # The multiples of stride below the last epoch, and the last one itself.
    stride = next(stride for stride in strides if (epochs - 2) // stride + 2 <= points)
    return [*range(0, epochs - 1, stride), epochs - 1]
