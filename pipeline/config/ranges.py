"""What stands in a list of an axis: values, ranges and samples. Ranges and samples become values of six digits.

In decimal arithmetic, which is the same on every machine; processors differ in the last digits of log and exp.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from random import Random
from typing import Any

RANGE, SAMPLE = frozenset({"from", "to", "num", "scale"}), frozenset({"from", "to", "sample", "scale", "seed"})
NUM = 10  # of a range that says no number: a search needs none
MOST = 10**5  # values of one entry
EXACT = Context(prec=28)
SIX = Context(prec=6)


@dataclass(frozen=True)
class Entry:
    """Numbers from low to high, evenly spread on a scale, or drawn at random if there is a seed."""

    low: float
    high: float
    count: int
    log: bool = False
    seed: int | None = None

    def values(self, whole: bool) -> list[Any]:
        """Return the numbers; only whole ones, if that is meant."""
        last = max(self.count - 1, 1)
        steps = [Decimal(place) / last for place in range(self.count)]
        if self.seed is not None:
            chance = Random(self.seed)  # noqa: S311 - for no secret
            steps = [Decimal(chance.random()) for _ in range(self.count)]
        numbers = [SIX.plus(self._at(step)) for step in steps]
        return [round(number) if whole else float(number) for number in numbers]

    def _at(self, step: Decimal) -> Decimal:
        low, high = Decimal(repr(self.low)), Decimal(repr(self.high))
        if not self.log:
            return low + (high - low) * step
        return EXACT.exp(EXACT.ln(low) + (EXACT.ln(high) - EXACT.ln(low)) * step)


def parse(entry: Mapping[str, Any]) -> Entry:
    """Read a range or a sample.

    Raises:
        ValueError: it is neither.
    """
    low, high, scale = entry.get("from", ""), entry.get("to", ""), entry.get("scale", "linear")
    count, seed = entry.get("sample", entry.get("num", NUM)), entry.get("seed", 0)
    numbers = all(type(value) in {int, float} for value in (low, high))
    if not (entry.keys() <= (SAMPLE if "sample" in entry else RANGE) and numbers and scale in {"linear", "log"}):
        raise ValueError(entry)
    if not (type(count) is int and 1 <= count <= MOST and type(seed) is int and seed >= 0):
        raise ValueError(entry)
    if not (low < high < 1e38 and (low > 0 if scale == "log" else low > -1e38)):
        raise ValueError(entry)
    return Entry(low, high, count, scale == "log", seed if "sample" in entry else None)


def values(entries: Any, whole: bool) -> Any:  # noqa: ANN401 - any YAML, which the caller checks
    """Replace the ranges and samples in a list by their values; leave anything else as it is.

    Raises:
        ValueError: a mapping is neither.
    """
    if not isinstance(entries, list) or not any(isinstance(entry, dict) for entry in entries):
        return entries
    if any(isinstance(entry, list) for entry in entries):
        raise ValueError(entries)
    listed = [parse(entry).values(whole) if isinstance(entry, dict) else [entry] for entry in entries]
    return [value for own in listed for value in own]


def interval(entries: Sequence[object]) -> Entry | None:
    """Return the one range or sample that a list consists of, an interval for a search; None for another list."""
    first = entries[0] if entries else None
    return parse(first) if isinstance(first, dict) and all(entry == first for entry in entries) else None
