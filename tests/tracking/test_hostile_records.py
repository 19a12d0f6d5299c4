"""A record is data that others may have written: `pipeline reproduce` checks it, and runs none of it unasked."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from hashlib import md5, sha256
from pathlib import Path

import numpy as np
import pytest
from conftest import calls_of, default_store, enter, environment, run, search, until
from fuzz_records import BOMB, copy_records, fuzz
from safetensors.numpy import load, save

from pipeline.commands import reproduce, revisions, worktrees
from pipeline.errors import InputError
from pipeline.runs import outs, records
from pipeline.system import repository
from pipeline.table.prepared import Prepared
from pipeline.tracking import queries
from pipeline.tracking.validation import StoredRecord, check_tags

OBJECT = "1" * 40
CONDITION = "params.variant = 'matrix' and params.batch_size = '2'"


@pytest.fixture
def stored(small: Path, monkeypatch: pytest.MonkeyPatch) -> StoredRecord:
    """An honest record, as it is read in its repository."""
    enter(small, monkeypatch)
    return queries.recall("regression", search(default_store(small), CONDITION)[0].info.run_id)


def patched(stored: StoredRecord, patch: str | bytes) -> StoredRecord:
    """Give a record a patch, under the name of its hash."""
    content = patch.encode() if isinstance(patch, str) else patch
    title = f"{sha256(content).hexdigest()[:12]}.patch"
    return replace(
        stored, patch=content, tags={**stored.tags, "git_changes": title}, patch_uri=f"file:///store/{title}"
    )


def new_file(path: str, mode: str = "100644", line: str = "print(1)") -> str:
    return (
        f"diff --git a/{path} b/{path}\nnew file mode {mode}\nindex 0000000..1111111\n--- /dev/null\n+++ b/{path}\n"
        f"@@ -0,0 +1 @@\n+{line}\n"
    )


def message(ask: Callable[[], object]) -> str:
    with pytest.raises(InputError) as refused:
        ask()
    return str(refused.value)


@pytest.mark.parametrize("run_id", ["../x", "", "é" * 32, "A" * 32, "0" * 32 + "\n", "0" * 33, "\udcff"])
def test_an_odd_run_id_is_refused_before_the_store_is_asked(run_id: str) -> None:
    assert "is not a run id" in message(lambda: queries.recall("regression", run_id))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data_md5", "../../../victim.txt"),
        ("source_md5", "0" * 31 + "G"),
        ("git_commit", "--upload-pack=touch victim"),
        ("git_commit", "HEAD"),
        ("git_changes", "../../params.yaml"),
        ("fingerprint", "' or 1=1 --"),
        ("mlflow.parentRunId", "x"),
        ("torch", ""),
        ("weights_md5", "x" * 6000),
        ("contradicts", "../x"),
        ("record_format", "two"),
    ],
)
def test_a_tag_of_another_form_is_named_and_nothing_is_touched(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: str
) -> None:
    enter(small, monkeypatch)
    uri = copy_records(small, tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    run_id = search(uri, CONDITION)[0].info.run_id
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as table, table:
        table.execute("INSERT OR REPLACE INTO tags (value, run_uuid, key) VALUES (?, ?, ?)", [value, run_id, key])
    assert f"{run_id}: tag {key}: got" in message(lambda: reproduce.reproduce("regression", [run_id], True, True))


def test_a_record_of_a_newer_format_says_that_it_needs_a_newer_version(stored: StoredRecord) -> None:
    check_tags(stored.run_id, stored.tags)
    assert stored.tags["record_format"] == "2"
    said = message(lambda: check_tags(stored.run_id, {**stored.tags, "record_format": "3"}))
    assert "format 3" in said
    assert "update the pipeline" in said


def test_what_is_no_md5_never_becomes_a_path(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(small, monkeypatch)
    victim = small / ".dvc/cache/victim.txt"
    victim.write_text("mine")
    try:
        assert "is not an md5" in message(lambda: revisions.content("../../victim.txt"))
        assert victim.read_text() == "mine"
    finally:
        victim.unlink()


@pytest.mark.parametrize(
    ("patch", "named"),
    [
        (new_file("data/prepared", "120000", "/tmp"), "data/prepared (a link)"),
        (new_file("sub", "160000", f"Subproject commit {OBJECT}"), "sub (a submodule)"),
        ("diff --git a/params.yaml b/params.yaml\nold mode 100644\nnew mode 120000\n", "of params.yaml"),
        (new_file("../outside.py"), "../outside.py"),
        (new_file("/outside.py").replace("a//", "//").replace("b//", "//"), "outside.py"),
        (new_file(".git/hooks/post-checkout", "100755"), ".git/hooks/post-checkout"),
        (new_file("sub/.GIT/config"), "sub/.GIT/config"),
        (new_file(".dvc/config"), ".dvc/config"),
        (new_file("sub/.Dvc/config.local"), "sub/.Dvc/config.local"),
        (new_file(".gitattributes", line="* filter=x"), ".gitattributes"),
        (new_file("sub/.gitmodules"), "sub/.gitmodules"),
        (new_file(".lfsconfig"), ".lfsconfig"),
        ("no patch", "No valid patches"),
        (b"\xff\x00", "No valid patches"),
    ],
)
def test_a_patch_that_reaches_beyond_the_code_is_refused_by_name_whatever_is_allowed(
    stored: StoredRecord, patch: str | bytes, named: str
) -> None:
    before = run("git", "count-objects", cwd=Path.cwd()).stdout
    said = message(lambda: worktrees.permit(patched(stored, patch), True, True))
    assert said.startswith(stored.run_id)
    assert named in said
    assert run("git", "count-objects", cwd=Path.cwd()).stdout == before


def test_a_link_renamed_or_rewritten_by_a_patch_is_refused(stored: StoredRecord) -> None:
    commit = commit_with(Path.cwd(), {"table": "/etc/passwd"})
    for path in ("table", "data/prepared"):
        body = "--- a/table\n+++ b/table\n@@ -1 +1 @@\n-/etc/passwd\n\\ No newline at end of file\n+/etc\n"
        rename = "similarity index 100%\nrename from table\nrename to data/prepared\n"
        text = f"diff --git a/table b/{path}\n{body if path == 'table' else rename}"
        record = replace(patched(stored, text), tags={**patched(stored, text).tags, "git_commit": commit})
        assert f"{path} (a link)" in message(lambda record=record: worktrees.permit(record, True, True))  # type: ignore[misc]


def test_a_patch_whose_name_is_not_its_hash_is_refused(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(small, monkeypatch)
    uri = copy_records(small, tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    one = search(uri, CONDITION)[0]
    title = f"{'0' * 12}.patch"
    (tmp_path / "mlartifacts" / one.data.tags["mlflow.parentRunId"] / "artifacts" / title).write_text(new_file("a.py"))
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as table, table:
        table.execute("INSERT INTO tags (value, run_uuid, key) VALUES (?, ?, 'git_changes')", [title, one.info.run_id])
    assert "does not have the hash in its name" in message(lambda: queries.recall("regression", one.info.run_id))


def test_a_patch_is_run_only_when_a_switch_or_the_answer_at_the_terminal_allows_it(
    stored: StoredRecord, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record = patched(stored, new_file("evil.py", line="import os  # \x1b[2K \u202e"))
    worktrees.permit(record, True, False)
    said = message(lambda: worktrees.permit(record, False, True))
    assert all(part in said for part in ("--allow-patch", "evil.py", record.patch_uri))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    for answer, allowed in {"y": True, "": False, "no": False}.items():
        monkeypatch.setattr("builtins.input", lambda _, answer=answer: answer)
        if allowed:
            worktrees.permit(record, False, False)
        else:
            assert "not run" in message(lambda: worktrees.permit(record, False, False))
    shown = capsys.readouterr().out
    assert "+import os  # \\x1b[2K \\u202e" in shown
    assert "\x1b" not in shown


def commit_with(repository: Path, links: dict[str, str]) -> str:
    """Make a commit that no branch reaches: HEAD, and links (path -> target) in it."""
    index = {"GIT_INDEX_FILE": str(repository / ".git/hostile-index")}
    run("git", "read-tree", "HEAD", cwd=repository, extra=index)
    for path, target in links.items():
        made = subprocess.run(
            ["git", "hash-object", "-w", "--stdin"],
            cwd=repository,
            input=target.encode(),
            capture_output=True,
            check=True,
        ).stdout.decode()
        run("git", "rm", "--cached", "--quiet", "--ignore-unmatch", path, cwd=repository, extra=index)
        entry = f"120000,{made.strip()},{path}"
        run("git", "update-index", "--add", "--cacheinfo", entry, cwd=repository, extra=index)
    tree = run("git", "write-tree", cwd=repository, extra=index).stdout.strip()
    return run("git", "commit-tree", tree, "-p", "HEAD", "-m", "hostile", cwd=repository).stdout.strip()


@pytest.mark.parametrize("ref", ["refs/heads/hostile", "refs/tags/hostile", "refs/exps/00/hostile"])
def test_a_commit_that_no_ref_of_the_user_reaches_is_asked_for(stored: StoredRecord, ref: str) -> None:
    commit = commit_with(Path.cwd(), {"link": "/etc"})
    record = replace(stored, tags={**stored.tags, "git_commit": commit})
    run("git", "update-ref", "refs/remotes/origin/hostile", commit, cwd=Path.cwd())
    try:
        assert "--allow-commit" in message(lambda: worktrees.permit(record, True, False))
        worktrees.permit(record, False, True)
        run("git", "update-ref", ref, commit, cwd=Path.cwd())
        worktrees.permit(record, False, False)
    finally:
        run("git", "update-ref", "-d", "refs/remotes/origin/hostile", cwd=Path.cwd())
        run("git", "update-ref", "-d", ref, cwd=Path.cwd())


def test_nothing_is_written_through_a_link_of_the_commit(stored: StoredRecord, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "params.yaml").write_text("mine")
    links = {"data/prepared": str(tmp_path / "folder"), "params.yaml": str(tmp_path / "params.yaml")}
    commit = commit_with(Path.cwd(), links)
    record = replace(stored, tags={**stored.tags, "git_commit": commit})
    with worktrees.worktree(record) as folder:
        assert not [path for path in folder.rglob("*") if path.is_symlink()]
        reproduce.write_params(record, {"a": 1}, folder)
        said = message(lambda: reproduce.place_data(record, "x", folder))
        assert "data/prepared is a link or a file" in said
        (folder / "made").symlink_to(tmp_path / "folder")  # as only code of the commit could
        assert "made is a link" in message(lambda: worktrees.write(record, folder, Path("made/x"), b""))
    assert (tmp_path / "params.yaml").read_text() == "mine"
    assert list((tmp_path / "folder").iterdir()) == []


def test_no_hook_runs_when_a_run_is_checked_out(stored: StoredRecord, tmp_path: Path) -> None:
    hook = Path.cwd() / ".git/hooks/post-checkout"
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path / 'ran'}\n")
    hook.chmod(0o755)
    try:
        with worktrees.worktree(stored):
            assert not (tmp_path / "ran").exists()
    finally:
        hook.unlink()


@pytest.mark.parametrize(
    "source", ["../own.csv", "/etc/passwd", "data/../../own.csv", "link", "pipe", "\0", "x" * 5000, "data"]
)
def test_a_table_is_read_only_below_the_repository(tmp_path: Path, source: str) -> None:
    folder = tmp_path / "repository"
    (folder / "data").mkdir(parents=True)
    (tmp_path / "own.csv").write_text("a")
    (folder / "link").symlink_to(tmp_path / "own.csv")
    os.mkfifo(folder / "pipe")
    (folder / "data/own.csv").write_text("a")
    assert reproduce.inside(folder, source) is None
    assert reproduce.inside(folder, "data/own.csv") == (folder / "data/own.csv").resolve()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "aliases"),
        ("a: &a [*a]", "contains itself"),
        ("[" * 5000, "is nested more than"),
        ("- 1", "does not list the run's variant"),
        ("", "does not list the run's variant"),
        ("variants: !!bool maybe", "is not YAML"),
        ("variants: [matrix]\ntrain: 5", "train: got 5"),
    ],
    ids=lambda value: value[:20],
)
def test_params_that_are_a_bomb_or_none_are_refused_with_little_work(
    stored: StoredRecord, text: str, said: str
) -> None:
    hostile = replace(stored, params_yaml=text)
    refused = message(lambda: reproduce.parse_params(hostile))
    assert refused.startswith(stored.run_id)
    assert said in refused
    looks_back = (
        3_000_000 if text.startswith("[[") else 20_000
    )  # ruamel, over 1,024 brackets for each, however many follow
    most = looks_back + 200 * len(text)
    assert calls_of(lambda: message(lambda: reproduce.parse_params(hostile))) < most


def weights_of(stored: StoredRecord) -> bytes:
    """Forge a weights file of the right form."""
    tensors = load(stored.weights)
    forged: bytes = save(tensors | {"W": tensors["W"] + np.float32(1)})
    return forged


@pytest.mark.parametrize(
    ("forge", "named"),
    [
        (lambda s: {"metrics": {**s.metrics, "cv/mse": 0.1}}, ["cv/mse: 0.1 on record"]),
        (lambda s: {"metrics": {**s.metrics, "train/mse": 0.1}}, ["train/mse: 0.1 on record"]),
        (lambda s: {"metrics": {"train/mse": s.metrics["train/mse"]}}, ["cv/mae: nothing on record", "cv/r2: nothing"]),
        (lambda s: {"tags": {key: s.tags[key] for key in s.tags if key != "weights_md5"}}, ["weights_md5: nothing"]),
        (lambda s: {"tags": {**s.tags, "fingerprint": "0" * 32}}, ["fingerprint: 000"]),
        (lambda s: {"tags": {**s.tags, "diverged": "fold 1, epoch 2"}}, ["diverged: fold 1"]),
        (lambda _: {"status": "RUNNING"}, ["status: RUNNING on record, FINISHED now"]),
        (lambda s: {"params": {**s.params, "lr": "0.5"}}, ["lr: '0.5' on record"]),
        (lambda s: {"params": {**s.params, "data.split.seed": "7"}}, ["data.split.seed: '7' on record"]),
        (lambda s: {"points": {**s.points, 3: 0.0}}, ["train/mse: 1 of 20 points differ"]),
        (
            lambda s: {
                "weights": weights_of(s),
                "tags": {**s.tags, "weights_md5": md5(weights_of(s)).hexdigest()},
            },
            ["W: 18 of 18 values differ, by at most 1"],
        ),
        (lambda s: {"weights": save(load(s.weights), {"note": "x"})}, ["weights_md5:", "the file around them is not"]),
    ],
)
def test_a_forged_part_of_a_record_is_named(
    stored: StoredRecord,
    monkeypatch: pytest.MonkeyPatch,
    forge: Callable[[StoredRecord], dict[str, object]],
    named: Sequence[str],
) -> None:
    made = records.read_evaluated(["matrix"])
    monkeypatch.setattr(reproduce, "make", lambda _: (made, Prepared.load(outs.PREPARED)))
    forged = replace(stored, **forge(stored))  # type: ignore[arg-type]
    for record, differences in ((stored, []), (forged, named)):
        monkeypatch.setattr(queries, "recall", lambda *_, record=record: record)
        found = reproduce.reproduce("regression", [stored.run_id])[stored.run_id].differences
        assert all(any(part in line for line in found) for part in differences)
        assert bool(found) == bool(differences)


def test_altered_records_end_in_a_message_and_never_in_a_traceback_or_hang(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(small, monkeypatch)
    answers = list(fuzz(small, tmp_path, range(40), monkeypatch))
    assert [answer for answer in answers if answer[2] not in {"refused", "differs", "same"}] == []
    assert sum(said == "refused" for *_, said in answers) > 10


def test_what_a_killed_reproduce_left_is_removed_by_the_next_and_only_that(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(small, monkeypatch)
    run_id = search(default_store(small), CONDITION)[0].info.run_id
    temporary = environment(TMPDIR=str(tmp_path))
    killed = subprocess.Popen(["pipeline", "reproduce", run_id], cwd=small, env=temporary, stdout=subprocess.DEVNULL)
    until(lambda: list(tmp_path.glob("pipeline-reproduce-*/worktree/mlflow.db")))
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    mine = tmp_path / "worktree"
    run("git", "worktree", "add", "--detach", str(mine), cwd=small)
    living = tmp_path / f"{worktrees.prefix()}abc"
    living.mkdir()
    assert "pipeline-reproduce" in (repository.git("worktree", "list") or "")
    after = run("pipeline", "reproduce", "odd", cwd=small, extra={"TMPDIR": str(tmp_path)}, check=False)
    listed = repository.git("worktree", "list") or ""
    run("git", "worktree", "remove", str(mine), cwd=small)
    assert "is not a run id" in after.stderr
    assert "pipeline-reproduce" not in listed
    assert str(mine) in listed
    time.sleep(1)  # a stage that lived on would make its folder anew
    assert list(tmp_path.glob("pipeline-reproduce-*")) == [living]
