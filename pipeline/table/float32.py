"""The numbers of a table that float32 changes."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.errors import printable

Float64 = NDArray[np.float64]
DIGITS = range(6, 10)  # float32 keeps every number of 6 digits; 9 digits identify each of its numbers
TENS = np.array([float(f"1e{power}") for power in range(-60, 61)])  # at index 60 + power
EPSILON = 1e-15  # relative; numbers this close agree in 15 digits, as many as float64 keeps
SHOWN = 3  # examples per column


@dataclass(frozen=True)
class Altered:
    """The numbers of one column that float32 changes.

    count: their number. first: at most SHOWN of them. worst: the one with the largest relative error. Each is (row,
    the number as written, the number in float32); row 1 is the first below the header.
    """

    count: int
    first: list[tuple[int, str, str]]
    worst: tuple[int, str, str]


def in_float32(values: Float64 | float) -> NDArray[np.float32]:
    """Round to float32; numbers that are too large become infinite."""
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(values, dtype=np.float64).astype(np.float32)


def shown(value: float) -> str:
    """Format a number as float32 stores it: as a whole number, or with the 9 digits that identify it."""
    stored = float(in_float32(value))
    return f"{stored:.0f}" if stored.is_integer() and abs(stored) < 1e15 else f"{stored:.9g}"


def is_altered(cells: "pd.Series[str]", numbers: Float64) -> NDArray[np.bool_]:
    """Tell which finite numbers float32 changes.

    A number is unchanged if float32's, rounded to as many digits as were written, is the written number: 0.1 is
    unchanged, though float32 stores 0.100000001; 16777217 is changed. With more than 9 digits, float32's must be equal.

    Args:
        cells: (n,), the numbers as written.
        numbers: (n,), the numbers in float64.

    Returns:
        mask (n,), bool.
    """
    rounded = in_float32(numbers).astype(np.float64)
    mask = np.asarray(rounded != numbers)
    for digits in DIGITS:
        left = np.flatnonzero(mask)
        mask[left] = ~_agrees(numbers[left], rounded[left], digits)
    # Here only the text decides: 1e-400 is 0 in float64, and the last zeros of a whole number count as digits.
    doubtful = ~mask & ((numbers == 0) | (np.abs(numbers) >= 2**24) & (numbers == np.rint(numbers)))
    texts = cells[doubtful].str.strip()
    mask[doubtful] = texts.isin([text for text in texts.unique() if _is_lost(text)])
    return mask


def _is_lost(text: str) -> bool:
    stored = float(in_float32(float(text)))
    if not stored:
        return any(digit in "123456789" for digit in text.lower().partition("e")[0])
    digits = len(Decimal(text).normalize().as_tuple().digits)
    return Decimal(text) != Decimal(stored) and (text.lstrip("+-").isdigit() or digits > max(DIGITS))


def _agrees(numbers: Float64, rounded: Float64, digits: int) -> NDArray[np.bool_]:
    exponent = np.floor(np.log10(np.abs(np.where(numbers == 0, 1, numbers)))).astype(int)
    unit = TENS[np.clip(exponent, -50, 50) + 61 - digits]  # of the last digit
    return np.asarray(np.abs(np.rint(rounded / unit) * unit - numbers) <= EPSILON * np.abs(numbers))


def altered(cells: pd.DataFrame, masks: Mapping[str, NDArray[np.bool_]], numbers: pd.DataFrame) -> dict[str, Altered]:
    """Describe, by column, the numbers that float32 changes."""
    found = {}
    for name, mask in masks.items():
        rows = np.flatnonzero(mask)
        if len(rows):
            column = numbers[name].to_numpy()
            values = column[rows]
            error, size = np.abs(in_float32(values) - values), np.abs(values)
            worst = np.argmax(np.divide(error, size, out=np.ones_like(size), where=size > 0))
            examples = [
                (int(row) + 1, str(cells[name].iat[row]).strip(), shown(column[row]))
                for row in (*rows[:SHOWN], rows[worst])
            ]
            found[name] = Altered(len(rows), examples[:-1], examples[-1])
    return found


def warn(source: str, altered: Mapping[str, Altered], rows: int) -> None:
    """Warn on stderr of the numbers that float32 changes."""
    for name, numbers in altered.items():
        first = "; ".join(f"row {row}: {written} becomes {stored}" for row, written, stored in numbers.first)
        more = f"; and {numbers.count - len(numbers.first):,} more" if numbers.count > len(numbers.first) else ""
        where = f"{printable(source)}: column {name!r}"
        said = f"{numbers.count:,} of {rows:,} numbers change in float32: {first}{more}"
        print(f"WARNING: {where}: {said}; data.exact: true refuses them", file=sys.stderr)
