"""The learning rate of each run in each epoch.

Python's math takes cos and ** from the C library, whose last bits differ between processors; decimal arithmetic is the
same everywhere.
"""

from collections.abc import Sequence
from decimal import Context, Decimal

import torch
from torch import Tensor

from pipeline.runs.run import Run

EXACT = Context(prec=40)  # far more digits than float64 has
HALF_PI = Decimal("1.570796326794896619231321691639751442098585")


class Rates:
    """The learning rates of R runs."""

    def __init__(self, runs: Sequence[Run]) -> None:
        kinds = [(run.schedule, run.epochs, run.step_every or 1, run.step_factor or 1.0) for run in runs]
        self.kinds = sorted(set(kinds))
        self.kind_of_run = torch.tensor([self.kinds.index(kind) for kind in kinds])
        self.full = torch.tensor([run.lr for run in runs], dtype=torch.float64)

    @property
    def constant(self) -> bool:
        """Whether no rate ever changes."""
        return {kind[0] for kind in self.kinds} == {"constant"}

    def at(self, epoch: int) -> Tensor:
        """Return the rates (R,) in an epoch, float64."""
        factors = torch.tensor([factor(*kind, epoch) for kind in self.kinds], dtype=torch.float64)
        return self.full * factors[self.kind_of_run]


def factor(schedule: str, epochs: int, step_every: int, step_factor: float, epoch: int) -> float:
    """Return what an epoch's rate is of the first one's.

    See: torch.optim.lr_scheduler.StepLR and CosineAnnealingLR, with T_max = epochs and eta_min = 0.
    """
    if schedule == "step":
        return float(EXACT.power(Decimal(step_factor), epoch // step_every))
    if schedule == "cosine":
        x = EXACT.divide(EXACT.multiply(HALF_PI, Decimal(epoch)), Decimal(epochs))
        return float(EXACT.power(_cosine(x), 2))  # (1 + cos 2x) / 2
    return 1.0


def _cosine(x: Decimal) -> Decimal:
    # By its series, for 0 ≤ x < π/2.
    total, term, n = Decimal(1), Decimal(1), 0
    while abs(term) > Decimal("1e-36"):
        n += 2
        term = EXACT.divide(EXACT.multiply(EXACT.multiply(-term, x), x), Decimal(n * (n - 1)))
        total = EXACT.add(total, term)
    return total
