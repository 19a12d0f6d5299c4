"""`pipeline reproduce` makes a run again from its record alone, or says what of the record is gone or differs."""

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import copy_store, default_store, enter, run, search
from mlflow import MlflowClient
from mlflow.entities import Run

from pipeline.__main__ import main
from pipeline.commands.reproduce import TABLE, place_data, write_params
from pipeline.commands.verdict import compare_bits
from pipeline.config.params import load
from pipeline.errors import InputError
from pipeline.runs import records
from pipeline.runs.checked import check_prepared
from pipeline.tracking import queries
from pipeline.tracking.validation import parse_params

STAGES_SAY = ("prepare: ", "train ", "evaluate: ")  # on the way, on standard error


def reproduce(repository: Path, runs: Sequence[Run], uri: str | None = None, *switches: str) -> tuple[int, str]:
    """Run the command; return its exit code and all that it printed."""
    ids = [one.info.run_id for one in runs]
    extra = {"MLFLOW_TRACKING_URI": uri} if uri else None
    result = run("pipeline", "reproduce", *switches, *ids, cwd=repository, extra=extra, check=False)
    assert "Traceback" not in result.stderr
    return result.returncode, result.stdout + result.stderr


def identical(runs: Sequence[Run]) -> tuple[int, set[str]]:
    return 0, {f"{one.info.run_id}: identical" for one in runs}


def lines(answer: tuple[int, str]) -> tuple[int, set[str]]:
    return answer[0], {line for line in answer[1].splitlines() if not line.startswith(STAGES_SAY)}


def copy_without_store(repository: Path, folder: Path) -> Path:
    shutil.copytree(repository, folder, ignore=shutil.ignore_patterns("mlflow.db*", "mlartifacts"))
    return folder


def everything(repository: Path) -> dict[str, object]:
    """All that a command could change: files, worktrees, runs."""
    kept = [path for path in repository.rglob("*") if path.is_file() and "mlflow.db" not in path.name]
    found: dict[str, object] = {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in kept
        if not {".git", "tmp", "__pycache__"} & set(path.relative_to(repository).parts)
    }
    for command in ("status --porcelain", "worktree list", "branch --list", "stash list"):
        found[command] = run("git", *command.split(), cwd=repository).stdout
    return found | {one.info.run_id: one.to_dictionary() for one in search(default_store(repository), "")}


def test_runs_of_the_workspace_and_of_an_experiment_come_out_identical_and_leave_no_trace(small: Path) -> None:
    own = search(default_store(small), "tags.role = 'run' and params.lr = '1e-05' and params.batch_size = '2'")
    tried = search(default_store(small), "tags.dvc_experiment = 'other' and params.variant = 'linear'")
    assert (len(own), len(tried)) == (2, 2)
    before = everything(small)
    assert lines(reproduce(small, [own[0], tried[0]])) == identical([own[0], tried[0]])
    assert everything(small) == before


@pytest.fixture(scope="module")
def dirty(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a run of changed code, since lost, and of a table that git does not have."""
    folder = copy_without_store(small, tmp_path_factory.mktemp("dirty") / "repository")
    text = (folder / "params.yaml").read_text()
    for old, new in {"raw/scores": "raw/own", "- matrix\n": "", "  - 2\n": ""}.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "params.yaml").write_text(text)
    (folder / "data/raw/scores.csv").rename(folder / "data/raw/own.csv")
    with (folder / ".gitignore").open("a") as file:
        file.write("/data/raw/own.csv\n")
    run("git", "commit", "--quiet", "--all", "--message", "A table of my own", cwd=folder)
    # Needed by the change, and unknown to git.
    (folder / "pipeline/untracked.py").write_text("def same(X):\n    return X\n")
    linear = folder / "pipeline/variants/linear.py"
    edited = linear.read_text().replace("nn.Linear(k, 1)", "same(nn.Linear(k, 1))")
    linear.write_text(edited.replace("from torch import", "from pipeline.untracked import same\nfrom torch import"))
    run("dvc", "repro", cwd=folder)
    run("git", "checkout", "--quiet", "--", ".", cwd=folder)
    run("git", "clean", "--quiet", "--force", cwd=folder)
    assert "same" not in linear.read_text()
    return folder


def test_a_run_of_a_dirty_tree_is_made_again_after_the_changes_are_gone(dirty: Path) -> None:
    runs = search(default_store(dirty))
    assert [one.data.tags["git_dirty"] for one in runs] == ["true"]
    code, printed = reproduce(dirty, runs)
    assert code == 1
    assert all(part in printed for part in ("--allow-patch", "pipeline/untracked.py", "linear.py", "mlartifacts"))
    assert lines(reproduce(dirty, runs, None, "--allow-patch")) == identical(runs)
    assert run("git", "status", "--porcelain", cwd=dirty).stdout == ""


def test_lost_data_are_prepared_again_from_the_raw_table_as_long_as_that_is_the_same(dirty: Path) -> None:
    runs = search(default_store(dirty))
    shutil.rmtree(dirty / "data/prepared")
    shutil.rmtree(dirty / ".dvc/cache")
    assert lines(reproduce(dirty, runs, None, "--allow-patch")) == identical(runs)
    with (dirty / "data/raw/own.csv").open("a") as file:
        file.write("1,2,3,4\n")
    code, printed = reproduce(dirty, runs, None, "--allow-patch")
    assert code == 1
    assert "its data are missing" in printed
    assert all(runs[0].data.tags[key] in printed for key in ("data_md5", "source_md5"))


def test_a_fresh_clone_takes_the_data_from_the_remote_whatever_became_of_the_raw_file(
    small: Path, tmp_path: Path
) -> None:
    origin = copy_without_store(small, tmp_path / "origin")
    run("dvc", "remote", "add", "--default", "storage", str(tmp_path / "storage"), cwd=origin)
    run("dvc", "push", cwd=origin)
    with (origin / "data/raw/scores.csv").open("a") as file:
        file.write("1,2,3,4\n")
    run("git", "commit", "--quiet", "--all", "--message", "Another row", cwd=origin)
    run("git", "clone", "--quiet", str(origin), str(tmp_path / "clone"), cwd=tmp_path)
    runs = search(default_store(small), "params.variant = 'matrix' and params.batch_size = '2'")
    assert len(runs) == 1
    code, printed = reproduce(tmp_path / "clone", runs, default_store(small))
    assert code == 0
    assert f"{runs[0].info.run_id}: identical" in printed
    md5 = runs[0].data.tags["data_md5"]
    assert (tmp_path / "clone/.dvc/cache/files/md5" / md5[:2] / md5[2:]).exists()
    assert not (tmp_path / "clone/mlflow.db").exists()


def test_one_flipped_bit_of_a_tensor_and_one_changed_point_are_named(small: Path, tmp_path: Path) -> None:
    uri = copy_store(small, tmp_path / "mlflow.db")
    [one] = search(uri, "params.variant = 'matrix' and params.batch_size = '2'")
    weights = Path(one.info.artifact_uri.removeprefix("file://")) / "weights.safetensors"
    before = weights.read_bytes()
    size = int.from_bytes(before[:8], "little")
    start = 8 + size + json.loads(before[8 : 8 + size])["grad_W"]["data_offsets"][0]
    with sqlite3.connect(tmp_path / "mlflow.db") as table:
        where = "run_uuid = ? AND key = 'train/mse' AND step = 10"
        assert table.execute(f"UPDATE metrics SET value = value + 1 WHERE {where}", [one.info.run_id]).rowcount == 1
    weights.write_bytes(before[:start] + bytes([before[start] ^ 1]) + before[start + 1 :])
    try:
        code, printed = reproduce(small, [one], uri)
    finally:
        weights.write_bytes(before)
    assert code == 1
    assert "grad_W: 1 of 3 values differ" in printed
    assert "train/mse: 1 of 20 points differ, by at most 1; the first, step 10" in printed
    answer = printed[printed.index(one.info.run_id) :].splitlines()
    said = [line.split(":")[0] for line in answer if not line.startswith(STAGES_SAY)]
    assert said == [one.info.run_id, "  weights_md5", "  grad_W", "  train/mse"]


@pytest.mark.parametrize("points", [{}, {10: None}, {20: 1.0}])
def test_a_lost_point_and_one_too_many_are_differences(
    small: Path, monkeypatch: pytest.MonkeyPatch, points: dict[int, float | None]
) -> None:
    enter(small, monkeypatch)
    record = records.read_evaluated(["matrix"])[0]
    [one] = search(default_store(small), f"tags.fingerprint = '{record.run.fingerprint}'")
    stored = queries.recall("regression", one.info.run_id)
    assert compare_bits(stored, record) == []
    kept = {step: value for step, value in {**stored.points, **points}.items() if points and value is not None}
    [difference] = compare_bits(replace(stored, points=kept), record)
    assert difference.startswith("train/mse")


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"git_commit": ""}, ["(none on record)"]),
        ({"git_commit": "0123456789" * 4}, ["git does not have its commit", "0123456789" * 4]),
        ({"role": "sweep"}, ["is not a run of this pipeline"]),
        ({"mlflow.parentRunId": "f" * 32}, ["f" * 32]),
    ],
)
def test_what_cannot_be_reproduced_says_which_part_is_gone(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tags: dict[str, str], said: list[str]
) -> None:
    uri = copy_store(small, tmp_path / "mlflow.db")
    [one] = search(uri, "params.variant = 'matrix' and params.batch_size = '2'")
    for key, value in tags.items():
        MlflowClient(uri).set_tag(one.info.run_id, key, value)
        if not value:
            MlflowClient(uri).delete_tag(one.info.run_id, key)
    enter(small, monkeypatch)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(InputError) as refused:
        main(["reproduce", one.info.run_id])
    assert all(part in str(refused.value) for part in (one.info.run_id, *said))


def test_an_unknown_run_gets_a_message(small: Path) -> None:
    result = run("pipeline", "reproduce", "0" * 32, cwd=small, check=False)
    assert (result.returncode, result.stdout) == (1, "")
    assert f"Run with id={'0' * 32} not found" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_raw_table_outside_of_the_repository_is_never_written(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(small, monkeypatch)
    table, then = tmp_path / "own.csv", b"quiz1,quiz2,quiz3,final\n1,2,3,4\n"
    table.write_text("edited since")
    md5 = hashlib.md5(then).hexdigest()
    cached = small / ".dvc/cache/files/md5" / md5[:2] / md5[2:]  # as `dvc add` leaves it
    cached.parent.mkdir(exist_ok=True)
    cached.write_bytes(then)
    stored = queries.recall("regression", search(default_store(small))[0].info.run_id)
    tags = {**stored.tags, "source_md5": md5, "data_md5": "0" * 32}
    (tmp_path / "new").mkdir()
    write_params(stored, parse_params(stored), tmp_path / "new")
    try:
        with pytest.raises(InputError):
            place_data(replace(stored, tags=tags), str(table), tmp_path / "new")
    finally:
        cached.unlink()
    assert table.read_text() == "edited since"


def test_a_table_that_was_edited_since_does_not_hinder_prepared_data_of_the_record(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(small, monkeypatch)
    stored = queries.recall("regression", search(default_store(small))[0].info.run_id)
    params = parse_params(stored)
    params["data"]["source"] = TABLE
    (tmp_path / "own.csv").write_text("edited since")
    (tmp_path / "new").mkdir()
    write_params(stored, params, tmp_path / "new")
    place_data(stored, str(tmp_path / "own.csv"), tmp_path / "new")
    monkeypatch.chdir(tmp_path / "new")
    assert len(check_prepared(load().data)) == 6
