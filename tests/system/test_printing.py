"""Rows as people and programs read them."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, environment
from rich.cells import cell_len
from rich.console import Console

from pipeline.system import tables

ROWS: list[tables.Row] = [
    {"run": "linear bs=full lr=1e-05 seed=1", "cv/mse": 0.1 + 0.2, "cv/r2": 0.5, "note": None, "id": "a" * 32},
    {"run": "표 bs=2 lr=1e-05 seed=1", "cv/mse": None, "cv/r2": 1 / 3, "note": "", "id": "b" * 32},
]


def table(width: int, rows: list[tables.Row], terminal: bool = True) -> tuple[list[str], list[str]]:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=width, highlight=False, no_color=True)
    left_out = tables.as_table(rows, ["cv/r2", "cv/mse"], console)
    return out.getvalue().replace("\x1b[1m", "").replace("\x1b[0m", "").splitlines(), left_out


@pytest.mark.parametrize("width", [60, 70, 80, 200])
def test_a_table_fits_the_terminal_and_keeps_the_id_whole(width: int) -> None:
    lines, left_out = table(width, ROWS)
    assert all(cell_len(line) <= width for line in lines)
    assert [line.split()[-1] for line in lines] == ["id", "a" * 32, "b" * 32]
    assert left_out == {60: ["cv/r2", "cv/mse"], 70: ["cv/r2", "cv/mse"], 80: ["cv/r2"], 200: []}[width]
    assert lines[1].startswith("linear bs=full lr=1e-05 seed=1" if width > 60 else "linear bs=full lr=1e-05 s…")
    assert ("0.3 " in lines[1]) == (width >= 80)


@pytest.mark.parametrize(
    ("deviation", "shown"), [(0.748, "0.75"), (6123.4, "6100"), (12.6, "13"), (5.24e-05, "5.2e-05"), (0.0, "0")]
)
def test_a_deviation_has_two_digits_and_is_written_like_its_mean(deviation: float, shown: str) -> None:
    assert tables.spread(deviation) == shown


def test_a_narrow_first_column_is_not_widened() -> None:
    lines, _ = table(40, [{"lr": 0.1, "best run": "x" * 60, "cv/r2": 1}])
    assert lines[0] == "lr   best run"


def test_without_a_terminal_all_columns_stay_whole_and_empty_ones_go() -> None:
    lines, left_out = table(20, ROWS, terminal=False)
    assert left_out == []
    assert lines[0].split() == ["run", "cv/mse", "cv/r2", "id"]
    assert lines[1].startswith("linear bs=full lr=1e-05 seed=1  0.3     0.5")


def test_control_characters_of_a_store_are_shown_and_not_sent(capsys: pytest.CaptureFixture[str]) -> None:
    hostile: list[tables.Row] = [{"run": "\x1b[2J\r\nname", "id": "[red]x[/red]"}]
    tables.as_table(hostile)
    tables.as_csv(hostile)
    tables.as_json(hostile)
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "\r" not in said
    assert said.count("\\x1b[2J\\r\\nname") == 2
    assert "[red]x[/red]" in said


def test_json_and_csv_keep_every_digit(capsys: pytest.CaptureFixture[str]) -> None:
    tables.as_json(ROWS)
    assert json.loads(capsys.readouterr().out) == ROWS
    tables.as_csv(ROWS)
    read = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [float(row["cv/r2"]) for row in read] == [0.5, 1 / 3]
    assert (float(read[0]["cv/mse"]), read[1]["cv/mse"]) == (0.1 + 0.2, "")


def test_what_stderr_says_of_rows_comes_after_them_also_in_one_file(tmp_path: Path) -> None:
    rows = "import click, pipeline.cli.options as options\noptions.print_rows([{'a': 1}], None)"
    code, file = f"{rows}\nclick.echo('note', err=True)", tmp_path / "said"
    with file.open("w") as out:
        subprocess.run(
            [sys.executable, "-c", code], cwd=REPOSITORY, env=environment(), stdout=out, stderr=out, check=True
        )
    assert file.read_text().split() == ["a", "1", "note"]
