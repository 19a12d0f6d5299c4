"""DVC writes an experiment's values into params.yaml: it changes their lines alone."""

import difflib
import shutil
from pathlib import Path

import pytest
from conftest import REPOSITORY
from dvc.utils.hydra import apply_overrides


def changed(before: str, after: str) -> list[str]:
    """List the lines that differ, with - and +."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
    return [line for line in lines if line[:3] not in {"---", "+++"} and line[0] in "+-"]


@pytest.mark.parametrize(
    ("overrides", "lines"),
    [
        (["train.epochs=500"], ["-  epochs: 1000", "+  epochs: 500"]),
        (["sweep.lr=[1e-6,1e-4]"], ["-  - 1e-5", "+  - 1e-06", "+  - 0.0001"]),
        (["sweep.seed=[1]"], ["-  - 2", "-  - 3"]),
        (["sweep.batch_size=[2,full]"], ["-  - 1", "-  - 4"]),
        (["variants=[linear]"], ["-- handwritten", "-- matrix", "-- module"]),
        (["data.features=[quiz1,quiz3]", "data.target=y"], ["-  - quiz2", "-  target: final", "+  target: y"]),
        (["data.split.method=holdout"], ["-    method: kfold", "+    method: holdout"]),
        (["sweep.optimizer=[adam,sgd]"], ["-  optimizer: []", "+  optimizer:", "+  - adam", "+  - sgd"]),
        (["sweep.skip=[{lr: 1e-5}]"], ["-  skip: []", "+  skip:", "+  - lr: 1e-05"]),
        (["train.betas=[0.9,0.99]"], ["-  - 0.999", "+  - 0.99"]),
        (["sweep.search.method=tpe"], ["-    method: none", "+    method: tpe"]),
        (["track.points=11"], ["-  points: 101", "+  points: 11"]),
    ],
)
def test_an_override_changes_its_own_lines_and_no_other_byte(
    tmp_path: Path, overrides: list[str], lines: list[str]
) -> None:
    before = (REPOSITORY / "params.yaml").read_text(encoding="utf-8")
    shutil.copy(REPOSITORY / "params.yaml", tmp_path)
    apply_overrides(tmp_path / "params.yaml", overrides)
    assert changed(before, (tmp_path / "params.yaml").read_text(encoding="utf-8")) == lines
