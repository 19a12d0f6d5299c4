"""`pipeline ui`: serves MLflow's pages on this machine, and opens the ranking of the workspace's runs."""

import importlib.util
import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from pipeline.errors import InputError
from pipeline.runs import outs
from pipeline.system import addresses, processes, repository
from pipeline.system.kernels import unpinned

PORT = 5000
START_SECONDS = 120.0
STOP_SECONDS = 10.0
EVERYWHERE = {"0.0.0.0", "::"}  # noqa: S104 - compared with
AUTHENTICATION = (
    "anybody who reaches this machine could read and change every run. Set up MLflow's authentication first: "
    "pip install 'mlflow[auth]'; write a basic_auth.ini (MLflow's documentation shows one) and set "
    "MLFLOW_AUTH_CONFIG_PATH to its path; set MLFLOW_FLASK_SERVER_SECRET_KEY to a long random text, and, for the first "
    "start, MLFLOW_AUTH_ADMIN_PASSWORD. Or omit --host, and use a tunnel: ssh -L 5000:127.0.0.1:5000 THIS_MACHINE"
)


def ui(experiment: str, host: str, port: int | None, open_browser: bool) -> None:
    """Serve MLflow's pages until Ctrl-C; if the store is a server, only print a link to its pages.

    Args:
        experiment: MLflow's.
        host: the address to listen at.
        port: the port to listen at; None takes 5000, or a free one if that is taken.
        open_browser: whether to open the link, if there is a browser.

    Raises:
        InputError: the address or port cannot be used, other machines would reach a server without authentication,
            nothing is stored yet, or the server fails.
    """
    if repository.store_uri().startswith("http"):
        show(page_of(experiment), open_browser)
        return
    chosen = choose_port(host, port)
    with serving(host, chosen) as server:
        shown = f"[{host}]" if ":" in host else "127.0.0.1" if host in EVERYWHERE else host
        address = f"http://{shown}:{chosen}"
        os.environ["PIPELINE_UI"] = address  # where links lead
        link = page_of(experiment)
        wait_until_it_answers(address, server)
        show(link, open_browser)
        print("Ctrl-C stops it", flush=True)
        server.process.wait()
        raise InputError(f"MLflow's server ended by itself:\n{server.tail()}")


def page_of(experiment: str) -> str:
    """Return a link to the leaderboard of the workspace's data; without prepared data, to all runs."""
    from pipeline.tracking import queries  # noqa: PLC0415 - loads MLflow, 1 s, while the server starts

    summary = json.loads(outs.SUMMARY.read_text(encoding="utf-8")) if outs.SUMMARY.exists() else None
    return queries.leaderboard_link(experiment, summary)


def show(link: str, open_browser: bool) -> None:
    """Print a link; at a terminal of a graphical desktop, also open it in the browser."""
    print(link, flush=True)
    screen = sys.platform == "darwin" or "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ
    if open_browser and screen and sys.stdout.isatty():
        with suppress(webbrowser.Error):
            webbrowser.open(link)


def choose_port(host: str, port: int | None) -> int:
    """Choose a port: the given one, else 5000, else any that is free."""
    try:
        family = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port whose server has just stopped is free
            probe.bind((host, PORT if port is None else port))
            return int(probe.getsockname()[1])
    except OSError as error:
        if port is not None or isinstance(error, socket.gaierror):
            raise InputError(f"{host}:{port or PORT}: cannot listen there: {error.strerror}; choose another") from error
        free = choose_port(host, 0)
        print(f"port {PORT} is taken; this is port {free}", file=sys.stderr)
        return free


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches an address."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def has_authentication() -> bool:
    """Tell whether MLflow's authentication is set up."""
    config = os.environ.get("MLFLOW_AUTH_CONFIG_PATH", "")
    secret = os.environ.get("MLFLOW_FLASK_SERVER_SECRET_KEY", "")
    return bool(secret) and Path(config).is_file() and importlib.util.find_spec("flask_wtf") is not None


def hosts(host: str) -> list[str]:
    """List the host names under which browsers may ask for the pages; MLflow's own list accepts `10.evil.com`."""
    names = {host, "127.0.0.1", "localhost"} - EVERYWHERE
    if host in EVERYWHERE:
        names |= {socket.gethostname(), socket.getfqdn()}
        cards = psutil.net_if_addrs().values()
        names |= {card.address for cards_of in cards for card in cards_of if card.family == socket.AF_INET}
    return sorted(f"[{name}]" if ":" in name else name for name in names)


@dataclass(frozen=True)
class Server:
    """A server's process, and the file that it prints to."""

    process: subprocess.Popen[bytes]
    output: IO[bytes]

    def tail(self) -> str:
        """Return the last lines that it printed."""
        self.output.seek(0)
        return addresses.shown("\n".join(self.output.read().decode(errors="replace").splitlines()[-10:]))


@contextmanager
def serving(host: str, port: int) -> Iterator[Server]:
    """Run MLflow's server; at the end, also by Ctrl-C or SIGTERM, stop it with all its workers."""
    protected = has_authentication()
    if not is_loopback(host) and not protected:
        raise InputError(f"--host {host}: {AUTHENTICATION}")
    command = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", "1"]
    command += ["--allowed-hosts", ",".join(f"{name}{end}" for name in hosts(host) for end in ("", ":*"))]
    command += ["--app-name", "basic-auth"] if protected else []
    own = {"MLFLOW_BACKEND_STORE_URI": repository.store_uri()}  # not as an argument, which all users can read
    root = repository.root()
    with tempfile.TemporaryFile() as output, stopping_at_signals():
        process = subprocess.Popen(
            command, cwd=root, env=unpinned() | own, stdout=output, stderr=output, start_new_session=True
        )
        try:
            yield Server(process, output)
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
        finally:
            stop(process)


@contextmanager
def stopping_at_signals() -> Iterator[None]:
    """Treat SIGTERM, and the end of the terminal, like Ctrl-C."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, processes.interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server and all processes of its session; kill those that do not end in time."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
    process.wait()


def wait_until_it_answers(address: str, server: Server) -> None:
    """Wait for a server; it may end before it answers."""
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and server.process.poll() is None:
        with suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=5):  # noqa: S310 - http
            return
        time.sleep(0.1)
    raise InputError(f"MLflow's server at {address} does not answer:\n{server.tail()}")
