"""A store with two sweeps and runs that diverged, served by `pipeline ui`, and a browser to look at it."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from conftest import HANG_SECONDS, copy_checkout, environment, free_port, run, shorten

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page, Request, Response, ViewportSize

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome") or ""
# The assistant's panel covers a third of a page until a person closes it; MLflow keeps that in the browser.
ASSISTANT = """
localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true');
localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false');
"""
# Without authentication there are no users; MLflow's pages ask nevertheless.
MLFLOWS_OWN = "/ajax-api/2.0/mlflow/users/current"
# The table of runs, when MLflow replaces it while it is still being made, as another view is chosen.
REPLACED = "AG Grid: unable to find bean reference frameworkOverrides"
# What a browser tells a page that resizes parts of itself as it is told their sizes: nothing is lost; MLflow prints it.
RESIZED = "ResizeObserver loop completed with undelivered notifications."
# MLflow's charts, drawn before their panel has a size, as happens on a slow machine; they are drawn again at once.
UNMEASURED = "attribute transform: Expected number"
ABORTED = "net::ERR_ABORTED"  # a page was left before it had everything
# More runs than MLflow's pages load at once, 100, nearly all of them worse than the first sweep's; the last diverges.
LATER = [f"{1e-8 * 1.06**place:.4g}" for place in range(109)] + ["1e-3"]


@dataclass(frozen=True)
class Served:
    """A repository, and where its pages are: the address and the link that `pipeline ui` prints."""

    repository: Path
    address: str
    link: str


@dataclass
class Watched:
    """A page of a browser, and what went wrong on it: errors, failed requests, requests to other hosts."""

    page: "Page"
    faults: list[str] = field(default_factory=list)

    def watch(self) -> None:
        self.page.add_init_script(ASSISTANT)
        self.page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        self.page.on("console", self._hear)
        self.page.on("response", self._see)
        self.page.on("request", lambda request: self._check(request.url))
        self.page.on("requestfailed", self._miss)

    def _check(self, url: str) -> None:
        if not url.startswith(("http://127.0.0.1:", "file:", "data:", "blob:", "about:")):
            self.faults.append(f"asks another host: {url}")

    def _hear(self, message: "ConsoleMessage") -> None:
        # A failed request is also a message, whose location is the request's.
        url = str(message.location.get("url"))
        resized = "/static-files/" in url and message.text.endswith(RESIZED)
        unmeasured = "/static-files/" in url and UNMEASURED in message.text
        own = MLFLOWS_OWN in url or message.text.startswith(REPLACED) or resized or unmeasured
        if message.type == "error" and not own:
            self.faults.append(f"console: {message.text} ({url})")

    def _see(self, response: "Response") -> None:
        if response.status >= 400 and MLFLOWS_OWN not in response.url:
            self.faults.append(f"{response.status}: {response.url}")

    def _miss(self, request: "Request") -> None:
        if request.failure != ABORTED:
            self.faults.append(f"{request.failure}: {request.url}")


@contextmanager
def opened(
    browser: "Browser", width: int = 1440, height: int = 900, dark: bool = False, offline: bool = False
) -> Iterator[Watched]:
    """Open an empty page, without another's cookies and storage; at the end, fail if anything went wrong on it."""
    size: ViewportSize = {"width": width, "height": height}
    context = browser.new_context(viewport=size, color_scheme="dark" if dark else "light", offline=offline)
    context.set_default_timeout(60_000)
    watched = Watched(context.new_page())
    watched.watch()
    yield watched
    context.close()
    assert watched.faults == []


@pytest.fixture(scope="session")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a sweep of 4 runs, and a later one of 110 over the same data, of which one diverges."""
    folder = shorten(copy_checkout(tmp_path_factory.mktemp("swept")))
    run("dvc", "repro", cwd=folder)
    settings = ("-S", "variants=[matrix]", "-S", f"sweep.lr=[{','.join(LATER)}]", "-S", "sweep.batch_size=[full]")
    run("dvc", "exp", "run", "--temp", "--name", "later", *settings, cwd=folder)
    return folder


@pytest.fixture(scope="session")
def served(swept: Path) -> Iterator[Served]:
    """The pages of `swept`; at the end, Ctrl-C leaves no process behind."""
    port = free_port()
    command = ["pipeline", "ui", "--no-open", "--port", str(port)]
    process = subprocess.Popen(command, cwd=swept, env=environment(), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    link = process.stdout.readline().strip()
    assert process.stdout.readline().startswith("Ctrl-C")
    below = psutil.Process(process.pid).children(recursive=True)
    yield Served(swept, f"http://127.0.0.1:{port}", link)
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(HANG_SECONDS) == 0
    assert not psutil.wait_procs(below, timeout=HANG_SECONDS)[1]


@pytest.fixture(scope="session")
def browser() -> "Iterator[Browser]":
    """Debian's chromium, which Playwright drives as it is."""
    api = pytest.importorskip("playwright.sync_api", reason="needs Playwright: make setup")
    if not CHROMIUM:
        pytest.skip("needs chromium; on Debian: apt-get install chromium")
    options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield started
        started.close()


@pytest.fixture
def page(browser: "Browser") -> "Iterator[Page]":
    """A page of a window that shows many rows at once."""
    with opened(browser, height=1800) as watched:
        yield watched.page
