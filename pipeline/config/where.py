"""Conditions that a person puts on runs: `lr >= 1e-4`, `variant = matrix`."""

import math
import operator
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from pipeline.errors import InputError

OPERATORS: Mapping[str, Callable[[object, object], bool]] = {
    "<=": operator.le,  # type: ignore[dict-item]
    ">=": operator.ge,  # type: ignore[dict-item]
    "!=": operator.ne,
    "=": operator.eq,
    "<": operator.lt,  # type: ignore[dict-item]
    ">": operator.gt,  # type: ignore[dict-item]
}
FORM = re.compile(r"\s*([^<>=!]+?)\s*(<=|>=|!=|=|<|>)\s*([^<>=!\s].*?|)\s*")


@dataclass(frozen=True)
class Condition:
    """A name, an operator and a value; numbers are compared as numbers, and only = and != compare text."""

    key: str
    operator: str
    value: str

    @classmethod
    def parse(cls, written: str) -> "Condition":
        """Read a condition.

        Raises:
            InputError: it is none.
        """
        found = FORM.fullmatch(written)
        if found is None:
            raise InputError(
                f"--where {written!r}: takes KEY OPERATOR VALUE, the operator one of {' '.join(OPERATORS)}, "
                "such as 'lr >= 1e-4' or 'variant = matrix'"
            )
        if found[2] not in {"=", "!="} and not isinstance(number(found[3]), int | float):
            raise InputError(f"--where {written!r}: {found[2]} takes a number, as in: lr > 1e-4")
        return cls(*found.groups())

    def holds(self, values: Mapping[str, object]) -> bool:
        """Tell whether it holds for a run's values; false if the run has none of this name."""
        if self.key not in values:
            return False
        held, wanted = number(values[self.key]), number(self.value)
        if isinstance(held, str) or isinstance(wanted, str):
            held, wanted = str(values[self.key]), self.value
            return self.operator in {"=", "!="} and OPERATORS[self.operator](held, wanted)
        return OPERATORS[self.operator](held, wanted)

    def __str__(self) -> str:
        return f"{self.key} {self.operator} {self.value}"


def number(value: object) -> int | float | str:
    """Read a finite number, if it is one; anything else is text."""
    if isinstance(value, int | float):
        return value
    written = str(value)
    with suppress(ValueError):
        return int(written)
    with suppress(ValueError):
        if math.isfinite(found := float(written)):
            return found
    return written
