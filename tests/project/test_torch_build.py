"""Which build of torch `make setup` takes: real pip, and stand-ins for PyTorch's index and pip's own on loopback."""

import shutil
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch_build
from conftest import HANG_SECONDS, free_port

pytestmark = [
    pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning"),
    pytest.mark.xdist_group("torch_build"),  # one worker makes the environment
]
asked: list[str] = []  # what pip and the probe asked the stand-ins for


class Index(SimpleHTTPRequestHandler):
    """Serves a folder, and keeps what was asked for."""

    def log_message(self, *_: object) -> None:
        asked.append(self.path)


def make_wheel(folder: Path, version: str) -> None:
    """Make a wheel of a torch that is nothing but its version and the place that it comes from."""
    folder.mkdir(parents=True)
    about = f"torch-{version}.dist-info"
    with zipfile.ZipFile(folder / f"torch-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr("torch.txt", f"{version} from {folder.parent.name}")
        wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment's folder for packages."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    return next(folder.glob("lib/python3*/site-packages"))


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stand-ins: pip's own index, PyTorch's for the CPU, one for a GPU, and a folder on disk."""
    folder = tmp_path_factory.mktemp("wheels")
    for place, version in {"pypi": "2.13.0", "cpu": "2.13.0+cpu", "cu": "2.13.0+cu128", "disk": "2.13.0+cpu"}.items():
        make_wheel(folder / place / "torch", version)
    return folder


@pytest.fixture
def indexes(wheels: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve the stand-ins to a machine without a driver, whose environment has no torch yet; yield their address."""
    for left in site.glob("torch*"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Index, directory=str(wheels)))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    (site.parent / "constraints.txt").write_text("torch==2.13.0\n")
    monkeypatch.setattr(torch_build, "CONSTRAINTS", site.parent / "constraints.txt")
    monkeypatch.setattr(torch_build, "has_driver", lambda: False)
    monkeypatch.setattr(sys, "executable", str(site.parents[2] / "bin/python"))
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", f"{address}/pypi")
    yield address
    server.shutdown()
    server.server_close()


def installed(site: Path) -> str:
    return (site / "torch.txt").read_text() if (site / "torch.txt").exists() else "nothing"


def pip_as_ever(site: Path) -> None:
    """What `make setup` does next, for torch."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "torch", "-c", str(site.parent / "constraints.txt")]
    subprocess.run(command, check=True)


def test_without_a_driver_the_cpu_build_is_installed_and_kept(
    indexes: str, site: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    torch_build.main("", f"{indexes}/cpu")
    pip_as_ever(site)
    assert installed(site) == "2.13.0+cpu from cpu"
    out, err = capfd.readouterr()
    assert out.startswith("torch: no NVIDIA driver is here")
    assert (out.count("\n"), err) == (1, "")


def test_left_to_pip_it_is_the_other_build(indexes: str, site: Path) -> None:
    for wish in ("cuda", "default"):
        torch_build.main(wish, f"{indexes}/cpu")
    assert asked == []
    pip_as_ever(site)
    assert installed(site) == "2.13.0 from pypi"


@pytest.mark.parametrize(("machine", "value"), [("has_driver", lambda: True), ("sys.platform", "darwin")])
def test_with_a_driver_and_on_a_mac_nothing_is_asked(
    machine: str, value: object, indexes: str, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"torch_build.{machine}", value)
    torch_build.main("", f"{indexes}/cpu")
    assert (asked, installed(site)) == ([], "nothing")


def test_a_folder_that_pip_knows_comes_first(
    indexes: str, site: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels / "disk/torch"))
    torch_build.main("", f"{indexes}/cpu")
    assert installed(site) == "2.13.0+cpu from disk"
    assert capfd.readouterr() == ("", "")


def test_an_index_that_the_user_chose_comes_first(indexes: str, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", f"{indexes}/cu")
    torch_build.main("", f"{indexes}/cpu")
    assert installed(site) == "2.13.0+cu128 from cu"


def test_the_cpu_build_on_demand_is_that_or_an_error(
    indexes: str, site: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch_build, "has_driver", lambda: True)
    with pytest.raises(SystemExit, match="1"):
        torch_build.main("cpu", f"{indexes}/pypi")
    assert installed(site) == "nothing"
    assert "torch==2.13.0+cpu" in capfd.readouterr().err
    torch_build.main("cpu", f"{indexes}/cpu")
    assert installed(site) == "2.13.0+cpu from cpu"


@contextmanager
def listening(answer: bytes) -> Iterator[str]:
    """Answer a connection with some bytes every 50 ms, without end; fail if the client waits for the end."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        over, waited = threading.Event(), threading.Event()

        def answer_slowly() -> None:
            connection, _ = server.accept()
            with connection:
                with suppress(ConnectionError):
                    for _ in range(HANG_SECONDS * 20):
                        if over.wait(0.05):
                            return
                        connection.sendall(answer)
                    waited.set()
                over.wait()

        threading.Thread(target=answer_slowly, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        over.set()
        assert not waited.is_set()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nA", b"not HTTP\r\n"])
def test_an_index_that_never_answers_costs_the_limit_and_no_more(
    answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_build, "SECONDS", 0.4)
    with listening(answer) as index:
        assert not torch_build.answers(index)


def test_a_name_that_is_never_looked_up_costs_the_limit_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    over, waited = threading.Event(), threading.Event()

    def look_up(*_: object, **__: object) -> None:
        if not over.wait(HANG_SECONDS):
            waited.set()
        raise socket.gaierror

    monkeypatch.setattr(torch_build, "SECONDS", 0.2)
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert not torch_build.answers("http://index.example")
    over.set()
    assert not waited.is_set()


def test_an_index_that_refuses_is_not_waited_for_and_says_nothing(
    indexes: str, site: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch_build, "SECONDS", float(HANG_SECONDS))
    begin = time.monotonic()
    for index in (f"http://127.0.0.1:{free_port()}", f"{indexes}/missing", "no-url"):
        torch_build.main("", index)
    assert time.monotonic() - begin < HANG_SECONDS
    assert (installed(site), capfd.readouterr()) == ("nothing", ("", ""))


def test_a_driver_is_its_file_or_its_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(torch_build, "DRIVER", (str(tmp_path / "version"),))
    assert not torch_build.has_driver()
    (tmp_path / "version").touch()
    assert torch_build.has_driver()
    (tmp_path / "version").rename(tmp_path / "nvidia-smi")
    assert not torch_build.has_driver()  # a file of that name that is no program
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert torch_build.has_driver()


def test_another_wish_is_refused() -> None:
    with pytest.raises(SystemExit, match="TORCH=gpu: must be cpu, cuda or default"):
        torch_build.main("gpu", "")
