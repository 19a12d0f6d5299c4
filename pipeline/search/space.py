"""The space that a search looks through: intervals and lists of values, as Optuna's distributions."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

Value = str | int | float
Configuration = Mapping[str, Value]  # axis -> value


@dataclass(frozen=True)
class Interval:
    """All numbers from low to high, with six digits; only whole ones if both ends are ints."""

    low: float
    high: float
    log: bool = False

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are meant."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def count(self) -> float:
        """How many there are."""
        return int(self.high - self.low) + 1 if self.whole else math.inf if self.low < self.high else 1

    @property
    def varies(self) -> bool:
        """Whether there is more than one."""
        return self.count > 1


@dataclass(frozen=True)
class Choice:
    """One of some values; numbers, and batch size full after them, are in order."""

    values: tuple[Value, ...]

    @classmethod
    def of(cls, values: Sequence[Value]) -> "Choice":
        """Bring numbers into their order; leave names in theirs."""
        ordered = all(is_number(value) for value in values)
        return cls(tuple(sorted(values, key=_size)) if ordered else tuple(values))

    @property
    def ordered(self) -> bool:
        """Whether neighbours are alike."""
        return all(is_number(value) for value in self.values)

    @property
    def count(self) -> float:
        """How many there are."""
        return len(self.values)

    @property
    def varies(self) -> bool:
        """Whether there is more than one."""
        return self.count > 1


Axis = Interval | Choice
Space = Mapping[str, Axis]  # of a sweep's axes, but for its seeds


def refused(space: Space, method: str) -> list[str]:
    """Say which axes a method cannot search, and why."""
    if method != "cmaes":
        return []
    names = [name for name, axis in space.items() if isinstance(axis, Choice) and not axis.ordered and axis.varies]
    faults = [
        f"sweep.{name}: cmaes searches numbers alone; take one of its values, or the method tpe" for name in names
    ]
    if sum(axis.varies for axis in space.values()) < 2:
        faults.append("sweep.search.method: cmaes searches two axes or more; take the method tpe")
    return faults


def is_number(value: Value) -> bool:
    """Tell whether a value has a place in an order: numbers, and a batch size of all rows."""
    return not isinstance(value, str) or value == "full"


def _size(value: Value) -> float:
    return math.inf if value == "full" else float(value)


def six(value: float) -> float:
    """Round to six significant digits, which hide where processors' log and exp differ."""
    return float(f"{value:.6g}")


def searched(axis: Axis) -> BaseDistribution:
    """Return what Optuna proposes of an axis: a number, the place of a value in its order, or a value."""
    if isinstance(axis, Interval):
        return interval(axis)
    if axis.ordered:
        return IntDistribution(0, len(axis.values) - 1)
    return CategoricalDistribution(axis.values)


def shown(axis: Axis) -> BaseDistribution:
    """Return an axis as a person reads it."""
    return interval(axis) if isinstance(axis, Interval) else CategoricalDistribution(axis.values)


def interval(axis: Interval) -> BaseDistribution:
    """Return an interval as Optuna's."""
    if axis.whole:
        return IntDistribution(int(axis.low), int(axis.high), log=axis.log)
    return FloatDistribution(axis.low, axis.high, log=axis.log)


def rounded(space: Space, proposed: Mapping[str, Any]) -> dict[str, Any]:
    """Round proposed numbers, within their intervals."""
    return {name: _rounded(space[name], value) for name, value in proposed.items()}


def _rounded(axis: Axis, value: Any) -> Any:  # noqa: ANN401 - as Optuna's
    if not isinstance(axis, Interval) or axis.whole:
        return value
    return min(max(six(value), axis.low), axis.high)


def configuration(space: Space, proposed: Mapping[str, Any]) -> dict[str, Value]:
    """Return the values that a proposal means, in the order of the space."""
    return {name: _meant(axis, proposed[name]) for name, axis in space.items()}


def _meant(axis: Axis, value: Any) -> Value:  # noqa: ANN401 - as Optuna's
    meant: Value = axis.values[value] if isinstance(axis, Choice) and axis.ordered else value
    return meant
