"""Whether a process is alive, and how a stage is stopped."""

import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import NoReturn

import psutil

HEARTBEAT_SECONDS = 30.0
SILENCE_SECONDS = 10 * HEARTBEAT_SECONDS  # without a heartbeat, after which a process on another host counts as gone


def process_tags(pid: int) -> dict[str, str]:
    """Describe a process on this host, so that another process can tell later whether it is alive."""
    return {"host": host(), "pid": str(pid), "pid_started": f"{psutil.Process(pid).create_time():.2f}"}


def is_alive(tags: Mapping[str, str], now: float) -> bool:
    """Tell whether the process in `tags` is alive: by a look at this host's processes, or by another's last heartbeat.

    Args:
        tags: those of `process_tags`, and the last heartbeat in seconds since 1970.
        now: the time in seconds since 1970.
    """
    if tags["host"] != host():
        return now - float(tags["heartbeat"]) < SILENCE_SECONDS
    try:
        process = psutil.Process(int(tags["pid"]))
        return abs(process.create_time() - float(tags["pid_started"])) < 1 and not _is_gone(process)
    except psutil.NoSuchProcess:
        return False


def host() -> str:
    """Identify this host by its name and, as names are not unique, the machine's id."""
    try:
        machine = Path("/etc/machine-id").read_text(encoding="ascii").strip()[:8]
    except OSError:
        machine = f"{uuid.getnode():012x}"
    return f"{socket.gethostname()}/{machine}"


def stop_when_told() -> None:
    """Raise KeyboardInterrupt in this stage on SIGINT, on SIGTERM, or when the DVC that runs it is gone.

    A stage that outlives its DVC would write the same outs as the next one. SIGINT needs a handler because a shell's
    background jobs ignore it.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    if "DVC_STAGE" in os.environ:
        dvc = next((parent for parent in psutil.Process().parents() if is_dvc(parent)), None)
        threading.Thread(target=_watch, args=(dvc,), daemon=True).start()


def is_dvc(process: psutil.Process) -> bool:
    """Tell whether a process is DVC; false if it is gone or belongs to another user."""
    try:
        return any(Path(part).name in {"dvc", "dvc.exe"} for part in process.cmdline()[:4])
    except psutil.Error:
        return False


def _watch(dvc: psutil.Process | None) -> None:
    while dvc is not None and not _is_gone(dvc):
        time.sleep(0.2)
    if dvc is not None:
        os.kill(os.getpid(), signal.SIGTERM)


def _is_gone(process: psutil.Process) -> bool:
    try:
        # A zombie has ended. is_running compares start times too: a later process may have the same pid.
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def interrupt(number: int, _: FrameType | None) -> NoReturn:
    """Treat a signal like Ctrl-C."""
    raise KeyboardInterrupt(signal.Signals(number).name)
