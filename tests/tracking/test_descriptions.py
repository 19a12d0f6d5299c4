"""What MLflow's pages call sweeps and runs, what they say of them, and the figures of a sweep."""

import os
import statistics
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import enter, run

from pipeline.config.axes import BatchSize
from pipeline.evaluation import choice
from pipeline.runs.records import Record
from pipeline.runs.run import Run
from pipeline.tracking import values
from pipeline.tracking.pages import descriptions
from pipeline.tracking.seals import SWEEP_METRICS

SUMMARY: dict[str, Any] = {
    "source": "data/raw/scores.csv",
    "rows": 5,
    "features": ["quiz1"],
    "target": "final",
    "split": {"method": "kfold", "folds": 5, "test_fraction": 0.2},
}


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


def evaluated() -> list[Record]:
    """Two batch sizes, two seeds; a run of the larger one diverged."""
    curve = np.zeros(1, np.float32)
    values = [{"cv/mse": 3.0, "cv/r2": 0.5}, {"cv/mse": 1.0, "cv/r2": 0.7}, {"cv/mse": 0.5, "cv/r2": 0.9}, {}]
    runs = sweep(batch_sizes=[1, 2], seeds=[1, 2])
    lost = ["", "", "", "all training rows, epoch 6; fold 1, epoch 9"]
    return [Record(run, where, curve, {}, metrics) for run, where, metrics in zip(runs, lost, values, strict=True)]


def test_a_sweeps_figures_are_its_champions_means_and_spreads_and_counts() -> None:
    found = values.sweep_metrics(evaluated(), "matrix bs=1 lr=1e-05")
    assert found == {
        "sweep/runs": 4,
        "sweep/diverged": 1,
        "champion/runs": 2,
        "champion/cv/mse": 2.0,
        "champion/cv/mse std": float(f"{statistics.stdev([3.0, 1.0]):.9g}"),
        "champion/cv/r2": 0.6,
        "champion/cv/r2 std": float(f"{statistics.stdev([0.5, 0.7]):.9g}"),
    }
    assert found.keys() <= SWEEP_METRICS
    assert values.sweep_metrics(evaluated(), "") == {"sweep/runs": 4, "sweep/diverged": 1, "champion/runs": 0}


def test_the_champions_best_run_follows_the_metrics_direction() -> None:
    for metric, seed in (("cv/mse", 2), ("cv/r2", 2)):
        best = choice.best_run(evaluated(), "matrix bs=1 lr=1e-05", metric)
        assert best is not None
        assert best.run.seed == seed
    assert choice.best_run(evaluated(), "", "cv/mse") is None


def test_a_sweeps_description_says_what_won_what_was_lost_and_how_to_make_it_again() -> None:
    everything = evaluated()
    text = descriptions.sweep(everything, "matrix bs=1 lr=1e-05", "cv/mse", "About.", 1, {"Sweeps": "#/x"})
    assert text.startswith("**Champion: matrix bs=1 lr=1e-05, cv/mse 2 ± 1.4** over 2 seeds\n")
    assert "4 runs, 1 of them trained by earlier sweeps and listed there; 1 diverged:" in text
    assert "- `matrix bs=2 lr=1e-05`: 1 of its seeds, the first on all training rows, epoch 6" in text
    assert f"pipeline reproduce {everything[1].run.fingerprint}`" in text
    assert "[Sweeps](#/x)" in text
    lost = descriptions.sweep(everything[3:], "", "cv/mse", "About.", 0, {})
    assert lost.startswith("**No champion: every run diverged.**")
    assert "pipeline reproduce" not in lost


def test_names_of_tables_and_columns_are_shown_as_code_and_many_are_counted() -> None:
    hostile = {"source": "a`b|<script>.csv\n# x", "features": [f"[x{i}](javascript:1)`" for i in range(12)]}
    text = descriptions.data(SUMMARY | hostile, "scores 123456", "2026-11-20")
    assert "\n" not in text
    assert text.count("`") % 2 == 0
    outside = "".join(text.split("`")[::2])
    assert not any(sign in outside for sign in "<>[|#")
    assert "and 2 more" in outside


def named(runs: Sequence[Run]) -> list[str]:
    return list(descriptions.run_names(runs).values())


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
    assert descriptions.short(number) == written
    assert float(written) == number


def test_a_sweep_is_named_by_its_table_its_axes_and_the_tables_date() -> None:
    runs = sweep(["matrix", "linear"], [2, "full"], seeds=[1, 2, 3])
    assert descriptions.sweep_name(runs, "scores", "2026-11-20", "") == (
        "scores: 2 variants × 2 batch sizes × 3 seeds · lr 1e-5 · 1000 epochs · data of 2026-11-20"
    )
    assert descriptions.sweep_name(sweep(), "line", "2026-11-20", "slower").startswith(
        "slower · line: matrix · batch size full"
    )


def test_a_restricted_sweep_says_how_many_of_its_combinations_are_meant() -> None:
    runs = sweep(["matrix", "linear"], [2, "full"], seeds=[1, 2, 3])[1:]
    assert descriptions.sweep_name(runs, "scores", "2026-11-20", "").startswith(
        "scores: 11 runs of 2 variants × 2 batch sizes × 3 seeds · lr 1e-5"
    )


def test_a_tables_date_is_its_last_commits_unless_it_was_changed_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(tmp_path, monkeypatch)
    table = tmp_path / "table.csv"
    table.write_text("x,y\n1,2\n")
    os.utime(table, (86400 * 366, 86400 * 366))
    assert descriptions.date_of({"source": "table.csv"}) == "1971-01-02"
    run("git", "init", "--quiet", cwd=tmp_path)
    run("git", "add", "table.csv", cwd=tmp_path)
    dated = {"GIT_COMMITTER_DATE": "2020-02-03T12:00:00Z"}
    run("git", "commit", "--quiet", "--message", "A table", cwd=tmp_path, extra=dated)
    assert descriptions.date_of({"source": "table.csv"}) == "2020-02-03"
    table.write_text("x,y\n1,30\n")
    os.utime(table, (86400 * 366, 86400 * 366))
    assert descriptions.date_of({"source": "table.csv"}) == "1971-01-02"
    assert descriptions.date_of({"source": "gone.csv"}) == "unknown date"
