"""Where the repository and its store lie, and which code, stage and user a run comes from. Knows no MLflow."""

import getpass
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path


def root() -> Path:
    """Find the real repository, also from a temporary DVC experiment's copy of it.

    DVC sets DVC_ROOT to it for every stage; elsewhere it is the nearest folder above with .dvc in it.
    """
    if given := os.environ.get("DVC_ROOT"):
        return Path(given)
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / ".dvc").is_dir()), here)


def store_uri() -> str:
    """Locate the tracking store; a relative SQLite file is meant from the repository, not from a copy of it."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    file = sqlite_file(uri)
    return uri if file is None else f"sqlite:///{root() / file}"


def without_password(text: str) -> str:
    """Hide the passwords of the URIs in a text."""
    return re.sub(r"(://[^\s/:@]*):\S*@", r"\1:***@", text)  # up to the last @: a password may hold / and @


def sqlite_file(uri: str) -> Path | None:
    """Name the file of a SQLite store, or None for another kind."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def git(*arguments: str) -> str | None:
    """Ask git in the working folder; None where it has no answer."""
    try:
        answer = subprocess.run(["git", *arguments], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.decode("utf-8", "surrogateescape").strip("\n")


def code_tags() -> dict[str, str]:
    """Name the commit, whether the tree differs from it, and the DVC stage and experiment."""
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


def _compared() -> list[str]:
    # DVC rewrites dvc.lock as it goes, and an experiment lays its params.yaml over the baseline: neither is a change.
    # Nor is the store, wherever the user keeps it.
    left_out = ["dvc.lock", "params.yaml"] if "DVC_EXP_NAME" in os.environ else ["dvc.lock"]
    file = sqlite_file(store_uri())
    if file is not None and file.is_relative_to(Path.cwd()) and git("check-ignore", "--quiet", str(file)) is None:
        left_out.append(f"{file.relative_to(Path.cwd())}*")
    return [":/", *(f":(exclude,top){name}" for name in left_out)]


def user() -> str | None:
    """Name who runs this process; None for a user id without a name, as in some containers."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return None


def changes() -> bytes:
    """Return the working tree's difference from the commit, as a patch; files that git does not know yet included.

    What git cannot add, such as a repository without a commit, is left out with a warning.
    """
    objects = git("rev-parse", "--git-path", "objects")
    if objects is None or git("rev-parse", "HEAD") is None:
        return b""
    with tempfile.TemporaryDirectory() as temporary:
        # An index and objects of its own, so that the user's are left as they are.
        own = os.environ | {
            "GIT_INDEX_FILE": f"{temporary}/index",
            "GIT_OBJECT_DIRECTORY": temporary,
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(Path(objects).resolve()),
        }
        commands = [["read-tree", "HEAD"], ["add", "--all", "--ignore-errors", "--", *_compared()]]
        commands += [["diff", "--cached", "--binary", "HEAD"]]
        done = [subprocess.run(["git", *command], env=own, check=False, capture_output=True) for command in commands]
    faults = [one.stderr.decode("utf-8", "replace").strip() for one in done if one.returncode != 0]
    if faults:
        print(f"WARNING: the record of the uncommitted changes is not whole: {'; '.join(faults)}", file=sys.stderr)
    return done[-1].stdout
