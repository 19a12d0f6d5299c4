"""Measures what is kept so that nobody works it out again: seconds with it and without it, of a process each.

Each should save 0.3 s where it is used.
"""

import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from statistics import median

from conftest import run, serving  # before torch: pipeline pins its kernels

# isort: split
from bench.measured import seconds
from bench.rows import Row
from bench.stored import PAGES, page
from pipeline.config.params import load
from pipeline.runs import outs, records
from pipeline.tracking import models
from pipeline.tracking.store import database


def rows(repository: Path, runs: int) -> Iterator[Row]:
    """Measure in a repository whose sweep, of so many runs, is in its SQLite store."""

    def step(*arguments: str) -> float:
        return float(run("python", "-m", "bench.kept", *arguments, cwd=repository).stdout)

    def sync() -> float:
        return seconds("pipeline", "sync", cwd=repository)

    def sync_anew() -> float:
        (repository / ".dvc/tmp/synced").unlink()
        return sync()

    def look() -> float:
        with serving(repository) as address:
            for _ in range(12):
                page(address, PAGES["by time"])  # each of the server's processes opens the store once
            return median(page(address, PAGES["sorted by a metric"]) for _ in range(3))

    def look_anew() -> float:
        with closing(sqlite3.connect(repository / "mlflow.db")) as connection, connection:
            connection.execute("DELETE FROM sqlite_stat1")
        return look()

    sync()
    yield from compared("an empty store, kept by set-up", lambda: step("create"), lambda: step("create", "anew"))
    yield from compared("the champion, read without MLflow", lambda: step("update"), lambda: step("update", "anew"))
    yield from compared(f"sync's note, {runs:,} runs", sync, sync_anew)
    yield from compared(f"SQLite's estimate of rows, MLflow's page by a metric, {runs:,} runs", look, look_anew, 1)


def compared(what: str, kept: Callable[[], float], anew: Callable[[], float], times: int = 3) -> Iterator[Row]:
    """Measure both in turn."""
    with_it, without = (median(taken) for taken in zip(*((kept(), anew()) for _ in range(times)), strict=True))
    yield Row(what, with_it, "s")
    yield Row("  without it", without, "s")
    yield Row("  what it saves", without - with_it, "s", least=0.3)


def main(step: str, anew: bool) -> None:
    """Take one step; print its seconds."""
    begin = time.perf_counter()
    if step == "create":
        if anew:
            database.KEPT = Path("missing")
        with tempfile.TemporaryDirectory() as folder:
            database.create_empty(Path(folder) / "mlflow.db")
    else:
        if anew:
            database.Database.served = lambda *_: None  # type: ignore[method-assign]
        params = load()
        models.update(params, records.read_evaluated(params.variants), outs.champion())
    print(time.perf_counter() - begin)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:] == ["anew"])
