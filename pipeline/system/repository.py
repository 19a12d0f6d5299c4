"""Where the repository and its store are, and which code, stage and user a run comes from. Does not use MLflow."""

import getpass
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import InputError


def root() -> Path:
    """Find the real repository, even from a temporary DVC experiment's copy.

    DVC sets DVC_ROOT to it for every stage; elsewhere it is the nearest folder above that contains .dvc.
    """
    if given := os.environ.get("DVC_ROOT"):
        return Path(given)
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / ".dvc").is_dir()), here)


def enter() -> None:
    """Work in the repository's folder.

    Raises:
        InputError: the working folder is not in a repository.
    """
    if not (root() / ".dvc").is_dir():
        raise InputError(f"{Path.cwd()}: no repository is here: no folder above has .dvc in it")
    os.chdir(root())


def make_or_pull() -> str:
    """Say how to get outs that are missing here: from DVC's remote, if one is configured, or by making them."""
    files = [root() / ".dvc" / name for name in ("config", "config.local")]
    settings = "".join(file.read_text(encoding="utf-8") for file in files if file.is_file())
    remote = re.search(r"^\s*remote\s*=", settings, re.MULTILINE)  # the default one, in section core
    return "run: dvc pull, or dvc repro" if remote else "run: dvc repro"


def store_uri() -> str:
    """Return the tracking store's URI; a relative SQLite path starts at the repository, not at a copy of it."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    file = sqlite_file(uri)
    return uri if file is None else f"sqlite:///{root() / file}"


def sqlite_file(uri: str) -> Path | None:
    """Return the path of a SQLite store, or None for another kind of store."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def git(*arguments: str) -> str | None:
    """Run git in the working folder; return its output, or None if it fails."""
    try:
        answer = subprocess.run(["git", *arguments], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.decode("utf-8", "surrogateescape").strip("\n")


def code_tags() -> dict[str, str]:
    """Return the commit, whether the tree differs from it, and the DVC stage and experiment."""
    commit = git("rev-parse", "HEAD")
    status = git("status", "--porcelain", "--", *_compared())
    tags = {
        "git_commit": commit,
        "git_dirty": None if commit is None else str(bool(status)).lower(),
        "dvc_stage": os.environ.get("DVC_STAGE"),
        "dvc_experiment": os.environ.get("DVC_EXP_NAME"),
        "dvc_baseline": os.environ.get("DVC_EXP_BASELINE_REV"),
    }
    return {key: value for key, value in tags.items() if value}


def in_experiment() -> bool:
    """Tell whether this process is part of a DVC experiment."""
    return "DVC_EXP_NAME" in os.environ


def _compared() -> list[str]:
    # DVC rewrites dvc.lock as it runs, and an experiment puts its params.yaml over the baseline: neither is a change.
    # Nor is the store, wherever the user keeps it.
    left_out = ["dvc.lock", "params.yaml"] if in_experiment() else ["dvc.lock"]
    file = sqlite_file(store_uri())
    if file is not None and file.is_relative_to(Path.cwd()) and git("check-ignore", "--quiet", str(file)) is None:
        left_out.append(f"{file.relative_to(Path.cwd())}*")
    return [":/", *(f":(exclude,top){name}" for name in left_out)]


def user() -> str | None:
    """Return the name of this process's user; None for a user id without one, as in some containers."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return None


@contextmanager
def separate_index() -> Iterator[dict[str, str]]:
    """Yield an environment with a temporary index and object folder for git, so that the user's stay untouched."""
    objects = Path(git("rev-parse", "--git-path", "objects") or ".").resolve()
    with tempfile.TemporaryDirectory() as temporary:
        own = {"GIT_INDEX_FILE": f"{temporary}/index", "GIT_OBJECT_DIRECTORY": temporary}
        yield os.environ | own | {"GIT_ALTERNATE_OBJECT_DIRECTORIES": str(objects)}


def changes() -> bytes:
    """Return the working tree's difference from the commit as a patch, untracked files included.

    What git cannot add, such as a repository without a commit, is left out with a warning.
    """
    if git("rev-parse", "HEAD") is None:
        return b""
    commands = [["read-tree", "HEAD"], ["add", "--all", "--ignore-errors", "--", *_compared()]]
    commands += [["diff", "--cached", "--binary", "HEAD"]]
    with separate_index() as own:
        done = [subprocess.run(["git", *command], env=own, check=False, capture_output=True) for command in commands]
    faults = [one.stderr.decode("utf-8", "replace").strip() for one in done if one.returncode != 0]
    if faults:
        print(f"WARNING: the record of the uncommitted changes is incomplete: {'; '.join(faults)}", file=sys.stderr)
    return done[-1].stdout
