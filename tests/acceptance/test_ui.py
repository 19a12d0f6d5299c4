"""`pipeline ui` listens to other machines only behind MLflow's authentication."""

import base64
import os
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import pytest
from conftest import HANG_SECONDS, environment, free_port

INI = """[mlflow]
default_permission = READ
database_uri = sqlite:///{folder}/users.db
admin_username = admin
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
"""


def status(url: str, headers: Mapping[str, str]) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=dict(headers)), timeout=HANG_SECONDS) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_with_authentication_it_listens_everywhere_and_asks_for_a_password(swept: Path, tmp_path: Path) -> None:
    pytest.importorskip("flask_wtf", reason="needs MLflow's authentication: pip install 'mlflow[auth]'")
    (tmp_path / "basic_auth.ini").write_text(INI.format(folder=tmp_path))
    extra = {
        "MLFLOW_AUTH_CONFIG_PATH": str(tmp_path / "basic_auth.ini"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": "correct horse battery",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "staple" * 8,
    }
    port = free_port()
    command = ["pipeline", "ui", "--no-open", "--host", "0.0.0.0", "--port", str(port)]
    process = subprocess.Popen(command, cwd=swept, env=environment(**extra), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(f"http://127.0.0.1:{port}/#/experiments/1/runs?")
        url = f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/get?experiment_id=1"
        known = {"Authorization": f"Basic {base64.b64encode(b'admin:correct horse battery').decode()}"}
        assert [status(url, {}), status(url, known), status(url, known | {"Host": "10.evil.com"})] == [401, 200, 403]
    finally:
        os.kill(process.pid, signal.SIGINT)
    assert process.wait(HANG_SECONDS) == 0
