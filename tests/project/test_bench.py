"""`make bench`: its table names what missed its goal, and every file that measures is one of its parts."""

from inspect import signature
from pathlib import Path
from pkgutil import resolve_name

import bench
import pytest
from bench import clocked_stage, search
from bench.__main__ import PARTS, SLOW, main
from bench.rows import Row, line, number
from bench.stored_here import Here, nothing

from pipeline.tracking import tracker


@pytest.mark.parametrize(
    ("row", "cells"),
    [
        (Row("a", 12.345, "s", most=15), ("12.3 s", "≤ 15 s", "0.823", "")),
        (Row("a", 15.5, "s", most=15), ("15.5 s", "≤ 15 s", "1.03", "missed")),
        (Row("a", 5.0, "×", least=5), ("5 ×", "≥ 5 ×", "1", "")),
        (Row("a", 4.9, "×", least=5), ("4.90 ×", "≥ 5 ×", "0.980", "missed")),
        (Row("a", 1234.5, "MB"), ("1,234 MB", "", "", "")),
    ],
)
def test_a_row_says_whether_its_goal_is_met(row: Row, cells: tuple[str, ...]) -> None:
    assert row.cells() == ("a", *cells)
    assert line(row.cells()).split() == " ".join(row.cells()).split()


def test_a_tiny_number_is_not_rounded_to_nothing() -> None:
    assert [number(value) for value in (0, 3.2e-11, 0.0123)] == ["0", "3.2e-11", "0.0123"]


def test_every_file_of_the_benchmark_is_part_of_it() -> None:
    [folder] = bench.__path__
    measuring = {f"bench.{file.stem}" for file in Path(folder).glob("*.py") if "def rows() ->" in file.read_text()}
    assert measuring == {measure.__module__ for measure in PARTS.values()}
    assert set(SLOW) < set(PARTS)
    with pytest.raises(SystemExit, match="sweep: no such part; there are sweeps, "):
        main(["sweep"])


@pytest.mark.parametrize("stage", clocked_stage.CLOCKED)
def test_what_is_clocked_is_there(stage: str) -> None:
    assert all(callable(resolve_name(f"{module}.{name}")) for module, name, _ in clocked_stage.CLOCKED[stage])


@pytest.mark.parametrize("name", [name for name in vars(Here) if not name.startswith("_")])
def test_a_stage_can_store_in_its_own_process(name: str) -> None:
    own, tracked = getattr(Here, name), getattr(tracker.Tracker, name)
    assert isinstance(tracked, property) or signature(own) == signature(tracked)


def test_no_process_is_launched_with_what_a_stage_loads_ahead() -> None:
    assert signature(nothing) == signature(tracker.launch_ahead)


def test_a_search_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "SEEDS", range(1))
    monkeypatch.setattr(search, "TRIALS", 8)
    monkeypatch.setattr(search, "ROUNDS", 2)
    random, tpe = search.rows()
    assert random.what.endswith("random")
    assert tpe.most == random.measured > 0
