"""The space of a search: intervals and lists of values, as Optuna's distributions."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from pipeline.config.axes import rank

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


@dataclass(frozen=True)
class Choice:
    """A list of values; numbers are in ascending order, and the batch size `full` comes after them."""

    values: tuple[Value, ...]

    @classmethod
    def of(cls, values: Sequence[Value]) -> "Choice":
        """Sort numbers; leave names in their order."""
        given = cls(tuple(values))
        if not given.ordered:
            return given
        return cls(tuple(sorted(values, key=rank)))

    @property
    def ordered(self) -> bool:
        """Whether the values have an order: each is a number, or the batch size `full`."""
        return all(not isinstance(value, str) or value == "full" for value in self.values)

    @property
    def count(self) -> float:
        """The number of values."""
        return len(self.values)


Domain = Interval | Choice
Space = Mapping[str, Domain]  # axis -> its values; seeds are not searched


def refused(space: Space, method: str) -> list[str]:
    """List why a method cannot search a space."""
    if method != "cmaes":
        return []
    varied = {name: axis for name, axis in space.items() if axis.count > 1}
    names = [name for name, axis in varied.items() if isinstance(axis, Choice) and not axis.ordered]
    faults = [f"sweep.{name}: cmaes only searches numbers; take one of its values, or the method tpe" for name in names]
    if len(varied) < 2:
        faults.append("sweep.search.method: cmaes searches two axes or more; take the method tpe")
    return faults


def shown(domain: Domain) -> BaseDistribution:
    """Return an axis's domain as a person reads it."""
    if isinstance(domain, Choice):
        return CategoricalDistribution(domain.values)
    if domain.whole:
        return IntDistribution(int(domain.low), int(domain.high), log=domain.log)
    return FloatDistribution(domain.low, domain.high, log=domain.log)


def searched(domain: Domain) -> BaseDistribution:
    """Return what Optuna proposes for an axis: a number, the place of a value in its order, or a value."""
    ordered = isinstance(domain, Choice) and domain.ordered
    return IntDistribution(0, int(domain.count) - 1) if ordered else shown(domain)


def rounded(domain: Domain, proposed: Any) -> Any:  # noqa: ANN401 - as Optuna's
    """Round a proposal to six digits, within its interval: processors' log and exp differ in later ones."""
    if isinstance(domain, Choice) or domain.whole:
        return proposed
    return min(max(float(f"{proposed:.6g}"), domain.low), domain.high)


def value(domain: Domain, proposed: Any) -> Value:  # noqa: ANN401 - as Optuna's
    """Return the value that a proposal stands for."""
    chosen: Value = domain.values[proposed] if isinstance(domain, Choice) and domain.ordered else proposed
    return chosen
