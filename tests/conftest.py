"""Clones of this checkout, with the default sweep or a small one, and ways to read their stores."""

import io
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import FrameType
from typing import TypeVar

from pipeline.system import kernels  # before numpy, which MLflow imports: it pins the kernels

# isort: split
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run as StoredRun

T = TypeVar("T")
REPOSITORY = Path(__file__).parent.parent
HANG_SECONDS = 600  # after which what a test waits for counts as hung, however slow the machine is
SHARED = ("small", "default_run", "trained", "swept", "followed", "grids")  # fixtures that outlive a test


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Send all tests of a shared fixture to one worker: it is made once, and no other test sees their changes."""
    for item in items:
        used = getattr(item, "fixturenames", [])
        for name in SHARED:
            if name in used:
                item.add_marker(pytest.mark.xdist_group(name))
                break


def environment(**extra: str) -> dict[str, str]:
    """A user's shell in the activated environment, without variables that this test run's shell may have set."""
    own = ("MLFLOW_", "DVC_", "GIT_", "PIPELINE_", "MAKE", "PYTHONUNBUFFERED")
    kept = {key: value for key, value in kernels.unpinned().items() if not key.startswith(own)}
    identity = {
        f"GIT_{role}_{key}": "someone@example.org" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")
    }
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return kept | identity | {"PATH": path, "MLFLOW_DISABLE_TELEMETRY": "true"} | extra


def run(
    *command: str, cwd: Path, extra: Mapping[str, str] | None = None, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run a command as a user would; if it fails, fail with its output."""
    result = subprocess.run(
        command,
        cwd=cwd,
        env=environment(**(extra or {})),
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG_SECONDS,
    )
    if check and result.returncode != 0:
        pytest.fail(f"{' '.join(command)} ended with {result.returncode}\n{result.stdout}\n{result.stderr}")
    return result


def copy_checkout(folder: Path) -> Path:
    """Make a repository of this checkout's files, as if they were committed and cloned."""
    names = run("git", "ls-files", "-co", "--exclude-standard", "-z", cwd=REPOSITORY).stdout.split("\0")
    for name in filter(None, names):
        if (REPOSITORY / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((REPOSITORY / name).read_bytes())
            (folder / name).chmod((REPOSITORY / name).stat().st_mode)
    run("git", "init", "--quiet", cwd=folder)
    run("git", "add", "--all", cwd=folder)
    run("git", "commit", "--quiet", "--message", "Checkout", cwd=folder)
    return folder


def reproduce() -> None:
    """Do in this process what `dvc repro` does in the working folder, as DVC takes seconds to start; print nothing.

    Raises:
        DvcException: as a command, DVC would end with it.
    """
    from dvc.repo import Repo  # noqa: PLC0415

    with redirect_stdout(io.StringIO()), Repo() as repo:
        repo.reproduce()


def calls_of(action: Callable[[], object]) -> int:
    """Count the functions that an action calls: its work, which is the same on a slow machine."""
    calls = 0

    def count(_: FrameType, event: str, __: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    sys.setprofile(count)
    try:
        action()
    finally:
        sys.setprofile(None)
    return calls


def until(holds: Callable[[], T]) -> T:
    """Wait until something holds; return what it returned."""
    end = time.monotonic() + HANG_SECONDS
    while not (found := holds()):
        assert time.monotonic() < end, f"waited for {HANG_SECONDS} s"
        time.sleep(0.05)
    return found


def free_port() -> int:
    """Find a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def answers(port: int) -> bool:
    """Tell whether something listens on a port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve MLflow's pages and API for a folder's store, as `mlflow ui` does there; yield the address."""
    port = free_port()
    server = subprocess.Popen(
        ["mlflow", "ui", "--port", str(port)],
        cwd=folder,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        until(lambda: answers(port))
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)  # its workers too
        server.wait(HANG_SECONDS)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A fresh clone."""
    folder = tmp_path / "clone"
    folder.mkdir()
    return copy_checkout(folder)


@pytest.fixture(scope="session")
def default_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh clone after `dvc repro`; a test that changes it restores it."""
    folder = copy_checkout(tmp_path_factory.mktemp("default"))
    run("dvc", "repro", cwd=folder)
    return folder


SMALL = {
    "epochs: 1000": "epochs: 20",
    "  seed:\n  - 1\n  - 2\n  - 3\n": "  seed:\n  - 1\n",
    "  batch_size:\n  - 1\n  - 2\n  - 4\n  - full\n": "  batch_size:\n  - 2\n  - full\n",
    "variants:\n- handwritten\n- matrix\n- linear\n- module\n": "variants:\n- matrix\n- linear\n",
}


def shorten(folder: Path) -> Path:
    """Commit params for 4 short runs in a copy of this checkout."""
    text = (folder / "params.yaml").read_text()
    for old, new in SMALL.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "params.yaml").write_text(text)
    (folder / "dvc.lock").unlink()
    run("git", "commit", "--quiet", "--all", "--message", "A small sweep", cwd=folder)
    return folder


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with 4 runs, and 2 of the experiment `other`; a test that changes it restores it."""
    folder = shorten(copy_checkout(tmp_path_factory.mktemp("small")))
    run("dvc", "repro", cwd=folder)
    run("git", "add", "dvc.lock", cwd=folder)
    run("git", "commit", "--quiet", "--message", "Its outs", cwd=folder)
    settings = ("-S", "variants=[linear]", "-S", "sweep.lr=[1e-6,2e-6]", "-S", "sweep.batch_size=[full]")
    run("dvc", "exp", "run", "--temp", "--name", "other", *settings, cwd=folder)
    return folder


def enter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder, in this process, as in a user's fresh shell."""
    for key in [key for key in os.environ if key.startswith(("MLFLOW_RUN", "MLFLOW_TRACKING", "DVC_"))]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("PATH", environment()["PATH"])
    monkeypatch.delattr(signal, "SIGPIPE")  # `main` would set it for the whole test run
    monkeypatch.chdir(folder)


def default_store(repository: Path) -> str:
    return f"sqlite:///{repository / 'mlflow.db'}"


def copy_store(repository: Path, file: Path) -> str:
    """Copy a repository's store, for a test to damage; the artifacts stay where they are."""
    with sqlite3.connect(repository / "mlflow.db") as original, sqlite3.connect(file) as copy:
        original.backup(copy)
    return f"sqlite:///{file}"


def search(uri: str, condition: str = "tags.role = 'run'") -> list[StoredRun]:
    client = MlflowClient(uri)
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(ids, condition, max_results=1000, order_by=["attributes.start_time"]))


def points(uri: str, one: StoredRun) -> list[tuple[int, float]]:
    return sorted((p.step, p.value) for p in MlflowClient(uri).get_metric_history(one.info.run_id, "train/mse"))
