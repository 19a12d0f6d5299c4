"""Storing where the store is far away, or is PostgreSQL."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import chaos
import pytest
from conftest import HANG_SECONDS, copy_checkout, free_port, run, search, serving, until
from mlflow import MlflowClient

from pipeline.tracking.runs import KIND

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
STORE = """
import os
from bench import storing
os.environ["DVC_ROOT"] = os.getcwd()
from pipeline.tracking.session import Session
import numpy as np
from pipeline.runs import sweep
from dataclasses import replace
settings = storing.settings(1008)
runs = sweep.plan(settings)[:200]
records = [storing.record(one, np.random.default_rng(0)) for one in runs]
session = Session(settings, runs, os.getpid())
session.start(runs)
session.finish(records)
session.measure(records)
session.conclude([], "")
session.close("FINISHED", "")
"""


def pump(source: socket.socket, target: socket.socket, seconds: float, pieces: list[bytes]) -> None:
    """Pass on what comes, each piece so much later, and list the pieces; they do not wait for each other."""
    waiting: list[tuple[float, bytes]] = []
    some = threading.Condition()

    def send() -> None:
        while True:
            with some:
                some.wait_for(lambda: waiting)
                due, content = waiting.pop(0)
            time.sleep(max(0.0, due - time.monotonic()))
            try:
                target.sendall(content) if content else target.shutdown(socket.SHUT_WR)
            except OSError:
                return
            if not content:
                return

    threading.Thread(target=send, daemon=True).start()
    while True:
        try:
            content = source.recv(2**16)
        except OSError:
            content = b""
        pieces.append(content)
        with some:
            waiting.append((time.monotonic() + seconds, content))
            some.notify()
        if not content:
            return


@contextmanager
def delaying(port: int, seconds: float) -> Iterator[tuple[str, list[list[bytes]]]]:
    """Pass connections on to a port of this machine, there and back `seconds` later in all.

    Yields the address, and what each connection sends to the server.
    """
    sent: list[list[bytes]] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", port))
            sent.append([])
            for pieces, pair in ((sent[-1], (near, far)), ([], (far, near))):
                threading.Thread(target=pump, args=(*pair, seconds / 2, pieces), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}", sent
    listener.close()


@pytest.mark.long
def test_a_server_50_ms_away_gets_few_requests_and_many_of_them_at_once(tmp_path: Path) -> None:
    repository = chaos.prepare(tmp_path / "repository")
    run("python", "-m", "pipeline.prepare", cwd=repository)
    with serving(tmp_path) as server, delaying(int(server.rpartition(":")[2]), 0.05) as (address, sent):
        extra = {"MLFLOW_TRACKING_URI": address, "PYTHONPATH": os.pathsep.join([str(repository), *sys.path])}
        run("python", "-c", STORE, cwd=repository, extra=extra)
    stored = search(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert {one.info.status for one in stored} == {"FINISHED"}
    assert len(stored) == len({one.data.tags["fingerprint"] for one in stored}) == 200
    requests = [sum(re.match(rb"[A-Z]+ /", piece) is not None for piece in pieces) for pieces in sent]  # a connection's
    assert sum(requests) < 12 * 200
    assert max(requests) < sum(requests) / 4  # that many wait for each other


@pytest.fixture
def postgresql(tmp_path: Path) -> Iterator[str]:
    """An empty database of a server of its own, on a socket of 127.0.0.1."""
    if not BINARIES:
        pytest.skip("needs PostgreSQL; on Debian: apt-get install postgresql")
    folder, port = tmp_path / "cluster", free_port()
    folder.mkdir()
    user: list[str | Path] = (
        ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []
    )
    if user:
        for parent in (folder, *folder.parents):  # pytest's folders are for their owner alone
            if Path("/tmp") in parent.parents:
                parent.chmod(parent.stat().st_mode | 0o055)
        shutil.chown(folder, "postgres", "postgres")
    data = folder / "data"
    subprocess.run([*user, BINARIES[-1] / "initdb", "-A", "trust", "-U", "pipeline", data], check=True, cwd=folder)
    options: list[str | Path] = ["-D", data, "-p", str(port), "-k", folder, "-h", "127.0.0.1", "-c", "fsync=off"]
    server = subprocess.Popen([*user, BINARIES[-1] / "postgres", *options], cwd=folder)
    is_ready: list[str | Path] = [BINARIES[-1] / "pg_isready", "-h", "127.0.0.1", "-p", str(port)]
    until(lambda: subprocess.run(is_ready, check=False).returncode == 0)
    yield f"postgresql+psycopg://pipeline@127.0.0.1:{port}/postgres"
    server.send_signal(signal.SIGINT)  # ends connections too
    server.wait(HANG_SECONDS)


def test_a_sweep_is_stored_in_postgresql_once_and_as_recorded(postgresql: str, tmp_path: Path) -> None:
    repository = chaos.prepare(tmp_path / "repository", variants="matrix")
    extra = {"MLFLOW_TRACKING_URI": postgresql}
    run("dvc", "repro", cwd=repository, extra=extra)
    run("dvc", "repro", "--force", cwd=repository, extra=extra)
    found = run("pipeline", "doctor", "--deep", cwd=repository, extra=extra)
    assert "as recorded: outs, cache, 5 runs, their artifacts" in found.stdout
    assert chaos.store_faults(postgresql, 4) == []


def test_a_further_experiment_in_postgresql_is_as_mlflow_makes_it(postgresql: str, tmp_path: Path) -> None:
    client = MlflowClient(postgresql)  # which makes the tables
    first = client.get_experiment(client.create_experiment("first", tags=KIND))
    repository = tmp_path / "repository"
    repository.mkdir()
    opening = "from pipeline.tracking.store.store import Store; Store.open('second')"
    run(sys.executable, "-c", opening, cwd=copy_checkout(repository), extra={"MLFLOW_TRACKING_URI": postgresql})
    second = client.get_experiment_by_name("second")
    assert second is not None
    assert int(second.experiment_id) == int(first.experiment_id) + 1
    assert (second.tags, second.lifecycle_stage) == (first.tags, first.lifecycle_stage)
    assert second.artifact_location == (repository / "mlartifacts").as_uri()
    assert second.creation_time == second.last_update_time > first.creation_time
    assert int(client.create_experiment("third")) == int(second.experiment_id) + 1
