"""What MLflow's pages call sweeps and runs."""

import os
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pytest
from conftest import enter, run

from pipeline.config.axes import BatchSize
from pipeline.runs.run import Run
from pipeline.tracking.pages import names


def sweep(
    variants: Sequence[str] = ("matrix",),
    batch_sizes: Sequence[BatchSize] = ("full",),
    lrs: Sequence[float] = (1e-5,),
    seeds: Sequence[int] = (1,),
) -> list[Run]:
    return [
        Run(*axes, epochs=1000, init="zeros", device="cpu", fingerprint=f"{number:032x}")
        for number, axes in enumerate(product(variants, batch_sizes, lrs, seeds))
    ]


def named(runs: Sequence[Run]) -> list[str]:
    return list(names.run_names(runs).values())


def test_a_name_holds_what_varies_in_its_sweep_and_the_variant() -> None:
    assert named(sweep()) == ["matrix"]
    assert named(sweep(lrs=[1e-6, 0.01])) == ["1e-6 matrix", "0.01 matrix"]
    assert named(sweep(["matrix", "linear"], [2, "full"], seeds=[1, 2]))[:3] == [
        "b2 s1 matrix",
        "b2 s2 matrix",
        "full s1 matrix",
    ]


@pytest.mark.parametrize(
    "runs",
    [
        sweep(["handwritten", "matrix", "linear", "module"], [1, 2, 4, "full"], [1e-5], [1, 2, 3]),
        sweep(["handwritten", "matrix", "linear", "module"], [1, 128, 1024, "full"], [1e-5, 2.5e-5], range(12)),
        sweep(["a_long_variant", "a_long_variant_2"]),
        sweep(lrs=[0.000123456789012, 0.000123456789013]),
    ],
)
def test_no_two_names_of_a_sweep_begin_with_the_same_15_characters(runs: list[Run]) -> None:
    found = named(runs)
    assert len({name[:15] for name in found}) == len(runs)
    assert all(name.endswith(f"{run.variant}") for name, run in zip(found, runs, strict=True))


@pytest.mark.parametrize(
    ("number", "written"),
    [(1e-5, "1e-5"), (0.01, "0.01"), (1e-3, "1e-3"), (1.0, "1"), (0.5, "0.5"), (1e20, "1e20"), (2.5e-7, "2.5e-7")],
)
def test_a_number_is_short_and_reads_back(number: float, written: str) -> None:
    assert names.short(number) == written
    assert float(written) == number


def test_a_sweep_is_named_by_its_table_its_axes_and_the_tables_date() -> None:
    runs = sweep(["matrix", "linear"], [2, "full"], seeds=[1, 2, 3])
    assert names.sweep_name(runs, "scores", "2026-11-20", "") == (
        "scores: 2 variants × 2 batch sizes × 3 seeds · lr 1e-5 · 1000 epochs · data of 2026-11-20"
    )
    assert names.sweep_name(sweep(), "line", "2026-11-20", "slower").startswith(
        "slower · line: matrix · batch size full"
    )


def test_a_restricted_sweep_says_how_many_of_its_combinations_are_meant() -> None:
    runs = sweep(["matrix", "linear"], [2, "full"], seeds=[1, 2, 3])[1:]
    assert names.sweep_name(runs, "scores", "2026-11-20", "").startswith(
        "scores: 11 runs of 2 variants × 2 batch sizes × 3 seeds · lr 1e-5"
    )


def test_a_tables_date_is_its_last_commits_unless_it_was_changed_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(tmp_path, monkeypatch)
    table = tmp_path / "table.csv"
    table.write_text("x,y\n1,2\n")
    os.utime(table, (86400 * 366, 86400 * 366))
    assert names.date_of({"source": "table.csv"}) == "1971-01-02"
    run("git", "init", "--quiet", cwd=tmp_path)
    run("git", "add", "table.csv", cwd=tmp_path)
    dated = {"GIT_COMMITTER_DATE": "2020-02-03T12:00:00Z"}
    run("git", "commit", "--quiet", "--message", "A table", cwd=tmp_path, extra=dated)
    assert names.date_of({"source": "table.csv"}) == "2020-02-03"
    table.write_text("x,y\n1,30\n")
    os.utime(table, (86400 * 366, 86400 * 366))
    assert names.date_of({"source": "table.csv"}) == "1971-01-02"
    assert names.date_of({"source": "gone.csv"}) == "unknown date"
