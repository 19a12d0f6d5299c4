"""Commands in fresh clones, and their cost: seconds and memory."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from conftest import copy_checkout, environment, run  # before numpy: pipeline pins its kernels

# isort: split
import psutil

SAMPLE_SECONDS = 0.5  # between two looks at memory, which take 10 ms each


@contextmanager
def cloned() -> Iterator[Path]:
    """Make a fresh clone, and remove it at the end."""
    with tempfile.TemporaryDirectory() as folder:
        yield copy_checkout(Path(folder))


def seconds(*command: str, cwd: Path) -> float:
    """Return the seconds that a command takes."""
    begin = time.perf_counter()
    run(*command, cwd=cwd)
    return time.perf_counter() - begin


@dataclass(frozen=True)
class Cost:
    """The cost of a command: seconds, and the peak memory in MB of it and all processes below it."""

    seconds: float
    memory: float


def cost(command: Sequence[str], cwd: Path, **extra: str) -> Cost:
    """Run a command without a time limit; end this program if it fails."""
    most, begin = 0, time.perf_counter()
    with (
        tempfile.TemporaryFile("w+") as told,
        subprocess.Popen(command, cwd=cwd, env=environment(**extra), stdout=told, stderr=told) as process,
    ):
        root = psutil.Process(process.pid)
        while process.poll() is None:
            most = max(most, held(root))
            with suppress(subprocess.TimeoutExpired):
                process.wait(SAMPLE_SECONDS)
        elapsed = time.perf_counter() - begin
        told.seek(0)
        if process.returncode:
            sys.exit(f"{' '.join(command)}: ended with {process.returncode}\n{told.read()[-3000:]}")
    return Cost(elapsed, most / 1e6)


def held(root: psutil.Process) -> int:
    """Return the bytes of a process and those below it; shared memory counts once."""
    total = 0
    with suppress(psutil.Error):
        for process in [root, *root.children(recursive=True)]:
            with suppress(psutil.Error):
                total += process.memory_full_info().pss
    return total


def experiment(*settings: str) -> list[str]:
    """Return the command of an experiment."""
    return ["dvc", "exp", "run", *(part for setting in settings for part in ("-S", setting))]
