"""An experiment in the workspace, run by DVC itself, leaves params.yaml as it was written but for its values."""

from pathlib import Path

from conftest import run, shorten
from test_layout import changed


def test_only_the_lines_of_its_values_change(clone: Path) -> None:
    shorten(clone)
    before = (clone / "params.yaml").read_text(encoding="utf-8")
    run("dvc", "exp", "run", "-S", "variants=[linear]", "-S", "sweep.lr=[2e-6]", "-S", "train.epochs=21", cwd=clone)
    after = (clone / "params.yaml").read_text(encoding="utf-8")
    assert changed(before, after) == ["-- matrix", "-  epochs: 20", "+  epochs: 21", "-  - 1e-5", "+  - 2e-06"]
