"""DVC's own files are whole at any moment, so that a kill at any moment leaves none that DVC cannot read."""

import json
import subprocess
from pathlib import Path

import pytest
from conftest import environment
from dvc.repo import Repo
from ruamel.yaml import YAML


def test_whoever_reads_the_files_while_dvc_runs_reads_them_whole(clone: Path) -> None:
    (clone / "dvc.lock").unlink()
    files, seen = (clone / "dvc.lock", clone / ".dvc/tmp/rwlock"), (set[bytes](), set[bytes]())
    dvc = subprocess.Popen(["dvc", "repro", "--quiet", "prepare"], cwd=clone, env=environment())
    while dvc.poll() is None:
        for _ in range(1000):
            for file, contents in zip(files, seen, strict=True):
                if file.exists():
                    contents.add(file.read_bytes())
    assert dvc.returncode == 0
    locks, rwlocks = ([content.decode() for content in contents] for contents in seen)
    assert [list(YAML(typ="safe").load(lock)["stages"]) for lock in locks] == [["prepare"]]
    states = [json.loads(state) for state in rwlocks]
    assert any("write" in state for state in states)
    assert not list(clone.rglob(".*.tmp"))


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    with Repo.init(str(tmp_path), no_scm=True) as repo:
        (file := tmp_path / "file").write_text("before")
        with pytest.raises(ZeroDivisionError), repo.fs.open(str(file), "w", encoding="utf-8") as writing:
            writing.write(str(1 / 0))
        assert file.read_text() == "before"
        with repo.fs.open(str(file), "w", encoding="utf-8") as writing:
            writing.write("after: é\n")
            assert file.read_text() == "before"
        assert file.read_bytes() == "after: é\n".encode()
        with repo.fs.open(str(file), "ab") as appending:
            appending.write(b"more\n")
        assert file.read_bytes() == "after: é\nmore\n".encode()
        assert sorted(path.name for path in tmp_path.iterdir()) == [".dvc", ".dvcignore", "file"]
