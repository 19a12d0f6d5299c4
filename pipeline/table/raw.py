"""The raw table: a CSV file's columns as numbers, or a message that lists all its faults."""

import csv
import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from itertools import chain, count, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.io.common import get_handle  # type: ignore[import-not-found] # read_csv's own decompression

from pipeline.errors import InputError, printable
from pipeline.system import repository
from pipeline.system.files import write_csv
from pipeline.table import float32
from pipeline.table.float32 import Altered

BROKEN = (lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile, zlib.error)  # raised by broken archives
UNREADABLE = (*BROKEN, OSError, ValueError, EOFError, ImportError, csv.Error)
Watch = Callable[[Iterator[list[str]]], Iterator[list[str]]]
SHOWN = 20  # the most faults or columns in one message
BAD_CELLS = Path(".dvc/tmp/bad_cells.csv")  # has all faults, if there are more
TOO_LARGE = float(2**128 - 2**103)  # float32 rounds this to infinity; its largest number is 2**128 - 2**104
LONGEST = 400  # characters in a number; pandas fails at several thousand
LONGEST_LINE = 2**26  # characters
# The complete fields of a line, each with its separator.
FIELDS = re.compile(r'(?:(?:"(?:[^"]|"")*+"|[^",\r\n][^,\r\n]*+|)(?:,|[\r\n]+|$))*+')
DATE = re.compile(r"\d{1,4}([-/.])\d{1,2}\1\d{1,4}([T ].*)?")
GROUPED = re.compile(r"[-+]?\d{1,3}([ '’_,.\u00a0\u202f])\d{3}((\1\d{3})+([.,]\d+)?|[.,]\d+|)")
DECIMAL_COMMA = re.compile(r"[-+]?\d*,\d+([eE][-+]?\d+)?")


class Fault(NamedTuple):
    """A fault of a row, or of one of its cells; row 1 is the first below the header, and blank lines do not count."""

    row: int
    column: str
    text: str
    why: str

    def __str__(self) -> str:
        text = repr(self.text if len(self.text) <= 60 else f"{self.text[:60]}…")
        return f"row {self.row}" + (f", column {self.column!r}: {text} " if self.column else ": ") + self.why


def read(
    source: Path, columns: Sequence[str], exact: bool = False, watch: Watch = iter
) -> tuple[pd.DataFrame, dict[str, Altered]]:
    """Read and check a CSV file's columns.

    Args:
        source: a file, which may be compressed.
        columns: their names.
        exact: refuse numbers that float32 changes.
        watch: yields the rows that it is given, and shows their number.

    Returns:
        table (n, len(columns)), float64, every value finite in float32; by column, the numbers that float32 changes.

    Raises:
        InputError: the message names every missing column, or the first SHOWN bad rows and cells; if there are more,
            BAD_CELLS has all.
    """
    with refusing(source, "; params.yaml names it in data.source"):
        places = find(source, columns, watch)
        cells = read_cells(source, dict(sorted(zip(places, columns, strict=True))))[list(columns)]
    if cells.empty:
        raise InputError(f"{printable(source)}: has no rows below its header")
    numbers = cells.apply(to_numbers)
    ordered = sorted(columns)
    refuse(source, faults(cells[ordered], ~(numbers[ordered].abs() < TOO_LARGE).to_numpy(), cell_fault))
    changed = {name: float32.is_altered(cells[name], numbers[name].to_numpy()) for name in columns}
    if exact:
        refuse(source, faults(cells, np.stack(list(changed.values()), axis=1), why_exact))
    return numbers, float32.altered(cells, changed, numbers)


@contextmanager
def refusing(source: Path, named: str = "") -> Iterator[None]:
    """Refuse a file that cannot be read; `named` says where its path was found.

    Raises:
        InputError: it is missing, is not a regular file, or cannot be read as CSV.
    """
    if source.exists() and not source.is_file():  # opening a FIFO waits for a writer, and a device may never end
        raise InputError(f"{printable(source)}: is not a regular file{named}")
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{printable(source)}: no such file{named}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{printable(source)}: is not UTF-8 ({printable(error)}); save it as UTF-8") from error
    except UNREADABLE as error:  # ImportError for zst without its package
        raise InputError(f"{printable(source)}: cannot be read as CSV: {printable(error)}") from error


def find(source: Path, columns: Sequence[str], watch: Watch) -> list[int]:
    """Find columns in the header, and check that every row is CSV with as many cells as the header.

    Raises:
        InputError: a column is missing or occurs twice, or rows are malformed.
    """
    rows = strict_rows(source)
    header = next(rows, None)
    if header is None:
        raise InputError(f"{printable(source)}: cannot be read as CSV: it has no header")
    found = places(source, header, columns)
    width = f"and the header {len(header)}"
    lengths = enumerate(map(len, watch(rows)), 1)
    refuse(source, (Fault(n, "", "", f"has {m} cells, {width}") for n, m in lengths if m != len(header)))
    return found


def places(source: Path, header: Sequence[str], columns: Sequence[str]) -> list[int]:
    """Return the places of columns in a header.

    Raises:
        InputError: columns are missing or occur twice; the message names them all.
    """
    there = ", ".join(printable(name)[:60] for name in header[:SHOWN]) + (
        f", … ({len(header)})" if len(header) > SHOWN else ""
    )
    said = {0: f"is missing; it has: {there}", 2: "occurs in the header more than once"}
    faults = [f"column {name!r} {said[min(header.count(name), 2)]}" for name in columns if header.count(name) != 1]
    if faults:
        raise InputError("\n".join(f"{printable(source)}: {fault}" for fault in faults))
    return [header.index(name) for name in columns]


def strict_rows(source: Path) -> Iterator[list[str]]:
    """Yield the header and every row of a CSV file as it is written, without blank lines.

    Raises:
        InputError: a quote is misplaced; the message names row and column.
    """
    record: list[str] = []  # the lines of the current row

    def lines() -> Iterator[str]:
        for line in iter(partial(handle.handle.readline, LONGEST_LINE), ""):
            if len(line) == LONGEST_LINE:  # a small archive may contain a line of any length
                raise csv.Error(f"line longer than {LONGEST_LINE} characters")
            record.append(line)
            yield line

    header: list[str] = []
    n = -1
    with get_handle(source, "r", encoding="utf-8-sig", compression="infer") as handle:
        rows = csv.reader(lines(), strict=True)
        try:
            for row in rows:
                record.clear()
                if len(row) > 1 or (row and row[0].strip()):
                    n += 1
                    header = header or row
                    yield row
        except csv.Error as error:
            where = f"row {n + 1}" if header else "header"
            raise InputError(f"{printable(source)}: {where}, {misplaced(''.join(record), header)}: {error}") from error


def misplaced(line: str, header: Sequence[str]) -> str:
    """Say where a line stops being CSV: the column, and its text."""
    whole = FIELDS.match(line)
    good = line[: whole.end()] if whole else ""
    place = len(next(csv.reader([good + "."]))) - 1
    column = f"{header[place]!r}" if place < len(header) else f"{place + 1}"
    text = re.split(r"[,\r\n]", line[len(good) :], maxsplit=1)[0]
    return f"column {column}: {text[:60]!r} is not CSV"


def read_cells(source: Path, names: dict[int, str]) -> pd.DataFrame:
    """Read columns by place, as text, under the given names: pandas would invent names for empty ones.

    Args:
        source: a CSV file.
        names: place -> name, in ascending order of place.
    """
    return pd.read_csv(
        source, usecols=list(names), names=list(names.values()), header=0, index_col=False, dtype=str,
        keep_default_na=False,
    )  # fmt: skip


def to_numbers(column: "pd.Series[str]") -> "pd.Series[float]":
    """Convert text to float64, NaN where it is not a number."""
    try:
        return pd.to_numeric(column, errors="coerce").astype(np.float64)
    except (ValueError, OverflowError):  # thousands of digits
        return pd.to_numeric(column.where(column.str.len() <= LONGEST, ""), errors="coerce").astype(np.float64)


@lru_cache(maxsize=1000)
def cell_fault(text: str) -> str:
    """Return why a cell's text is not a finite float32 number, and how to write it instead."""
    text = text.strip()
    if not text or text.lower() in {"nan", "na", "n/a", "null", "none"}:
        return f"is {'NaN' if text else 'empty'}; fill it in, or leave its row out"
    try:
        number = float(text) if text.isascii() and "_" not in text else np.nan
    except ValueError:
        number = np.nan
    if np.isnan(number) or len(text) > LONGEST:
        return f"is not numeric: {hint(text[: LONGEST + 1])}"
    return "is infinite" if "inf" in text.lower() else "is too large for float32"


def hint(text: str) -> str:
    """Guess what a text that is not a number means."""
    if len(text) > LONGEST:
        return f"longer than {LONGEST} characters"
    if DATE.fullmatch(text):
        return "a date; write it as a number, such as days since the first"
    if grouped := GROUPED.fullmatch(text):
        plain = text.replace(grouped[1], "").replace(",", ".")
        either = f"{text.replace(',', '.')} or {plain}" if text.count(",") == 1 and grouped[1] == "," else plain
        return f"separates thousands, or has a decimal comma; write {either}"
    if DECIMAL_COMMA.fullmatch(text):
        return f"a decimal comma; write {text.replace(',', '.')}"
    return "text; write it as a number, or leave the column out"


def faults(cells: pd.DataFrame, marked: NDArray[np.bool_], why: Callable[[str], str]) -> Iterator[Fault]:
    """Yield a fault for each cell (n, columns) that is marked, row by row."""
    names = list(map(str, cells))
    texts = [cells[name].to_numpy(object) for name in names]  # reading one cell of a DataFrame takes 10 µs
    for row, place in np.argwhere(marked).tolist():
        yield Fault(row + 1, names[place], texts[place][row], why(texts[place][row]))


def why_exact(text: str) -> str:
    """Return why data.exact refuses a number that float32 changes."""
    return f"becomes {float32.shown(float(text))} in float32, and data.exact is true"


def refuse(source: Path, faults: Iterator[Fault]) -> None:
    """Refuse a table; the message has its first faults. If there are more than SHOWN, a file has all of them.

    Raises:
        InputError: there are faults.
    """
    first = list(islice(faults, SHOWN + 1))
    if not first:
        return
    said = [f"{printable(source)}: {fault}" for fault in first[:SHOWN]]
    if len(first) > SHOWN:
        file = repository.root() / BAD_CELLS
        counter = count()
        rows = (fault._asdict() for fault, _ in zip(chain(first, faults), counter, strict=False))
        try:
            write_csv(file, rows, Fault._fields)
            said.append(f"and {next(counter) - SHOWN:,} more; all are in {file}")
        except OSError as error:
            said.append(f"and more, which cannot be listed: {error}")
    raise InputError("\n".join(said))
