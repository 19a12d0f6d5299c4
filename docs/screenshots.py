"""Take the pictures in docs/images: MLflow's pages, the report and DVC's plots of a clone's runs; see render.py."""

import json
import os
import shutil
import subprocess
import sys
from io import BytesIO
from pathlib import Path

from conftest import environment, serving
from mlflow import MlflowClient
from mlflow.entities import Experiment
from PIL import Image
from playwright.sync_api import Browser, Error, Page, ViewportSize, sync_playwright

from pipeline.params import load
from pipeline.tracking import links

VIEWS = {
    "leaderboard": "Leaderboard",
    "loss-curves": "Loss curves",
    "lr-batch-size": "Learning rate and batch size",
    "sweeps": "Sweeps",
    "went-wrong": "What went wrong",
}
SAVED = "mlflow.sharedViewState."
SIZE = ViewportSize(width=1440, height=860)


def take(clone: Path, images: Path) -> None:
    """Take every picture of a clone in which the guide's commands have run."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or sys.exit("docs: chromium is missing")
    subprocess.run(["dvc", "plots", "show", "-o", "dvc_plots"], cwd=clone, env=environment(), check=True)
    with sync_playwright() as playwright, serving(clone) as address:
        os.environ["PIPELINE_UI"] = address
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for name, link in pages(clone).items():
            shoot(browser, link, images / f"{name}.png")
        shoot(browser, (clone / "report.html").as_uri(), images / "report-dark.png", dark=True)
        browser.close()


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
    return {
        **{name: links.runs_link(ident, view_key(experiment, title)) for name, title in VIEWS.items()},
        "sweep": links.run_link(ident, sweep.info.run_id),
        "run": links.run_link(ident, best.info.run_id),
        "model": links.model_link(model),
        "report": (clone / "report.html").as_uri(),
        "plots": (clone / "dvc_plots/index.html").as_uri(),
    }


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


def shoot(browser: Browser, link: str, file: Path, dark: bool = False) -> None:
    """Take a picture of a page once it is drawn, in at most 256 colours."""
    page = browser.new_page(viewport=SIZE, color_scheme="dark" if dark else "light")
    page.goto(link)
    settle(page)
    picture = Image.open(BytesIO(page.screenshot(animations="disabled")))
    file.parent.mkdir(exist_ok=True)
    picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)
    print(f"docs: {file.name} {file.stat().st_size // 1024} KB", flush=True)
    page.close()


def settle(page: Page) -> None:
    """Wait until a page asks for nothing more, and its charts have been drawn."""
    try:
        page.wait_for_load_state("networkidle", timeout=15_000)
    except Error:
        print(f"docs: {page.url} goes on loading", file=sys.stderr)
    page.wait_for_timeout(1500)
