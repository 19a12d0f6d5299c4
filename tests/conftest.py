"""A clone of this checkout, and the default sweep made in one."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent


def environment(**extra: str) -> dict[str, str]:
    """A user's shell in the activated environment, without what this test run's own shell may have set."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "DVC_", "GIT_"))}
    identity = {
        f"GIT_{role}_{key}": "someone@example.org" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")
    }
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return kept | identity | {"PATH": path, "MLFLOW_DISABLE_TELEMETRY": "true"} | extra


def run(
    *command: str, cwd: Path, extra: Mapping[str, str] | None = None, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run a command as a user would, and fail with what it printed."""
    result = subprocess.run(
        command, cwd=cwd, env=environment(**(extra or {})), capture_output=True, text=True, check=False, timeout=300
    )
    if check and result.returncode != 0:
        pytest.fail(f"{' '.join(command)} ended with {result.returncode}\n{result.stdout}\n{result.stderr}")
    return result


def copy_checkout(folder: Path) -> Path:
    """Make a repository of this checkout's files, as a clone of a commit of them would be."""
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


def free_port() -> int:
    """Find a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve MLflow's pages and API on the store in a folder, as `mlflow ui` there does; yield the address."""
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
        for _ in range(240):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)  # its workers too
        server.wait(30)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A fresh clone."""
    folder = tmp_path / "clone"
    folder.mkdir()
    return copy_checkout(folder)


@pytest.fixture(scope="session")
def default_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh clone after `dvc repro`; tests that change it change only what they put back."""
    folder = copy_checkout(tmp_path_factory.mktemp("default"))
    run("dvc", "repro", cwd=folder)
    return folder
