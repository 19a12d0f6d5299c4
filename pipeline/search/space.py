"""The space of a search: intervals and lists of values, as Optuna's distributions."""

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
    """The numbers from low to high, with six digits; whole numbers if both ends are ints."""

    low: float
    high: float
    log: bool = False

    @property
    def whole(self) -> bool:
        """Whether it has whole numbers only."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def count(self) -> float:
        """The number of values."""
        return int(self.high - self.low) + 1 if self.whole else math.inf if self.low < self.high else 1

    @property
    def varies(self) -> bool:
        """Whether it has more than one value."""
        return self.count > 1


@dataclass(frozen=True)
class Choice:
    """A list of values; numbers are in ascending order, and the batch size `full` comes after them."""

    values: tuple[Value, ...]

    @classmethod
    def of(cls, values: Sequence[Value]) -> "Choice":
        """Sort numbers; leave names in their order."""
        ordered = all(is_number(value) for value in values)
        return cls(tuple(sorted(values, key=_size)) if ordered else tuple(values))

    @property
    def ordered(self) -> bool:
        """Whether the values have an order."""
        return all(is_number(value) for value in self.values)

    @property
    def count(self) -> float:
        """The number of values."""
        return len(self.values)

    @property
    def varies(self) -> bool:
        """Whether it has more than one value."""
        return self.count > 1


Domain = Interval | Choice
Space = Mapping[str, Domain]  # axis -> its values; seeds are not searched


def refused(space: Space, method: str) -> list[str]:
    """List why a method cannot search a space."""
    if method != "cmaes":
        return []
    names = [name for name, axis in space.items() if isinstance(axis, Choice) and not axis.ordered and axis.varies]
    faults = [f"sweep.{name}: cmaes only searches numbers; take one of its values, or the method tpe" for name in names]
    if sum(axis.varies for axis in space.values()) < 2:
        faults.append("sweep.search.method: cmaes searches two axes or more; take the method tpe")
    return faults


def is_number(value: Value) -> bool:
    """Tell whether a value has a place in an order: it is a number, or the batch size `full`."""
    return not isinstance(value, str) or value == "full"


def _size(value: Value) -> float:
    return math.inf if value == "full" else float(value)


def six(value: float) -> float:
    """Round to six significant digits: processors' log and exp differ in later ones."""
    return float(f"{value:.6g}")


def searched(domain: Domain) -> BaseDistribution:
    """Return what Optuna proposes for an axis: a number, the place of a value in its order, or a value."""
    if isinstance(domain, Interval):
        return interval(domain)
    if domain.ordered:
        return IntDistribution(0, len(domain.values) - 1)
    return CategoricalDistribution(domain.values)


def shown(domain: Domain) -> BaseDistribution:
    """Return an axis's domain as a person reads it."""
    return interval(domain) if isinstance(domain, Interval) else CategoricalDistribution(domain.values)


def interval(domain: Interval) -> BaseDistribution:
    """Return Optuna's distribution of an interval."""
    if domain.whole:
        return IntDistribution(int(domain.low), int(domain.high), log=domain.log)
    return FloatDistribution(domain.low, domain.high, log=domain.log)


def rounded(space: Space, proposed: Mapping[str, Any]) -> dict[str, Any]:
    """Round proposed numbers, within their intervals."""
    return {name: _rounded(space[name], value) for name, value in proposed.items()}


def _rounded(domain: Domain, value: Any) -> Any:  # noqa: ANN401 - as Optuna's
    if not isinstance(domain, Interval) or domain.whole:
        return value
    return min(max(six(value), domain.low), domain.high)


def configuration(space: Space, proposed: Mapping[str, Any]) -> dict[str, Value]:
    """Return the configuration that a proposal stands for, in the order of the space."""
    return {name: _value(domain, proposed[name]) for name, domain in space.items()}


def _value(domain: Domain, value: Any) -> Value:  # noqa: ANN401 - as Optuna's
    chosen: Value = domain.values[value] if isinstance(domain, Choice) and domain.ordered else value
    return chosen
