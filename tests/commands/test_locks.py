"""`pipeline doctor --mend` makes DVC go on where it stopped at a lock file, and leaves alone what DVC can read."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from conftest import enter, environment, reproduce, run
from dvc.exceptions import DvcException
from dvc.repo import Repo

from pipeline.__main__ import main
from pipeline.commands import locks
from pipeline.errors import InputError

STAGE = "stages:\n  copy:\n    cmd: sleep 0; cp a b\n    deps: [a]\n    params: [n]\n    outs: [b]\n"
CONFLICT = "<<<<<<< HEAD\nschema: '2.0'\n=======\nschema: '2.0'\n>>>>>>> other\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with one small stage, and its dvc.lock committed."""
    folder = tmp_path_factory.mktemp("locks") / "repository"
    folder.mkdir()
    run("git", "init", "--quiet", cwd=folder)
    run("dvc", "init", "--quiet", cwd=folder)
    for name, text in {"dvc.yaml": STAGE, "a": "one\n", "params.yaml": "n: 1\n"}.items():
        (folder / name).write_text(text)
    run("dvc", "repro", "--quiet", cwd=folder)
    run("git", "add", "--all", cwd=folder)
    run("git", "commit", "--quiet", "--message", "One stage", cwd=folder)
    return folder


@pytest.fixture
def repository(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = shutil.copytree(made, tmp_path / "repository")
    enter(folder, monkeypatch)
    return folder


def goes_on(repository: Path) -> bool:
    """Tell whether DVC reads its lock file."""
    try:
        with Repo(str(repository)) as repo:
            repo.status()
    except (DvcException, NotImplementedError):
        return False
    return True


def rerun(repository: Path) -> None:
    reproduce()
    assert (repository / "b").read_bytes() == (repository / "a").read_bytes()


def test_wherever_dvc_lock_is_cut_it_is_restored_if_and_only_if_dvc_stops_at_it(repository: Path) -> None:
    lock, kept = repository / "dvc.lock", repository / locks.BROKEN
    whole = lock.read_bytes()
    outcomes = set()
    for cut in range(0, len(whole), 5):
        lock.write_bytes(whole[:cut])
        read = goes_on(repository)
        said = locks.mend(repository)
        assert (said == []) == read, whole[:cut]
        assert lock.read_bytes() == (whole[:cut] if read else whole)
        if not read:
            assert kept.read_bytes() == whole[:cut]
            assert said == [f"dvc.lock: was unreadable; restored from git's index; the broken one is {locks.BROKEN}"]
        outcomes.add(read)
    assert outcomes == {True, False}
    lock.write_bytes(whole)
    assert run("git", "status", "--porcelain", cwd=repository).stdout == ""


@pytest.mark.parametrize("half", ["", '{"write": {"/b": {"pid": 12', "[]", "\0\0\0"])
def test_a_half_written_rwlock_is_removed(repository: Path, half: str, capsys: pytest.CaptureFixture[str]) -> None:
    (repository / "a").write_text("two\n")
    (repository / locks.RWLOCK).write_text(half)
    with pytest.raises(DvcException):
        reproduce()
    main(["doctor", "--mend"])
    assert capsys.readouterr().out == ".dvc/tmp/rwlock: was half-written; removed\n"
    rerun(repository)
    main(["doctor", "--mend"])
    assert capsys.readouterr().out == "DVC's lock files: nothing to mend\n"


def test_a_dvc_lock_that_dvc_can_read_is_never_lost(repository: Path) -> None:
    (repository / "a").write_text("two\n")
    rerun(repository)
    before = (repository / "dvc.lock").read_bytes()
    assert b"dvc.lock" in run("git", "status", "--porcelain", cwd=repository).stdout.encode()
    (repository / locks.RWLOCK).write_text("")
    assert len(locks.mend(repository)) == 1
    assert (repository / "dvc.lock").read_bytes() == before


def test_what_is_staged_is_newer_than_the_commit_unless_it_is_broken_too(repository: Path) -> None:
    lock = repository / "dvc.lock"
    committed = lock.read_bytes()
    (repository / "a").write_text("two\n")
    rerun(repository)
    staged = lock.read_bytes()
    run("git", "add", "dvc.lock", cwd=repository)
    lock.write_text("")
    lock.chmod(0o664)
    locks.mend(repository)
    assert (lock.read_bytes(), lock.stat().st_mode & 0o777) == (staged, 0o664)
    lock.write_text("")
    run("git", "add", "dvc.lock", cwd=repository)
    assert "git's commit" in locks.mend(repository)[0]
    assert lock.read_bytes() == committed != staged


def test_the_sides_of_a_merge_are_left_to_the_user(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for branch, content in {"theirs": "two\n", "master": "three\n"}.items():
        run("git", "checkout", "-q", *(["-b", branch] if branch == "theirs" else ["-"]), cwd=repository)
        (repository / "a").write_text(content)
        rerun(repository)
        run("git", "commit", "-qam", content, cwd=repository)
    assert run("git", "merge", "theirs", cwd=repository, check=False).returncode == 1
    (repository / "a").write_text("three\n")
    conflict = (repository / "dvc.lock").read_text()
    assert "<<<<<<< " in conflict
    with pytest.raises(InputError, match="both sides of a merge; take one"):
        main(["doctor", "--mend"])
    assert capsys.readouterr().out == ""
    assert (repository / "dvc.lock").read_text() == conflict
    run("git", "checkout", "--ours", "dvc.lock", cwd=repository)
    assert locks.mend(repository) == []
    rerun(repository)


@pytest.mark.parametrize("git", [True, False])
def test_where_git_has_no_dvc_lock_the_broken_one_makes_room(repository: Path, git: bool) -> None:
    if git:
        run("git", "rm", "--quiet", "--cached", "dvc.lock", cwd=repository)
        run("git", "commit", "--quiet", "--message", "No lock", cwd=repository)
    else:
        shutil.rmtree(repository / ".git")
        run("dvc", "config", "core.no_scm", "true", cwd=repository)
    (repository / "dvc.lock").write_text("schema: '2.0'\nstages: {")
    assert "git has no other" in locks.mend(repository)[0]
    assert (repository / locks.BROKEN).read_text() == "schema: '2.0'\nstages: {"
    rerun(repository)
    assert goes_on(repository)


def test_outside_of_a_repository_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(tmp_path, monkeypatch)
    with pytest.raises(InputError, match="no folder above has"):
        main(["doctor", "--mend"])


@pytest.mark.parametrize("broken", ["dvc.lock", ".dvc/tmp/rwlock"])
def test_what_a_living_dvc_may_write_is_left_alone(repository: Path, broken: str) -> None:
    (repository / "dvc.yaml").write_text(STAGE.replace("sleep 0", "touch began; sleep 600"))
    dvc = subprocess.Popen(["dvc", "repro"], cwd=repository, env=environment(), start_new_session=True)
    try:
        while not (repository / "began").exists():
            assert dvc.poll() is None
            time.sleep(0.05)
        assert str(dvc.pid) in (repository / locks.RWLOCK).read_text()
        (repository / broken).write_text("{")
        with pytest.raises(InputError, match=f"DVC is running here \\(process {dvc.pid}\\)"):
            locks.mend(repository)
        assert (repository / broken).read_text() == "{"
    finally:
        os.killpg(dvc.pid, signal.SIGKILL)
        dvc.wait()
    assert len(locks.mend(repository)) == 1
    (repository / "dvc.yaml").write_text(STAGE)
    rerun(repository)


def test_while_a_dvc_writes_its_locks_are_waited_for(repository: Path) -> None:
    (repository / "dvc.lock").write_text("")
    with Repo(str(repository)) as repo, repo.lock, pytest.raises(InputError, match="has the lock"):
        locks.mend(repository)
    assert (repository / "dvc.lock").read_text() == ""


def test_a_process_that_a_half_of_rwlock_still_names_is_alive_if_it_is_older(repository: Path) -> None:
    rwlock, me = repository / locks.RWLOCK, psutil.Process()
    rwlock.write_text(json.dumps({"write": {"/b": {"pid": me.pid, "cmd": "a script that uses dvc.api"}}})[:-5])
    with pytest.raises(InputError, match=f"process {me.pid}"):
        locks.mend(repository)
    os.utime(rwlock, (me.create_time() - 10,) * 2)  # as where the number was given again
    assert len(locks.mend(repository)) == 1
