"""Rows that only champions are measured on: nothing else depends on them, and it is counted how many champions were."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import run, shorten

from pipeline.config.params import Split
from pipeline.prepare import final

ROWS, COLUMNS = 40, ["a", "b", "c", "y"]
DATA = {
    "source: data/raw/scores.csv": "source: data/raw/many.csv",
    "  - quiz1\n  - quiz2\n  - quiz3\n": "  - a\n  - b\n  - c\n",
    "target: final": "target: y",
    "final_test: 0.0": "final_test: 0.2",
    "  - 1e-5\n": "  - 7e-3\n  - 1e-2\n  - 3e-2\n",
    "variants:\n- matrix\n- linear\n": "variants:\n- matrix\n",
}


def change(file: Path, changed: dict[str, str]) -> None:
    text = file.read_text()
    for old, new in changed.items():
        assert old in text
        text = text.replace(old, new)
    file.write_text(text)


def write(file: Path, values: np.ndarray) -> None:
    file.write_text("\n".join([",".join(COLUMNS), *(",".join(f"{v:.4f}" for v in row) for row in values)]) + "\n")


def evaluate(clone: Path, *changes: str) -> str:
    """Evaluate with changed params, as a stage; return what it says of the final rows."""
    change(clone / "params.yaml", dict(zip(changes[::2], changes[1::2], strict=True)))
    told = run("python", "-m", "pipeline.evaluate", cwd=clone, extra={"DVC_STAGE": "evaluate"}).stdout
    return next(line for line in told.splitlines() if line.startswith("On the final rows"))


def test_final_rows_change_no_leaderboard_and_each_champion_measured_on_them_counts_once(clone: Path) -> None:
    shorten(clone)
    change(clone / "params.yaml", DATA)
    chance = np.random.default_rng(0)
    X = chance.normal(size=(ROWS, 3))
    values = np.hstack([X, X @ [[1.0], [-2.0], [0.5]] + 2 + chance.normal(size=(ROWS, 1))])
    write(clone / "data/raw/many.csv", values)
    for stage in (["prepare"], ["train", "matrix"]):
        run("python", "-m", f"pipeline.{stage[0]}", *stage[1:], cwd=clone)
    first = evaluate(clone)
    board, metrics = ((clone / name).read_text() for name in ("leaderboard.csv", "metrics.json"))
    best, *others = csv.DictReader(io.StringIO(board))
    assert all(float(best["cv/mse mean"]) <= float(one["cv/mse mean"]) for one in others)
    mask = final(ROWS, Split(method="kfold", folds=5, test_fraction=0.2, seed=0, final_test=0.2))
    told = run("pipeline", "predict", "data/raw/many.csv", cwd=clone).stdout
    off = [float(row["y_pred"]) - float(row["y"]) for row in csv.DictReader(io.StringIO(told))]
    assert json.loads(metrics)["champion"]["final/mse"] == pytest.approx((np.array(off)[mask] ** 2).mean(), rel=1e-3)
    assert run("pipeline", "doctor", "--deep", cwd=clone).stdout.startswith("nothing found")
    said = [first, evaluate(clone, "choose: best", "choose: one_se"), evaluate(clone)]
    figures = [one.split("final/mse ")[1].split(",")[0] for one in said]
    assert figures[0] != figures[1] == figures[2]
    times = ("the first champion", "the last of 2 champions", "the last of 2 champions")
    chosen = next(csv.DictReader((clone / "leaderboard.csv").open()))
    limit = float(best["cv/mse mean"]) + float(best["cv/mse se"])
    within = [one for one in (best, *others) if float(one["cv/mse mean"]) <= limit]
    steps = {"2": 16, "full": 1}  # of 32 rows
    assert chosen == min(within, key=lambda one: float(one["lr"]) * steps[one["batch_size"]]) != best
    assert [one.split("It is ")[1] for one in said] == [f"{time} measured on them." for time in times]

    values[mask, 3] += 100
    write(clone / "data/raw/many.csv", values)
    for stage in (["prepare"], ["train", "matrix"]):
        run("python", "-m", f"pipeline.{stage[0]}", *stage[1:], cwd=clone)
    assert "the first champion" in evaluate(clone, "choose: one_se", "choose: best")  # of another table
    assert (clone / "leaderboard.csv").read_text() == board
    champions = [json.loads(text)["champion"] for text in (metrics, (clone / "metrics.json").read_text())]
    assert champions[1].pop("final/mse") > 100 * champions[0].pop("final/mse")
    assert {key for key in champions[0] if champions[0][key] != champions[1][key]} == {"final/mae", "final/r2"}
