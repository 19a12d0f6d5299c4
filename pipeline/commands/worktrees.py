"""Checks out a run's code into a folder of its own; first asks whether to run code that is not the user's own."""

import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import psutil

from pipeline.errors import InputError, readable, shown
from pipeline.system import processes, repository
from pipeline.tracking.validation import StoredRecord

# Links become plain files that hold their target, so that nothing can be written through one; git runs no hook.
SAFE = ["-c", "core.symlinks=false", "-c", f"core.hooksPath={os.devnull}"]
APPLY = ["apply", "--binary", "--whitespace=nowarn"]
# With these, git itself runs filters, or fetches from other places.
GITS_OWN = {".gitattributes", ".gitmodules", ".lfsconfig"}
FOLDER = re.compile(r"pipeline-reproduce-([0-9a-f]{8})-([0-9]{1,10})-([0-9.]{1,20})-\w+")


def permit(stored: StoredRecord, allow_patch: bool, allow_commit: bool) -> None:
    """Check that a run's code may be run: it is the user's own, or an option or the user at the terminal allows it.

    Raises:
        InputError: it may not, git cannot apply its patch, or the patch makes links or submodules, or changes files of
            git or DVC.
    """
    name, commit = stored.run_id, stored.commit
    if not commit or repository.git("cat-file", "-e", f"{commit}^{{commit}}") is None:
        raise InputError(f"{name}: git does not have its commit {commit or '(none on record)'}; fetch it first")
    if not allow_commit and not is_reached(commit):
        what = f"{name}: its commit {commit} is in no local branch, tag or DVC experiment"
        show = f"to read it: git show {commit}"
        shown_commit = repository.git("show", "--stat", "--no-color", commit) or ""
        ask(what, show, "--allow-commit", shown_commit.encode("utf-8", "surrogateescape"))
    if stored.patch:
        files = patched_files(stored)
        if not allow_patch:
            what = f"{name}: its record contains changes that are in no commit: {', '.join(files)}"
            ask(what, f"to read it: {stored.patch_uri}", "--allow-patch", stored.patch)


def is_reached(commit: str) -> bool:
    """Tell whether a local branch, a tag, a DVC experiment or the checked-out commit reaches a commit."""
    refs = repository.git("for-each-ref", "--count=1", "--contains", commit, "refs/heads", "refs/tags", "refs/exps")
    return bool(refs) or repository.git("merge-base", "--is-ancestor", commit, "HEAD") is not None


def ask(what: str, show: str, switch: str, code: bytes) -> None:
    """Show code from a record, and ask whether to run it; without a terminal, the answer is no."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise InputError(f"{what}\n  {show}\n  to run it: pipeline reproduce {switch}")
    print(f"{readable(code)}\n{what}")
    if input("Run this code? [y/N] ").strip().lower() not in {"y", "yes"}:
        raise InputError(f"{what}: not run")


def patched_files(stored: StoredRecord) -> list[str]:
    """List the files that a patch changes, as git itself reads the patch; refuse a patch that could reach others."""
    # In a subfolder git would leave out the files above.
    top = Path(repository.git("rev-parse", "--show-toplevel") or ".")
    with repository.separate_index() as own:
        git(stored, top, "read-tree", stored.commit, env=own)
        git(stored, top, *APPLY, "--cached", "-", given=stored.patch, env=own)
        raw = git(stored, top, "diff-index", "--cached", "--raw", "--no-renames", "-z", stored.commit, env=own)
    parts = raw.decode("utf-8", "surrogateescape").split("\0")
    modes = {path: line.split()[1] for line, path in zip(parts[::2], parts[1::2], strict=False)}
    refused = [f"{shown(path)[1:-1]} ({why})" for path, mode in modes.items() if (why := refusal(path, mode))]
    if refused:
        raise InputError(f"{stored.run_id}: its patch is refused: {'; '.join(refused)}")
    return [shown(path)[1:-1] for path in modes]


def refusal(path: str, mode: str) -> str:
    """Return why a patch may not give a file this mode; empty if it may."""
    names = [part.rstrip(". ").lower() for part in path.split("/")]
    if mode in {"120000", "160000"}:
        return "a link" if mode == "120000" else "a submodule"
    if ".." in path.split("/") or path.startswith("/"):
        return "outside the tree"
    if {".git", ".dvc"} & set(names) or names[-1] in GITS_OWN:
        return "a file of git or DVC"
    return ""


@contextmanager
def worktree(stored: StoredRecord) -> Iterator[Path]:
    """Check out a run's commit, and apply its patch, in a folder that is removed afterwards.

    Raises:
        InputError: git fails.
    """
    with tempfile.TemporaryDirectory(prefix=prefix()) as temporary:
        folder, here = Path(temporary).resolve() / "worktree", Path.cwd()
        try:
            git(stored, here, "worktree", "add", "--quiet", "--detach", str(folder), stored.commit)
            if stored.patch:
                git(stored, folder, *APPLY, "-", given=stored.patch)
            yield folder
        finally:
            _remove(folder)


def prefix() -> str:
    """Name a temporary folder after this process, so that a later process can tell whether it is stale."""
    tags = processes.process_tags(os.getpid())
    return f"pipeline-reproduce-{_host()}-{tags['pid']}-{tags['pid_started']}-"


def _remove(folder: Path) -> None:
    _stop_stages(folder.parent)  # a killed stage leaves its storing process behind
    repository.git("worktree", "remove", "--force", str(folder))


def _host() -> str:
    return sha256(processes.host().encode()).hexdigest()[:8]


def remove_leftovers() -> None:
    """Remove the worktrees that a killed `pipeline reproduce` left on this host, and stop the stages in them."""
    listed = repository.git("worktree", "list", "--porcelain") or ""
    paths = [Path(line.removeprefix("worktree ")) for line in listed.splitlines() if line.startswith("worktree ")]
    folders = {path.parent for path in paths if path.name == "worktree"}
    for folder in sorted(folders | set(Path(tempfile.gettempdir()).resolve().glob("pipeline-reproduce-*"))):
        if _is_left_over(folder):
            _remove(folder / "worktree")
            shutil.rmtree(folder, ignore_errors=True)


def _is_left_over(folder: Path) -> bool:
    found = FOLDER.fullmatch(folder.name)
    if not found or found[1] != _host() or folder.is_symlink():
        return False
    if folder.exists() and folder.stat().st_uid != os.getuid():
        return False
    tags = {"host": processes.host(), "pid": found[2], "pid_started": found[3]}
    return not processes.is_alive(tags, 0.0)


def _stop_stages(folder: Path) -> None:
    stages = []
    for process in psutil.process_iter(["cwd", "cmdline"]):
        cwd, command = process.info["cwd"] or "", process.info["cmdline"] or []
        if Path(cwd).is_relative_to(folder) and any(part.startswith("pipeline.") for part in command[1:4]):
            process.kill()
            stages.append(process)
    psutil.wait_procs(stages, timeout=3)  # otherwise they write into what is being removed


def git(
    stored: StoredRecord, folder: Path, *arguments: str, given: bytes = b"", env: Mapping[str, str] | None = None
) -> bytes:
    """Run git safely in a folder; return its output."""
    command = ["git", *SAFE, *arguments]
    result = subprocess.run(command, cwd=folder, env=env, input=given, capture_output=True, check=False)
    if result.returncode != 0:
        raise InputError(f"{stored.run_id}: git {' '.join(arguments)}: {readable(result.stderr).strip()}")
    return result.stdout


def write(stored: StoredRecord, folder: Path, path: Path, content: bytes) -> None:
    """Write a file of a worktree, replacing what is there, through no link.

    Raises:
        InputError: a folder above it is a link, or a file.
    """
    for parent in reversed(path.parents[:-1]):
        above = folder / parent
        if not os.path.lexists(above):
            above.mkdir()
        elif not stat.S_ISDIR(above.lstat().st_mode):
            raise InputError(f"{stored.run_id}: at its commit {parent} is a link or a file, not a folder")
    (folder / path).unlink(missing_ok=True)
    descriptor = os.open(folder / path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
