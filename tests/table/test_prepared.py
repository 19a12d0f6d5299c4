"""Prepared data that are left over are refused by every stage; those of a table that is gone are not."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import enter
from test_prepare import ROWS, configure, prepared

from pipeline import evaluate, train
from pipeline.__main__ import main
from pipeline.config.params import load
from pipeline.errors import InputError
from pipeline.runs import outs
from pipeline.runs.checked import check_prepared
from pipeline.tracking.tracker import Tracker

TABLE = "a,b,c,y\n1,2,1,3\n4,5,0,7\n6,8,2,9\n"
AGAIN = "; run: dvc repro prepare"


def refusal(folder: Path, changes: dict[str, object], table: str | None = None) -> list[str]:
    configure(folder, table, changes)
    with pytest.raises(InputError) as refused:
        check_prepared(load().data)
    lines = str(refused.value).splitlines()
    assert all(line.endswith(AGAIN) for line in lines)
    return [line.removesuffix(AGAIN).removeprefix("data/prepared: was prepared from other data: ") for line in lines]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a table and what was prepared from it."""
    prepared(tmp_path, TABLE)
    monkeypatch.chdir(tmp_path)
    assert check_prepared(load().data) == [3, 1, 2]
    return tmp_path


def test_each_setting_that_prepare_follows_is_compared(workspace: Path) -> None:
    changes: dict[str, object] = {"data.features": ["c"], "data.target": "c", "data.standardize": True}
    for key, value in changes.items():
        assert refusal(workspace, {key: value})[0].startswith(f"{key}: ")
    assert len(refusal(workspace, changes | {"data.features": ["a"], "data.split.seed": 7})) == 4


def test_another_table_is_refused_by_its_md5_also_under_another_name(workspace: Path) -> None:
    [said] = refusal(workspace, {}, TABLE.replace("9", "9.0"))
    assert said.startswith("source_md5: ")
    assert "table.csv" in said
    configure(workspace, TABLE, {})
    (workspace / "other.csv").write_text(ROWS)
    assert "other.csv" in refusal(workspace, {"data.source": "other.csv"})[0]
    (workspace / "copy.csv").write_text(TABLE)
    configure(workspace, None, {"data.source": "copy.csv"})
    check_prepared(load().data)


def test_a_table_that_is_gone_is_not_another_one(workspace: Path) -> None:
    (workspace / "table.csv").unlink()
    assert check_prepared(load().data) == [3, 1, 2]


@pytest.mark.parametrize("content", [None, "", "[]", "{}", "\xff"])
def test_a_summary_that_is_missing_or_malformed_is_refused(workspace: Path, content: str | None) -> None:
    (workspace / outs.SUMMARY).unlink()
    if content is not None:
        (workspace / outs.SUMMARY).write_text(content)
    [said] = refusal(workspace, {})
    assert said.startswith("data/prepared/summary.json: ")


@pytest.mark.parametrize("start", [train.main, evaluate.main, lambda: main(["sync"])])
def test_every_stage_and_sync_refuse_before_they_do_anything(
    small: Path, monkeypatch: pytest.MonkeyPatch, start: Callable[[], None]
) -> None:
    enter(small, monkeypatch)
    monkeypatch.setattr(sys, "argv", ["train", "matrix"])
    monkeypatch.setattr(Tracker, "__enter__", lambda _: pytest.fail("a run was begun"))
    table = small / "data/raw/scores.csv"
    before = table.read_text()
    table.write_text(before + "1,2,3,4\n")
    try:
        with pytest.raises(InputError, match="data/prepared: was prepared from other data: source_md5"):
            start()
    finally:
        table.write_text(before)
