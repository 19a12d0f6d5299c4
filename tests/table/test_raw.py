"""Reading the raw table: its header as it is written, its numbers as float32 holds them, all that is wrong with it."""

import csv
import gzip
import io
import os
import random
import resource
from collections import Counter
from decimal import Decimal, localcontext
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import calls_of
from fuzz_inputs import fuzz, read_table

from pipeline.errors import InputError
from pipeline.table import float32
from pipeline.table import raw as table

COLUMNS = ["a", "b", "y"]


def refusal(folder: Path, text: str, columns: list[str] = COLUMNS, *, exact: bool = False) -> list[str]:
    (folder / "table.csv").write_text(text, encoding="utf-8", newline="")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with pytest.raises(InputError) as refused:
            table.read(Path("table.csv"), columns, exact)
    return [line.removeprefix("table.csv: ") for line in str(refused.value).splitlines()]


def test_a_source_that_is_no_regular_file_is_refused_without_opening_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for source in (tmp_path / "fifo", tmp_path, Path("/dev/zero")):
        with pytest.raises(InputError, match="is not a regular file"):
            table.read(source, ["a"])


@pytest.mark.parametrize("name", ["t.csv.gz", "t.csv.bz2", "t.csv.xz", "t.csv.zip", "t.csv.zst", "t\0.csv"])
@pytest.mark.parametrize(
    "start", [b"a,b\n1,2\n", b"\x1f\x8b\x08\0\0\0\0\0\0\xff\xff\xff", b"BZh9", b"\xfd7zXZ\0", b"PK\3\4"]
)
def test_a_broken_archive_and_a_path_with_nul_are_refused(tmp_path: Path, name: str, start: bytes) -> None:
    if "\0" not in name:
        (tmp_path / name).write_bytes(start)
    with pytest.raises(InputError, match="cannot be read as CSV") as refused:
        table.read(tmp_path / name, ["a"])
    assert "\0" not in str(refused.value)


def test_a_compressed_table_with_a_byte_order_mark_blank_lines_and_quotes_is_read(tmp_path: Path) -> None:
    text = '\ufeff\r\n"a","b","t ""x"", y",y\r\n\r\n1,"2","x\r\ny",3\r\n  \r\n4,5,,6\r\n'
    with gzip.open(tmp_path / "table.csv.gz", "wt", encoding="utf-8", newline="") as file:
        file.write(text)
    numbers, altered = table.read(tmp_path / "table.csv.gz", ["y", "a"])
    assert numbers.to_dict("list") == {"y": [3.0, 6.0], "a": [1.0, 4.0]}
    assert altered == {}


@pytest.mark.parametrize(
    ("header", "column"), [("x,x,y", "x.1"), ("x,,y", "Unnamed: 1"), (" x,z,y", "x"), ("X,z,y", "x"), ('"x ",z,y', "x")]
)
def test_only_names_that_stand_in_the_header_are_columns(tmp_path: Path, header: str, column: str) -> None:
    [said] = refusal(tmp_path, f"{header}\n1,2,3\n", [column, "y"])
    assert said.startswith(f"column {column!r} is missing; it has: ")


def test_a_doubled_column_is_refused_only_where_it_is_used(tmp_path: Path) -> None:
    text = "a,x,x,b,y\n1,7,8,2,3\n"
    assert refusal(tmp_path, text, ["x", "y"]) == ["column 'x' occurs in the header more than once"]
    numbers, _ = table.read(tmp_path / "table.csv", COLUMNS)
    assert numbers.to_numpy().tolist() == [[1, 2, 3]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('a,b,y\n1,2,3\n4,"1"5,6\n', "row 2, column 'b': '\"1\"5' is not CSV: ',' expected after '\"'"),
        ('a,b,y\n1,"2\n2",3\n"4"x,5,6\n', "row 2, column 'a': '\"4\"x' is not CSV"),
        ('a,b,y\n1,2,"3\n4,5,6\n', "row 1, column 'y': '\"3' is not CSV: unexpected end of data"),
        ('a,"b"c,y\n1,2,3\n', "header, column 2: '\"b\"c' is not CSV"),
        ("a,b,y\n1,2,3\n4,5\n6,7,8,9\n", "row 2: has 2 cells, and the header 3"),
        ("a,b,y\n1,2,3,\n", "row 1: has 4 cells, and the header 3"),
    ],
)
def test_a_row_that_is_malformed_is_named_with_its_column(tmp_path: Path, text: str, said: str) -> None:
    assert refusal(tmp_path, text)[0].startswith(said)


def test_of_a_very_wide_table_only_what_is_used_takes_memory(tmp_path: Path) -> None:
    names = [f"c{n}" for n in range(10**5)]
    row = ",".join(["1.5"] * len(names))
    (tmp_path / "wide.csv").write_text("\n".join([",".join(names), *[row] * 20]))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    numbers, _ = table.read(tmp_path / "wide.csv", ["c99999", "c0", "c7"])
    assert numbers.shape == (20, 3)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB; pandas' 2,000,000 cells: 300,000
    work = calls_of(lambda: table.read(tmp_path / "wide.csv", ["c99999", "c0", "c7"]))
    assert work < 3 * len(names)  # there are 20 cells for each
    [said] = refusal(tmp_path, (tmp_path / "wide.csv").read_text(), ["nowhere"])
    assert len(said) < 500


def test_a_line_without_end_in_a_small_archive_takes_little_memory(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "bomb.csv.gz", "wb", compresslevel=1) as file:
        file.write(b"a,b,y\n")
        for _ in range(300):
            file.write(b"1" * 10**6)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match="line longer than 67108864 characters"):
        table.read(tmp_path / "bomb.csv.gz", COLUMNS)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 250_000  # kB, of 300,000 and its copies


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("five", "is not numeric: text"),
        ("", "is empty"),
        ("n/a", "is NaN"),
        ("5,5", "is not numeric: a decimal comma; write 5.5"),
        ("1,234", "is not numeric: separates thousands, or has a decimal comma; write 1.234 or 1234"),
        ("1,234,567.5", "is not numeric: separates thousands, or has a decimal comma; write 1234567.5"),
        ("1.234.567,5", "is not numeric: separates thousands, or has a decimal comma; write 1234567.5"),
        ("1 234", "is not numeric: separates thousands, or has a decimal comma; write 1234"),
        ("1_000", "is not numeric: separates thousands, or has a decimal comma; write 1000"),
        ("2024-02-30", "is not numeric: a date"),
        ("1/2/24 10:00", "is not numeric: a date"),
        ("9" * 5000, "is not numeric: longer than 400 characters"),
        ("٣", "is not numeric: text"),
        ("-Infinity", "is infinite"),
        ("1e400", "is too large for float32"),
        ("3.4028236e38", "is too large for float32"),
    ],
)
def test_a_bad_cell_comes_with_a_hint(tmp_path: Path, text: str, hint: str) -> None:
    [said] = refusal(tmp_path, f'a,b,y\n1,"{text}",3\n')
    assert said.startswith("row 1, column 'b': ")
    assert f" {hint}" in said
    assert len(said) < 250


def test_of_many_bad_cells_20_are_shown_and_all_are_listed_in_a_file(tmp_path: Path) -> None:
    text = "a,b,y\n" + "x,1,2024-01-01\n" * 40_000
    assert calls_of(lambda: refusal(tmp_path, text)) < 40 * 80_000  # to name a cell takes half of that
    said = refusal(tmp_path, text)
    assert len(said) == 21
    assert said[19].startswith("row 10, column 'y': '2024-01-01'")
    listed = tmp_path / ".dvc/tmp/bad_cells.csv"
    assert said[20] == f"and 79,980 more; all are in {listed}"
    with listed.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["row", "column", "text", "why"]
    assert [row[:3] for row in rows[-2:]] == [["40000", "a", "x"], ["40000", "y", "2024-01-01"]]
    assert len(rows) == 80_001


def survives(text: str) -> bool:
    """Whether float32's exact value, rounded to the digits that were written, is the number that was written."""
    written, held = Decimal(text), Decimal(float(np.float32(float(text))))
    digits = len(written.normalize().as_tuple().digits)
    if written == held:
        return True
    if text.isdigit() or digits > 9 or not held:
        return False
    with localcontext() as context:
        context.prec = max(digits, 6)
        return +held == written


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("16777217", "16777216"),
        ("123456789", "123456792"),
        ("99999990", "99999992"),
        ("1e-46", "0"),
        ("1e-400", "0"),
        ("1234567.89", "1234567.88"),
        ("1700000000.123", "1700000000"),
        ("9007199254740993", "9.00719925e+15"),
        *((same, "") for same in ("0.1", "0", "-0.0", "12345.678", "16777216", "1e10", "3.4028235e38", "1.5e38")),
    ],
)
def test_a_number_that_float32_changes_is_named_with_both_values(tmp_path: Path, text: str, held: str) -> None:
    (tmp_path / "table.csv").write_text(f"a,b,y\n1,0.1,3\n2,{text},4\n")
    _, altered = table.read(tmp_path / "table.csv", COLUMNS)
    found = {"b": float32.Altered(1, [(2, text, held)], (2, text, held))} if held else {}
    assert altered == found
    if held:
        [said] = refusal(tmp_path, (tmp_path / "table.csv").read_text(), exact=True)
        assert said == f"row 2, column 'b': {text!r} becomes {held} in float32, and data.exact is true"
    else:
        assert len(table.read(tmp_path / "table.csv", COLUMNS, exact=True)[0]) == 2


def test_whether_a_number_survives_is_what_exact_arithmetic_says() -> None:
    chance = random.Random(0)
    texts = [f"{chance.randrange(10**9)}e{chance.randrange(-54, 29)}" for _ in range(20_000)]
    texts += [str(chance.randrange(10 ** chance.randrange(1, 14))) + "0" * chance.randrange(4) for _ in range(20_000)]
    texts += [f"{chance.uniform(-1, 1):.{chance.randrange(1, 12)}f}".lstrip("-") for _ in range(20_000)]
    numbers = np.array([float(text) for text in texts])
    told = float32.is_altered(pd.Series(texts, dtype=str), numbers)
    assert [text for text, altered in zip(texts, told, strict=True) if altered == survives(text)] == []


def test_the_worst_and_the_first_of_many_changed_numbers_are_kept() -> None:
    texts = ["16777217", "0.5", *["1234567.89"] * 5, "1e-46", "16777219"]
    cells = pd.read_csv(io.StringIO("\n".join(["a", *texts])), dtype=str)
    numbers = cells.astype(float)
    told = float32.altered(cells, {"a": float32.is_altered(cells["a"], numbers["a"].to_numpy())}, numbers)["a"]
    assert told.count == 8
    assert [row for row, *_ in told.first] == [1, 3, 4]
    assert told.worst == (8, "1e-46", "0")


def test_tables_made_at_random_are_taken_as_a_plain_loop_reads_them_or_refused() -> None:
    answers = dict(fuzz(read_table, range(100)))
    assert {seed: said for seed, said in answers.items() if said not in {"taken", "refused"}} == {}
    assert min(Counter(answers.values()).values()) >= 10
