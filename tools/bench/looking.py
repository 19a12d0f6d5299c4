"""Measures the wait of a person who looks at results: commands, report, predictions, and what progress lines cost."""

import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

from conftest import run  # before torch: pipeline pins its kernels

# isort: split
from playwright.sync_api import Browser, sync_playwright
from rich.console import Console

from bench.measured import cost, seconds
from bench.rows import Row
from pipeline.config.params import load
from pipeline.execution import progress
from pipeline.runs import outs, records, sweep
from pipeline.system.progress import Display
from pipeline.table.prepared import Prepared
from pipeline.training import stacks

COMMANDS = {"--help": 0.5, "--version": 0.5, "leaderboard": 0.5, "show": 0.5, "top": 2.0, "runs": 2.0}  # seconds wanted
CHROMIUM = shutil.which("chromium")
PAINTED = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"


def rows(repository: Path) -> Iterator[Row]:
    """Measure in a repository after the default sweep."""
    for name, goal in COMMANDS.items():
        elapsed = median(seconds("pipeline", name, cwd=repository) for _ in range(5))
        yield Row(f"pipeline {name} (median of 5)", elapsed, "s", most=goal)
    yield from ending(repository)
    yield from predictions(repository)
    yield Row("training a stack: with its line at a terminal ÷ without", told(), "×", most=1.02)


def report(path: Path, runs: int) -> Iterator[Row]:
    """Measure a report's size, and how long chromium takes to draw it."""
    yield Row(f"report.html of {runs:,} runs", path.stat().st_size / 1e6, "MB", most=3)
    if not CHROMIUM:  # apt-get install chromium
        return
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        elapsed = median(draw(browser, path) for _ in range(5))
        browser.close()
    yield Row("  opened in chromium (median of 5)", elapsed, "s", most=2)


def draw(browser: Browser, path: Path) -> float:
    page = browser.new_page()
    begin = time.perf_counter()
    page.goto(path.as_uri())  # waits until everything is loaded
    page.evaluate(PAINTED)
    elapsed = time.perf_counter() - begin
    page.close()
    return elapsed


def predictions(repository: Path, count: int = 1_000_000) -> Iterator[Row]:
    """Measure `pipeline predict` on rows of four columns, of which the champion needs three."""
    chance = random.Random(0)
    cells = (",".join(str(chance.randrange(101)) for _ in range(4)) for _ in range(count))
    table = repository / "rows.csv"
    table.write_text("\n".join(["quiz1,quiz2,quiz3,final", *cells]) + "\n", encoding="utf-8")
    took = cost(["pipeline", "predict", table.name, "--output", "predicted.csv"], repository)
    yield Row(f"pipeline predict, {count:,} rows", took.seconds, "s")
    yield Row("  its memory", took.memory, "MB")


def told() -> float:
    """Time training with a progress line on a terminal and without, in turn; return the ratio."""
    prepared = Prepared.load(Path("data/prepared/tensors.safetensors"))
    one = next(run for run in sweep.plan(load()) if run.variant == "linear" and run.batch_size == 1)
    stack = stacks.group([one], prepared.train_rows, prepared.X.shape[1])[0]

    def shown() -> None:
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
            display = Display("train linear", Console(file=nowhere, force_terminal=True, width=120))
            training = progress.Training(display, [stack], prepared.X.shape[1])
            training.start(stack)
            stacks.train(stack, prepared, training.follow)

    def timed(work: Callable[[], object]) -> float:
        begin = time.perf_counter()
        work()
        return time.perf_counter() - begin

    ratios = [timed(shown) / timed(lambda: stacks.train(stack, prepared, lambda *_: None)) for _ in range(15)]
    return median(ratios)


def ending(repository: Path) -> Iterator[Row]:
    """Time what MLflow's pages add to the end of a sweep that is stored in an empty store."""
    with tempfile.TemporaryDirectory() as folder:
        store = {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
        printed = run("python", "-m", "bench.looking", cwd=repository, extra=store).stdout
    names = ("writing views", "writing descriptions", "registering the champion")
    for name, took in zip(names, printed.splitlines()[-1].split(), strict=True):
        yield Row(f"at the end of a sweep: {name}", float(took), "s")


def store_again() -> list[float]:
    """Store the workspace's sweep; return the seconds that views, descriptions and registering took."""
    from pipeline.tracking import models, sync  # noqa: PLC0415 - loads SQLAlchemy, 0.3 s
    from pipeline.tracking.pages import descriptions, views  # noqa: PLC0415

    taken = []
    for places in ([(views, "update")], [(descriptions, "run"), (descriptions, "sweep")], [(models, "update")]):
        spent = [0.0]
        for module, name in places:
            setattr(module, name, clocked(getattr(module, name), spent))
        taken.append(spent)
    params = load()
    sync.restore(params, records.read_evaluated(params.variants), outs.evaluation(), outs.champion())
    return [sum(spent) for spent in taken]


def clocked(function: Callable[..., object], spent: list[float]) -> Callable[..., object]:
    """Wrap a function so that it adds its seconds to `spent`."""

    def timed(*arguments: object, **options: object) -> object:
        begin = time.perf_counter()
        try:
            return function(*arguments, **options)
        finally:
            spent.append(time.perf_counter() - begin)

    return timed


if __name__ == "__main__":
    print(*store_again())
    sys.exit()
