"""Take the pictures in docs/images: MLflow's pages, the report and DVC's plots of a clone's runs; see render.py."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from conftest import environment, serving
from mlflow import MlflowClient
from mlflow.entities import Experiment
from PIL import Image
from playwright.sync_api import Browser, Page, Request, ViewportSize, sync_playwright

from pipeline.config.params import load
from pipeline.tracking.pages import links

VIEWS = {
    "leaderboard": "Leaderboard",
    "loss-curves": "Loss curves",
    "lr-batch-size": "Learning rate and batch size",
    "sweeps": "Sweeps",
    "went-wrong": "What went wrong",
}
CHARTS = ("loss-curves", "lr-batch-size")  # views that MLflow opens as a table unless their link says so
SAVED = "mlflow.sharedViewState."
SIZE = ViewportSize(width=1440, height=860)
ASKING = {"fetch", "xhr"}  # a worker's script is reported as asked for, and never as answered
NO_ASSISTANT = """
localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
localStorage.setItem("mlflow.assistant.panelOpen_v1", "false");
"""  # MLflow's first visit would cover a quarter of each page


def take(clone: Path, images: Path, browser: Browser) -> None:
    """Take every picture of a clone in which the guide's commands have run."""
    for command in (["python", "tools/vega.py"], ["dvc", "plots", "show", "-o", "dvc_plots"]):
        subprocess.run(command, cwd=clone, env=environment(), check=True)
    images.mkdir(exist_ok=True)
    with serving(clone) as address:
        os.environ["PIPELINE_UI"] = address
        for scheme in ("light", "dark"):
            context = browser.new_context(viewport=SIZE, color_scheme=scheme)
            context.add_init_script(NO_ASSISTANT)
            for name, link in pages(clone).items() if scheme == "light" else [("report-dark", report(clone))]:
                shoot(context.new_page(), link, images / f"{name}.png")
            context.close()


@contextmanager
def started() -> Iterator[Browser]:
    """Start chromium."""
    file = chromium() or sys.exit("docs: chromium is missing; on Debian: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=file, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def chromium() -> str | None:
    """Find Debian's or Ubuntu's chromium."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


def pages(clone: Path) -> dict[str, str]:
    """List the pages by the name of their picture."""
    client = MlflowClient(f"sqlite:///{clone / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(load(clone / "params.yaml").track.experiment)
    ident = experiment.experiment_id
    [sweep] = client.search_runs([ident], "tags.role = 'sweep' and tags.dvc_experiment = 'rates'")
    [best] = client.search_runs(
        [ident], "tags.role = 'run' and status = 'FINISHED'", order_by=["metrics.`cv/mse`"], max_results=1
    )
    model = next(one.name for one in client.search_registered_models() if one.name.startswith(experiment.name))
    views = {name: links.runs_link(ident, view_key(experiment, title)) for name, title in VIEWS.items()}
    return {
        **{name: link + ("&compareRunsMode=CHART" if name in CHARTS else "") for name, link in views.items()},
        "sweep": links.run_link(ident, sweep.info.run_id),
        "run": links.run_link(ident, best.info.run_id),
        "model": links.model_link(model),
        "report": report(clone),
        "plots": (clone / "dvc_plots/index.html").as_uri(),
    }


def report(clone: Path) -> str:
    """Link to the report, at its pictures."""
    return f"{(clone / 'report.html').as_uri()}#pictures"


def view_key(experiment: Experiment, title: str) -> str:
    """Find an experiment's saved view by the beginning of its name; it may end with the table's."""
    views: dict[str, str] = {
        json.loads(value)["name"]: key.removeprefix(SAVED)
        for key, value in experiment.tags.items()
        if key.startswith(SAVED)
    }
    for name, key in views.items():
        if name.startswith(title):
            return key
    sys.exit(f"docs: no saved view {title}; there are: {', '.join(views)}")


def shoot(page: Page, link: str, file: Path) -> None:
    """Take a picture of a page once it is drawn, in at most 256 colours."""
    pending: set[Request] = set()
    page.on("request", lambda request: pending.update([request] if request.resource_type in ASKING else []))
    page.on("requestfinished", lambda request: pending.difference_update([request]))
    page.on("requestfailed", lambda request: pending.difference_update([request]))
    page.goto(link)
    settle(page, pending)
    picture = Image.open(BytesIO(page.screenshot(animations="disabled")))
    picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)
    print(f"docs: {file.name} {file.stat().st_size // 1024} KB", flush=True)
    page.close()


def settle(page: Page, pending: Collection[Request]) -> None:
    """Wait until a page has neither asked for anything nor changed for 2 s, but 60 s at most."""
    size, quiet, until = 0, 0, time.monotonic() + 60
    while quiet < 4 and time.monotonic() < until:
        page.wait_for_timeout(500)
        before, size = size, page.evaluate("document.getElementsByTagName('*').length + document.body.innerText.length")
        quiet = 0 if pending or size != before else quiet + 1
    if quiet < 4:
        print(f"docs: {page.url} is not settled; it waits for {[request.url for request in pending]}", file=sys.stderr)
