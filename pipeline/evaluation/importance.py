"""How much each axis of a sweep decides of a metric: ε² of the Kruskal-Wallis test over the axis's values.

It is the share of the spread of the runs' ranks that the axis alone explains, less what chance would explain. It needs
the runs and their metrics alone, and takes milliseconds.

See: Tomczak and Tomczak, The need to report effect size estimates revisited, 2014: (H - k + 1) / (n - k).
"""

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

from pipeline.config.axes import AXES
from pipeline.metrics import as_loss
from pipeline.runs.records import Record

BINS = 10  # the most groups of an axis of many numbers, such as a searched one
RUNS = 5  # the fewest in such a group, on average


def importance(evaluated: Sequence[Record], metric: str) -> dict[str, float]:
    """Return the importance of each axis that varies, from 0 to 1, the largest first.

    Args:
        evaluated: the sweep's runs, with their metrics.
        metric: by which the runs are ranked; those without it, which diverged or fell behind, rank last.
    """
    ranks = ranked([as_loss(metric, record.metrics.get(metric)) for record in evaluated])
    axes = ("variant", *(axis.name for axis in AXES))
    found = {axis: effect(grouped([getattr(record.run, axis) for record in evaluated]), ranks) for axis in axes}
    known = {axis: value for axis, value in found.items() if value is not None}
    return dict(sorted(known.items(), key=lambda item: -item[1]))


def ranked(values: Sequence[float]) -> list[int]:
    """Return twice each value's rank from 1 on; equals share the mean of their ranks."""
    first: dict[float, int] = {}
    last: dict[float, int] = {}
    for place, value in enumerate(sorted(values), start=1):
        first.setdefault(value, place)
        last[value] = place
    return [first[value] + last[value] for value in values]


def grouped(values: Sequence[object]) -> list[int]:
    """Return each run's group: its value's place, or, if there are many numbers, that of an equal part of the runs."""
    distinct = set(values)
    most = min(BINS, len(values) // RUNS)
    if len(distinct) <= max(most, 2) or not all(isinstance(value, int | float) for value in distinct):
        places = {value: place for place, value in enumerate(dict.fromkeys(values))}
        return [places[value] for value in values]
    order = sorted(value for value in values if isinstance(value, int | float))
    first = {value: place for place, value in reversed(list(enumerate(order)))}  # equal values stay together
    return [first[value] * max(most, 2) // len(order) for value in values if isinstance(value, int | float)]


def effect(groups: Sequence[int], ranks: Sequence[int]) -> float | None:
    """Return ε², three digits; None if there is one group only, or as many as runs, or all runs tie.

    In whole numbers and fractions of them, so that it is the same on every machine.

    Args:
        groups: each run's.
        ranks: twice each run's.
    """
    n, k = len(ranks), len(set(groups))
    total = sum((rank - n - 1) ** 2 for rank in ranks)
    if k in {1, n} or not total:
        return None
    sums, sizes = Counter[int](), Counter(groups)
    for group, rank in zip(groups, ranks, strict=True):
        sums[group] += rank - n - 1
    between = sum(Fraction(sums[group] ** 2, size) for group, size in sizes.items())
    h = (n - 1) * between / total  # Kruskal and Wallis's H, corrected for ties
    return max(0.0, round(float((h - k + 1) / (n - k)), 3))
