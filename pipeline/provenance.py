"""Which code, which stage and which process: what a run's record says of where it comes from. Knows no MLflow."""

import getpass
import os
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import NoReturn

import psutil

from pipeline import ARCHITECTURE, KERNELS

HEARTBEAT_SECONDS = 30.0
SILENCE_SECONDS = 10 * HEARTBEAT_SECONDS  # after which a process of another host counts as gone


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
    """Name the commit, whether the tree differs from it, the DVC stage and experiment, and the user."""
    commit = git("rev-parse", "HEAD")
    status = git("status", "--porcelain", "--", *_compared())
    tags = {
        "git_commit": commit,
        "git_dirty": None if commit is None else str(bool(status)).lower(),
        "dvc_stage": os.environ.get("DVC_STAGE"),
        "dvc_experiment": os.environ.get("DVC_EXP_NAME"),
        "dvc_baseline": os.environ.get("DVC_EXP_BASELINE_REV"),
        "mlflow.source.git.commit": commit,
        "mlflow.source.name": os.environ.get("DVC_STAGE", "pipeline"),
        "mlflow.source.type": "LOCAL",
        "mlflow.user": _user(),
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


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user id without a name, as in some containers
        return None


def changes() -> bytes:
    """Return the working tree's difference from the commit, as a patch; files that git does not know yet included."""
    objects = git("rev-parse", "--git-path", "objects")
    if objects is None or git("rev-parse", "HEAD") is None:
        return b""
    with tempfile.TemporaryDirectory() as temporary:
        # An index and objects of its own, so that the user's are left as they are.
        own = {
            "GIT_INDEX_FILE": f"{temporary}/index",
            "GIT_OBJECT_DIRECTORY": temporary,
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(Path(objects).resolve()),
        }
        for command in (["read-tree", "HEAD"], ["add", "--all", "--", *_compared()]):
            subprocess.run(["git", *command], env=os.environ | own, check=True, capture_output=True)
        diff = ["git", "diff", "--cached", "--binary", "HEAD"]
        return subprocess.run(diff, env=os.environ | own, check=True, capture_output=True).stdout


def numeric_tags() -> dict[str, str]:
    """Name what a run's bits depend on beside its fingerprint: architecture, kernel path and torch."""
    return {"architecture": ARCHITECTURE, "kernels": KERNELS, "torch": version("torch")}


def may_differ(there: Mapping[str, str], here: Mapping[str, str], device: str) -> bool:
    """Tell whether the bits of a run made with numeric tags `there`, unknown where they are missing, may differ here.

    Kernels that a machine chooses for itself, a GPU's among them, may differ whatever the tags say.
    """
    return device != "cpu" or here["kernels"] == "native" or any(there.get(key) != here[key] for key in here)


def name_kernels(tags: Mapping[str, str], others: Mapping[str, str]) -> str:
    """Name for people what a run's bits depend on, and its torch where that is not the other's."""
    if "architecture" not in tags:
        return "unknown"
    architecture, kernels = tags["architecture"].replace("x86_64", "x86-64"), tags.get("kernels", "unknown")
    names = {"avx2": " AVX2", "default": " without AVX2", "native": " native kernels", "unknown": " unknown kernels"}
    own = names.get(kernels, f" {kernels}") if architecture == "x86-64" or kernels != "native" else ""
    torch = tags.get("torch", "unknown")
    return f"{architecture}{own}" + (f" and torch {torch}" if torch != others.get("torch", torch) else "")


def process_tags(pid: int) -> dict[str, str]:
    """Name a process of this host, so that another can tell later whether it is alive."""
    return {"host": host(), "pid": str(pid), "pid_started": f"{psutil.Process(pid).create_time():.2f}"}


def is_alive(tags: Mapping[str, str], now: float) -> bool:
    """Tell whether the process that tags name lives: on this host by looking, on another by its last heartbeat.

    Args:
        tags: those of `process_tags`, and heartbeat, in seconds since 1970.
        now: in seconds since 1970.
    """
    if tags["host"] != host():
        return now - float(tags["heartbeat"]) < SILENCE_SECONDS
    try:
        process = psutil.Process(int(tags["pid"]))
        return abs(process.create_time() - float(tags["pid_started"])) < 1 and not _is_gone(process)
    except psutil.NoSuchProcess:
        return False


def host() -> str:
    """Name this host: its name, and the machine's own id, as names repeat."""
    try:
        machine = Path("/etc/machine-id").read_text(encoding="ascii").strip()[:8]
    except OSError:
        machine = f"{uuid.getnode():012x}"
    return f"{socket.gethostname()}/{machine}"


def stop_when_told() -> None:
    """Raise KeyboardInterrupt in this stage at SIGINT, SIGTERM, or when the DVC that runs it is gone.

    A stage that outlived its DVC would write beside the next one. SIGINT is ignored in what a shell starts with `&`.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    if "DVC_STAGE" in os.environ:
        dvc = next((parent for parent in psutil.Process().parents() if _is_dvc(parent)), None)
        threading.Thread(target=_watch, args=(dvc,), daemon=True).start()


def _watch(dvc: psutil.Process | None) -> None:
    while dvc is not None and not _is_gone(dvc):
        time.sleep(0.2)
    if dvc is not None:
        os.kill(os.getpid(), signal.SIGTERM)


def _is_gone(process: psutil.Process) -> bool:
    try:
        # A zombie has ended. is_running compares start times too: a later process may have been given the same number.
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _interrupt(number: int, _: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt(signal.Signals(number).name)


def _is_dvc(process: psutil.Process) -> bool:
    try:
        return any(Path(part).name in {"dvc", "dvc.exe"} for part in process.cmdline()[:4])
    except psutil.Error:
        return False
