"""What a record says of the working tree: its difference from the commit, whatever lies in the tree."""

from pathlib import Path

import pytest
from conftest import run

from pipeline.system import repository


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit, one edited file and one new one."""
    run("git", "init", "--quiet", cwd=tmp_path)
    (tmp_path / "kept.txt").write_text("as it was\n")
    run("git", "add", "--all", cwd=tmp_path)
    run("git", "commit", "--quiet", "--message", "First", cwd=tmp_path)
    (tmp_path / "kept.txt").write_text("edited\n")
    (tmp_path / "new.txt").write_text("new\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def patched_copy(tree: Path, folder: Path) -> dict[str, str]:
    """Apply the patch to a clone, as a person would; return its files."""
    patch = folder / "changes.patch"
    patch.write_bytes(repository.changes())
    run("git", "clone", "--quiet", str(tree), str(folder / "clone"), cwd=folder)
    run("git", "apply", str(patch), cwd=folder / "clone")
    return {path.name: path.read_text() for path in (folder / "clone").glob("*.txt")}


def test_the_patch_makes_the_tree_of_its_commit(
    tree: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = {"kept.txt": "edited\n", "new.txt": "new\n"}
    assert patched_copy(tree, tmp_path_factory.mktemp("copy")) == expected
    assert capsys.readouterr().err == ""


def test_a_repository_without_a_commit_in_the_tree_costs_a_warning_and_nothing_else(
    tree: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    run("git", "init", "--quiet", "embedded", cwd=tree)
    (tree / "embedded/own.txt").write_text("own\n")
    expected = {"kept.txt": "edited\n", "new.txt": "new\n"}
    assert patched_copy(tree, tmp_path_factory.mktemp("copy")) == expected
    said = capsys.readouterr().err
    assert said.startswith("WARNING: ")
    assert "embedded" in said
    assert repository.code_tags()["git_dirty"] == "true"


def test_a_git_that_fails_costs_a_warning(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = run("git", "rev-parse", "HEAD^{tree}", cwd=tree).stdout.strip()
    (tree / ".git/objects" / root[:2] / root[2:]).unlink()
    assert repository.changes() == b""
    assert capsys.readouterr().err.startswith("WARNING: ")
