"""`pipeline ui` listens on this machine only, unless authentication is set up, and under exact names."""

import socket
from pathlib import Path

import pytest
from conftest import enter, free_port

from pipeline.__main__ import main
from pipeline.commands import ui
from pipeline.errors import InputError


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.0.0.2", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("127.0.0.1.example.org", False),
    ],
)
def test_only_loopback_addresses_are_this_machines_alone(host: str, loopback: bool) -> None:
    assert ui.is_loopback(host) is loopback


def test_listening_elsewhere_is_refused_without_authentication(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("MLFLOW_AUTH_CONFIG_PATH", "MLFLOW_FLASK_SERVER_SECRET_KEY"):
        monkeypatch.delenv(key, raising=False)
    with pytest.raises(InputError, match="authentication"), ui.serving("0.0.0.0", free_port()):
        pass
    monkeypatch.setenv("MLFLOW_FLASK_SERVER_SECRET_KEY", "long")
    monkeypatch.setenv("MLFLOW_AUTH_CONFIG_PATH", str(tmp_path / "missing.ini"))
    assert not ui.has_authentication()


def test_the_names_are_exact() -> None:
    assert ui.hosts("127.0.0.1") == ["127.0.0.1", "localhost"]
    assert "[::1]" in ui.hosts("::1")
    everywhere = ui.hosts("0.0.0.0")
    assert socket.gethostname() in everywhere
    assert not any("*" in name or name == "0.0.0.0" for name in everywhere)


def test_a_taken_port_is_replaced_unless_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"127.0.0.1:{port}: cannot listen there"):
            ui.choose_port("127.0.0.1", port)
        monkeypatch.setattr(ui, "PORT", port)
        assert ui.choose_port("127.0.0.1", None) != port
        assert f"port {port} is taken" in capsys.readouterr().err
    with pytest.raises(InputError, match="cannot listen there"):
        ui.choose_port("no such host", None)


def test_with_a_server_as_store_only_its_page_is_linked(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    enter(small, monkeypatch)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    monkeypatch.setattr(ui, "page_of", lambda experiment: f"http://tracking:5000/{experiment}")
    main(["ui", "--no-open"])
    assert capsys.readouterr().out == "http://tracking:5000/regression\n"
