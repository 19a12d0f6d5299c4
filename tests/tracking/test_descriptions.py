"""What MLflow's pages say of sweeps and runs, and the figures of a sweep."""

import statistics
from typing import Any

import numpy as np
from test_names import sweep

from pipeline.evaluation import choice
from pipeline.runs.records import Record
from pipeline.tracking.pages import descriptions, figures

SUMMARY: dict[str, Any] = {
    "source": "data/raw/scores.csv",
    "rows": 5,
    "features": ["quiz1"],
    "target": "final",
    "split": {"method": "kfold", "folds": 5, "test_fraction": 0.2},
}


def evaluated() -> list[Record]:
    """Two batch sizes, two seeds; a run of the larger one diverged."""
    curve = np.zeros(1, np.float32)
    values = [{"cv/mse": 3.0, "cv/r2": 0.5}, {"cv/mse": 1.0, "cv/r2": 0.7}, {"cv/mse": 0.5, "cv/r2": 0.9}, {}]
    runs = sweep(batch_sizes=[1, 2], seeds=[1, 2])
    lost = ["", "", "", "all training rows, epoch 6; fold 1, epoch 9"]
    return [Record(run, where, curve, {}, metrics) for run, where, metrics in zip(runs, lost, values, strict=True)]


def test_a_sweeps_figures_are_its_champions_means_and_spreads_and_counts() -> None:
    found = figures.compute(evaluated(), "matrix bs=1 lr=1e-05")
    assert found == {
        "sweep/runs": 4,
        "sweep/diverged": 1,
        "champion/runs": 2,
        "champion/cv/mse": 2.0,
        "champion/cv/mse std": float(f"{statistics.stdev([3.0, 1.0]):.9g}"),
        "champion/cv/r2": 0.6,
        "champion/cv/r2 std": float(f"{statistics.stdev([0.5, 0.7]):.9g}"),
    }
    assert found.keys() <= figures.NAMES
    assert figures.compute(evaluated(), "") == {"sweep/runs": 4, "sweep/diverged": 1, "champion/runs": 0}


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
