"""Rows on standard output: as a table that fits the terminal, or as JSON or CSV for programs."""

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import TypeGuard

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from pipeline.errors import printable

Row = Mapping[str, object]
GAP = 2  # spaces between columns
SHORTEST = 12  # the fewest characters of a shortened first column


def as_json(rows: Sequence[Row]) -> None:
    """Print rows as a JSON array of objects, with all digits."""
    json.dump(rows, sys.stdout, indent=2, allow_nan=False)
    print()


def as_csv(rows: Sequence[Row]) -> None:
    """Print rows as CSV, with all digits; the header names every key of any row."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(sys.stdout, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: printable(value) for key, value in row.items() if value is not None} for row in rows)


def as_table(rows: Sequence[Row], optional: Sequence[str] = (), console: Console | None = None) -> list[str]:
    """Print rows under their keys, columns aligned.

    Columns without a value are left out. At a terminal, optional columns are left out until the table fits its width;
    if that is not enough, the first column is shortened. Elsewhere no column is left out, for programs such as awk.

    Args:
        rows: with the same keys in the same order.
        optional: the columns that may be left out, in this order.
        console: standard output.

    Returns:
        the columns that were left out for lack of width.
    """
    console = console or Console(highlight=False)
    columns = dict.fromkeys(key for row in rows for key in row)
    cells = {key: [printable(key), *(text(row.get(key)) for row in rows)] for key in columns}
    cells = {key: column for key, column in cells.items() if any(column[1:])}
    widths = {key: max(map(cell_len, column)) for key, column in cells.items()}
    left_out: list[str] = []
    if console.is_terminal:
        for key in dict.fromkeys(optional):
            if key in cells and too_wide(widths, console) > 0:
                left_out.append(key)
                del cells[key], widths[key]
        if first := next(iter(widths), ""):
            widths[first] = max(min(SHORTEST, widths[first]), widths[first] - max(0, too_wide(widths, console)))
    for n, line in enumerate(zip(*cells.values(), strict=True)):
        parts = (fitted(cell, width) for cell, width in zip(line, widths.values(), strict=True))
        written = (" " * GAP).join(parts).rstrip()
        if n == 0 and console.is_terminal:
            with console.capture() as bold:
                console.print(Text(written, style="bold"), soft_wrap=True)
            console.file.write(bold.get())
        else:
            console.file.write(f"{written}\n")
    return left_out


def text(value: object) -> str:
    """Show a value: six digits of a number, nothing for None, and no control characters."""
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else printable(value)


def measured(mean: object, deviation: object, error: object = None, digits: int = 6) -> str | None:
    """Show a mean ± its standard deviation (se its standard error), without those that are no numbers."""
    if not is_number(mean):
        return None
    around = f" ± {spread(deviation)}" if is_number(deviation) else ""
    return plain(mean, digits) + around + (f" (se {spread(error)})" if is_number(error) else "")


def is_number(value: object) -> TypeGuard[float]:
    """Tell whether a value is a finite number."""
    return isinstance(value, int | float) and isfinite(value)


def spread(deviation: float) -> str:
    """Show a deviation or standard error: two digits."""
    return plain(deviation, 2)


def plain(value: float, digits: int) -> str:
    """Show a number, without an exponent below a million."""
    return f"{float(f'{value:.{digits}g}'):g}"


def too_wide(widths: Mapping[str, int], console: Console) -> int:
    """Return by how many characters a table is too wide; negative if it is narrower."""
    return sum(widths.values()) + GAP * (len(widths) - 1) - console.width


def fitted(cell: str, width: int) -> str:
    """Pad or shorten a cell to a width."""
    return set_cell_size(cell, width) if cell_len(cell) <= width else f"{set_cell_size(cell, width - 1)}…"
