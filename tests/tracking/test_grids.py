"""What joins the experiments of a grid, and sets them apart from another grid's."""

from pathlib import Path

import pytest
from conftest import run

from pipeline.tracking.grids import grid


@pytest.fixture
def baseline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Work in a repository whose only commit has a params.yaml; return its commit."""
    (tmp_path / "params.yaml").write_text("train: {epochs: 1, lr: 1e-5}\nvariants: [a, b]\n")
    run("git", "init", "--quiet", cwd=tmp_path)
    run("git", "add", "--all", cwd=tmp_path)
    run("git", "commit", "--quiet", "--message", "Params", cwd=tmp_path)
    monkeypatch.chdir(tmp_path)
    commit = run("git", "rev-parse", "HEAD", cwd=tmp_path).stdout.strip()
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", commit)
    return commit


def test_a_named_grid_is_its_name_without_the_number(baseline: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = set()
    for name in ("long-1", "long-12"):
        monkeypatch.setenv("DVC_EXP_NAME", name)
        found.add(grid())
    assert found == {f"long {baseline[:7]}"}


@pytest.mark.parametrize(
    ("params", "joined"),
    [
        ("train: {epochs: 2, lr: 1e-5}\nvariants: [a, b]\n", "train.epochs"),
        ("train: {epochs: 3, lr: 0.00001}\nvariants: [a, b]\n", "train.epochs"),
        ("train: {epochs: 2, lr: 1e-5}\nvariants: [a]\n", "train.epochs,variants"),
    ],
)
def test_another_s_experiments_change_the_same_keys(
    baseline: str, monkeypatch: pytest.MonkeyPatch, params: str, joined: str
) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "tawny-anil")
    Path("params.yaml").write_text(params)
    assert grid() == f"{joined} {baseline[:7]}"


def test_outside_experiments_and_without_a_change_there_is_none(baseline: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    Path("params.yaml").write_text("train: {epochs: 2}\n")
    assert grid() == ""
    monkeypatch.setenv("DVC_EXP_NAME", "tawny-anil")
    run("git", "checkout", "--quiet", baseline, "--", "params.yaml", cwd=Path.cwd())
    assert grid() == ""
