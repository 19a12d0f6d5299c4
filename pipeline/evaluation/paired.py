"""A paired t-test over the seeds: whether two sides of a comparison differ by more than their seeds' spread."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.metrics import summarized

DIGITS = 2e-8  # metrics are written with nine digits: a smaller difference, relative to the metric, counts as 0
LEVEL = 0.05


@dataclass(frozen=True)
class Paired:
    """Two sides of one configuration: means, standard deviations and numbers of runs, and the test of their pairs.

    difference: B − A, the mean over the pairs. spread: its standard deviation. p: two-sided; None if there are fewer
    than two pairs.
    """

    means: tuple[float, float]
    deviations: tuple[float, float]
    runs: tuple[int, int]
    pairs: int
    difference: float
    spread: float
    p: float | None


def pair(a: Mapping[Hashable, float], b: Mapping[Hashable, float]) -> Paired:
    """Pair the values of two sides by their keys, the seeds, and test whether they differ.

    The test assumes that the seeds' values are normal. Where seeds make no difference, as on full batches that start
    from zeros, any difference between the sides is beyond the seeds' spread, and p is 0.

    See: Student, The Probable Error of a Mean, 1908.
    """
    both = [seed for seed in a if seed in b]
    apart = [b[seed] - a[seed] if abs(b[seed] - a[seed]) > DIGITS * abs(a[seed]) else 0.0 for seed in both]
    mean, spread = summarized(apart)
    (mean_a, deviation_a), (mean_b, deviation_b) = summarized(a.values()), summarized(b.values())
    return Paired(
        (mean_a, mean_b),
        (deviation_a, deviation_b),
        (len(a), len(b)),
        len(both),
        mean,
        spread,
        _two_sided(mean, spread, len(both)) if len(both) > 1 else None,
    )


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Correct p values for the number of tests, so that the chance of any false mark stays below the level.

    See: Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979.
    """
    tested = sorted((p, place) for place, p in enumerate(ps) if p is not None)
    corrected: list[float | None] = [None] * len(ps)
    most = 0.0
    for rank, (p, place) in enumerate(tested):
        most = max(most, min(1.0, (len(tested) - rank) * p))
        corrected[place] = most
    return corrected


def _two_sided(mean: float, spread: float, count: int) -> float:
    if mean == 0 or spread == 0:
        return 1.0 if mean == 0 else 0.0
    from scipy.special import stdtr  # noqa: PLC0415 - takes 0.2 s

    return 2 * float(stdtr(count - 1, -abs(mean) / (spread / math.sqrt(count))))
