"""A row of the table of `make bench`, and its text. Imports nothing that starts a thread, as workers are forked."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTHS = (72, 12, 12, 8, 8)
HEAD = ("what", "measured", "goal", "÷ goal", "")


@dataclass(frozen=True)
class Row:
    """What was measured, its value and unit, and the goal: `most` or `least`, if there is one."""

    what: str
    measured: float
    unit: str
    most: float = math.inf
    least: float = -math.inf

    @property
    def goal(self) -> float:
        """The goal, infinite if there is none."""
        return self.most if math.isfinite(self.most) else self.least

    def cells(self) -> tuple[str, ...]:
        """Return the row's text, column by column."""
        shown = f"{number(self.measured)} {self.unit}".rstrip()
        if not math.isfinite(self.goal):
            return self.what, shown, "", "", ""
        sign = "≤" if self.goal == self.most else "≥"
        met = "" if self.least <= self.measured <= self.most else "missed"
        return (
            self.what,
            shown,
            f"{sign} {number(self.goal)} {self.unit}".rstrip(),
            number(self.measured / self.goal),
            met,
        )


def number(value: float) -> str:
    """Write a number with three digits, or all digits before the point; whole numbers as they are."""
    if 0 < value < 0.001:
        return f"{value:.1e}"
    digits = 0 if value == round(value) else max(0, 2 - math.floor(math.log10(value)))
    return f"{value:,.{digits}f}"


def line(cells: Sequence[str]) -> str:
    """Align a row's cells."""
    what, *others = cells
    return (
        f"{what:{WIDTHS[0]}}" + "".join(f"{cell:>{width}}" for cell, width in zip(others, WIDTHS[1:], strict=True))
    ).rstrip()
