"""A tracking server that answers badly, or not at all, costs no run and makes no ghost."""

import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import chaos
import pytest
from conftest import free_port, run, serving


class Flaky(BaseHTTPRequestHandler):
    """Forward to an MLflow server; drop every second reply, and once be down for 20 s."""

    upstream = ""
    protocol_version = "HTTP/1.0"
    count = 0
    down_until = 0.0

    def handle_any(self) -> None:
        cls = type(self)
        cls.count += 1
        number = cls.count
        if number == 40:
            cls.down_until = time.monotonic() + 20
        if time.monotonic() < cls.down_until:
            return  # no reply, and nothing reaches the server
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))) or None
        headers = {key: value for key, value in self.headers.items() if key.lower() not in {"host", "connection"}}
        request = urllib.request.Request(f"{self.upstream}{self.path}", body, headers, method=self.command)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                status, kind, content = answer.status, answer.headers.get("Content-Type", ""), answer.read()
        except urllib.error.HTTPError as error:
            status, kind, content = error.code, error.headers.get("Content-Type", ""), error.read()
        if number % 2 == 0:
            return  # the server has done it, but its reply is lost
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815 - the names that the server calls

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@contextmanager
def flaky(upstream: str) -> Iterator[str]:
    Flaky.upstream = upstream
    server = ThreadingHTTPServer(("127.0.0.1", free_port()), Flaky)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.long
def test_a_server_that_drops_replies_and_goes_down_loses_and_doubles_nothing(tmp_path: Path) -> None:
    repository = chaos.prepare(tmp_path / "repository", variants="matrix")
    with serving(tmp_path) as server, flaky(server) as address:
        run("dvc", "repro", cwd=repository, extra={"MLFLOW_TRACKING_URI": address})
        found = run("pipeline", "doctor", "--deep", cwd=repository, extra={"MLFLOW_TRACKING_URI": server})
        assert "as recorded: outs, cache, 5 runs, their artifacts" in found.stdout  # the seals fit, over HTTP too
        shown = run("pipeline", "top", cwd=repository, extra={"MLFLOW_TRACKING_URI": server}).stdout
        assert shown.count("  sealed  ") == 4
    assert time.monotonic() > Flaky.down_until > 0
    assert chaos.store_faults(f"sqlite:///{tmp_path / 'mlflow.db'}", 4) == []


def test_a_server_that_stays_down_costs_no_training(tmp_path: Path) -> None:
    repository = chaos.prepare(tmp_path / "repository", variants="matrix")
    down = {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{free_port()}", "MLFLOW_HTTP_REQUEST_TIMEOUT": "2"}
    result = run("dvc", "repro", cwd=repository, extra=down)
    assert "pipeline sync" in result.stderr
    assert (repository / "leaderboard.csv").exists()
    missing = run("pipeline", "sync", cwd=repository, extra=down, check=False)
    assert (missing.returncode, "Traceback" in missing.stderr) == (1, False)
    run("pipeline", "sync", cwd=repository)
    assert chaos.store_faults(f"sqlite:///{repository / 'mlflow.db'}", 4) == []
