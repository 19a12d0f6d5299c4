"""What the pipeline's values are called in MLflow."""

import re
from pathlib import Path
from typing import Any

import pytest
from conftest import run

from pipeline.tracking import values

SUMMARY = {
    "source": "data/raw/scores.csv",
    "source_md5": "0" * 32,
    "target": "final",
    "features": ["quiz1"],
    "split": {"method": "kfold", "folds": 5, "test_fraction": 0.2, "seed": 0},
    "standardize": False,
}


def label(**changed: Any) -> str:  # noqa: ANN401
    return values.data_label(SUMMARY | changed)


def test_data_is_named_by_its_table_and_what_makes_results_comparable() -> None:
    assert re.fullmatch("scores [0-9a-f]{6}", label())
    assert label(features=["quiz2"], standardize=True, source="elsewhere/scores.csv") == label()
    others = {label(source_md5="1" * 32), label(target="quiz1"), label(split={**SUMMARY["split"], "seed": 1})}  # type: ignore[dict-item]
    assert len(others | {label()}) == 4


@pytest.mark.parametrize(
    ("source", "shown", "slug"),
    [
        ("data/raw/scores.csv", "scores", "scores"),
        ("My table (2).v1.csv", "My-table-2-.v1", "my-table-2-v1"),
        ("성적.csv", "성적", "table-"),
        ("it's \"a` %table.csv", "it-s-a-table", "it-s-a-table"),
    ],
)
def test_a_table_name_needs_no_quoting(source: str, shown: str, slug: str) -> None:
    assert label(source=source).rpartition(" ")[0] == shown
    found = values.table_name({"source": source})
    assert found.startswith(slug)
    assert re.fullmatch("[a-z0-9_-]+", found)
    assert values.table_name({"source": "점수.csv"}) != values.table_name({"source": "성적.csv"})


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


@pytest.mark.parametrize(
    ("params", "joined"),
    [
        ("train: {epochs: 2, lr: 1e-5}\nvariants: [a, b]\n", "train.epochs"),
        ("train: {epochs: 3, lr: 0.00001}\nvariants: [a, b]\n", "train.epochs"),
        ("train: {epochs: 2, lr: 1e-5}\nvariants: [a]\n", "train.epochs,variants"),
    ],
)
@pytest.mark.parametrize("name", ["tawny-anil", "lr-2"])
def test_experiments_of_a_grid_change_the_same_keys_whatever_their_names(
    baseline: str, monkeypatch: pytest.MonkeyPatch, params: str, joined: str, name: str
) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", name)
    Path("params.yaml").write_text(params)
    assert values.changed_keys() == f"{joined} {baseline[:7]}"


def test_outside_experiments_and_without_a_change_there_is_none(baseline: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    Path("params.yaml").write_text("train: {epochs: 2}\n")
    assert values.changed_keys() == ""
    monkeypatch.setenv("DVC_EXP_NAME", "tawny-anil")
    run("git", "checkout", "--quiet", baseline, "--", "params.yaml", cwd=Path.cwd())
    assert values.changed_keys() == ""
