"""A store that cannot be opened costs one message, no training, and shows no password."""

import io
import os
import re
import signal
import subprocess
import sys
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import REPOSITORY, copy_store, enter, environment, free_port

from pipeline.__main__ import main
from pipeline.commands import doctor
from pipeline.config.params import load
from pipeline.errors import InputError
from pipeline.runs import outs, records
from pipeline.system import repository
from pipeline.tracking import models, session, tracker
from pipeline.tracking.store.store import Store

BAD = [
    "mysql://ann:s3cr:et@host/db",
    "mysql+pymysql://ann:s3cr:et@host/db",
    "postgresql://ann:s3cr:et@host/db",
    "postgresql://",
    "mssql://host/db",
    "http://",
    "https://",
    "http://a b",
    "http://[::1",
    "http://127.0.0.1:99999",
    "http://ann:s3cr:et@127.0.0.1:1",
    "sqlite:/x",
    "sqlite://",
    "sqlite:///:memory:",
    "sqlite:///file:x?mode=memory&uri=true",
    "sqlite+pysqlite://",
    "sqlite:///",
    "sqlite:////proc",
    "foo://bar",
    "a b",
    "/proc",
    "file:///proc/x",
]
SECRET = [
    "postgresql://127.0.0.1:1/db?user=ann&password=s3cr",
    "postgresql://ann@corp:s3cr@127.0.0.1:1/db",
    "postgresql+psycopg://ann:s3cr et@127.0.0.1:1/db",
    "postgresql://ann:s3cr@et@127.0.0.1:1/db",
    "postgresql://ann:s3cr/et@127.0.0.1:1/db?sslmode=disable",
    "http://s3cr@127.0.0.1:1",
    "http://127.0.0.1:1?token=s3cr",
    "http://ann:s3cr/et@127.0.0.1:1",
    "https://ann:s3cr#et@127.0.0.1:1",
    "postgresql://127.0.0.1:1#s3cr",
    "http://127.0.0.1:1/;key=s3cr",
]


def stored(patience: float, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(session, "PATIENCE_SECONDS", patience)
    pipe = io.BytesIO()
    tracker.send(pipe, tracker.BEGIN, load(), [], os.getpid())
    pipe.seek(0)
    return tracker.serve(pipe)


@pytest.mark.parametrize("uri", BAD)
def test_a_store_that_cannot_be_opened_is_one_message_to_stage_and_person(
    uri: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.delattr(signal, "SIGPIPE")  # which `main` would set, for this whole test run
    assert stored(0.0, monkeypatch) == tracker.STORE_LOST
    said = capsys.readouterr().err
    assert "MLflow's store" in said
    monkeypatch.setattr(Store, "look", partial(Store.look, patience=0.0))
    with pytest.raises(InputError) as refused:
        main(["top", "--all"])
    assert "MLflow's store" in str(refused.value)
    assert "s3cr" not in said + str(refused.value)


@pytest.mark.parametrize("uri", SECRET)
def test_no_command_and_no_stage_shows_a_secret(
    uri: str, small: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(small, monkeypatch)
    monkeypatch.delattr(signal, "SIGPIPE", raising=False)
    for method in ("look", "open"):
        monkeypatch.setattr(Store, method, partial(getattr(Store, method), patience=0.0))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert stored(0.0, monkeypatch) == tracker.STORE_LOST
    said = []
    for command in (["top"], ["sync"], ["show", "0" * 32], ["doctor"]):
        try:
            main(command)
        except (InputError, SystemExit) as error:
            said.append(str(error))
    shown = capsys.readouterr()
    everything = "\n".join([shown.out, shown.err, *said])
    assert everything.count("MLflow's store") >= 5
    assert "s3cr" not in everything
    assert not re.search(r"\bet\b", everything)


def test_how_to_mend_a_relative_address_shows_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///x.db?password=s3cr")
    [finding] = doctor.environment()
    assert f"sqlite:///{repository.root()}/x.db" in finding.mend
    assert "s3cr" not in finding.what + finding.mend


@pytest.mark.parametrize("uri", SECRET)
def test_a_registry_that_fails_costs_a_warning_without_its_secret(
    uri: str, small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(small, monkeypatch)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", copy_store(small, tmp_path / "mlflow.db"))
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", uri)
    monkeypatch.setattr(models, "WAIT_SECONDS", 0.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr("mlflow.store.db.utils.MAX_RETRY_COUNT", 1)  # else MLflow tries a database for two minutes
    settings = load()
    assert models.update(settings, records.read_evaluated(settings.variants), outs.champion()) == ""
    said = capsys.readouterr().err
    assert said.startswith("WARNING: the champion is not registered: ")
    assert "s3cr" not in said
    assert not re.search(r"\bet\b", said)


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize(
    "body", ['{"error_code": "PERMISSION_DENIED", "message": "no"}', '{"detail": "no"}', "{}", "<html>no</html>"]
)
def test_a_server_that_refuses_access_is_asked_once(
    status: int, body: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        do_POST = do_GET  # noqa: N815 - the name that the server calls

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", free_port()), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
    assert stored(3.0, monkeypatch) == tracker.STORE_LOST
    server.shutdown()
    assert len(asked) == 1
    assert "MLFLOW_TRACKING_TOKEN" in capsys.readouterr().err


@pytest.mark.parametrize("code", [1, 7])
def test_an_error_of_the_storing_process_costs_no_training(
    code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = tmp_path / f"fails{code}"
    failing.write_text(f"#!/bin/sh\nexit {code}\n")
    failing.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(failing))
    monkeypatch.setattr("pipeline.system.processes.stop_when_told", lambda: None)
    trained = False
    with tracker.Tracker(load(), []):
        trained = True
    assert trained
    assert capsys.readouterr().err.count(tracker.LOST) == 1


def ending_with(code: int, folder: Path) -> str:
    """Make a program that reads all that it is told, and ends."""
    program = folder / f"ends{code}"
    program.write_text(f"#!/bin/sh\ncat > /dev/null\nexit {code}\n")
    program.chmod(0o755)
    return str(program)


@pytest.mark.parametrize("code", [1, tracker.STORE_LOST, tracker.INPUT_WRONG])
def test_the_trainings_own_error_is_kept_however_the_storing_process_ends(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", ending_with(code, tmp_path))
    monkeypatch.setattr("pipeline.system.processes.stop_when_told", lambda: None)
    with pytest.raises(ValueError, match="on purpose"), tracker.Tracker(load(), []):
        raise ValueError("on purpose")


def test_runs_that_the_store_refuses_end_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", ending_with(tracker.INPUT_WRONG, tmp_path))
    monkeypatch.setattr("pipeline.system.processes.stop_when_told", lambda: None)
    with pytest.raises(InputError), tracker.Tracker(load(), []):
        pass


def test_a_file_of_the_workspace_that_is_missing_is_not_the_stores_failure(tmp_path: Path) -> None:
    told = io.BytesIO()
    tracker.send(told, tracker.BEGIN, load(), [], os.getpid())
    command = [sys.executable, "-m", "pipeline.tracking", "1"]  # it reports to standard output
    ended = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(REPOSITORY), MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/mlflow.db"),
        input=told.getvalue(),
        capture_output=True,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.decode().splitlines()[-1] == "data/prepared/summary.json: No such file or directory"
    assert b"store" not in ended.stderr
