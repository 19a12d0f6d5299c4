"""Measures the cost of storing: a sweep's runs through the pipeline, and the same rows through sqlite3 alone."""

import gc
import json
import math
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from conftest import run  # before numpy: pipeline pins its kernels

# isort: split
import numpy as np

from bench.rows import Row
from pipeline.config import params
from pipeline.runs import sweep
from pipeline.runs.records import Record
from pipeline.runs.run import Run
from pipeline.tracking.session import Session
from pipeline.tracking.store import releases

EPOCHS = 200  # and points of each curve
SWEEPS = {12: (["matrix"], 1), 48: (["matrix", "linear", "module", "handwritten"], 1)}
SWEEPS |= {1008: (SWEEPS[48][0], 21)}  # variants, and the number of lr; 4 batch sizes and 3 seeds each
TABLES = ("runs", "params", "tags", "metrics", "latest_metrics", "inputs", "input_tags")


def settings(count: int) -> params.Params:
    """Return params for a number of runs."""
    values = params.load().model_dump()
    values["variants"], rates = SWEEPS[count]
    values["train"]["epochs"] = values["track"]["points"] = EPOCHS
    values["sweep"]["lr"] = [float(f"{number}e-7") for number in range(1, rates + 1)]
    return params.check(values)


def record(one: Run, chance: np.random.Generator) -> Record:
    """Make up a trained and evaluated run on 5 rows of 3 features, with 5 folds."""
    shapes = {"W": (6, 3, 1), "b": (6, 1), "grad_W": (3, 1), "grad_b": (1,), "mean": (6, 3), "scale": (6, 3)}
    tensors = {name: chance.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    curve = chance.exponential(size=EPOCHS).astype(np.float32)
    keys = ("cv/mse", "cv/mae", "cv/r2", "excess_mse", "grad_error")
    metrics = {"train/mse": float(curve[-1]), **{key: float(chance.exponential()) for key in keys}}
    return Record(one, "", curve, tensors, metrics=metrics)


class Clock:
    """Adds up seconds of this process by name: of CPU, and of the clock."""

    def __init__(self) -> None:
        """Start at zero."""
        self.seconds: dict[str, tuple[float, float]] = {}

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Add the seconds of a block."""
        cpu, passed = time.process_time(), time.perf_counter()
        yield
        before = self.seconds.get(name, (0.0, 0.0))
        self.seconds[name] = before[0] + time.process_time() - cpu, before[1] + time.perf_counter() - passed


def store(count: int) -> Clock:
    """Store a sweep's runs, stack by stack, and then their evaluation."""
    chosen, chance, clock = settings(count), np.random.default_rng(0), Clock()
    runs = sweep.plan(chosen)
    records = [record(one, chance) for one in runs]
    with clock.time("open"):
        session = Session(chosen, runs, os.getpid())
    stacks: dict[tuple[str, object], list[Record]] = {}
    for one in records:
        stacks.setdefault((one.run.variant, one.run.batch_size), []).append(one)
    for stack in stacks.values():
        with clock.time("start"):
            session.start([one.run for one in stack])
        with clock.time("finish"):
            session.finish(stack)
    session.close("FINISHED", "")
    again = Session(chosen, runs, os.getpid())  # another process's, as a stage's
    with clock.time("evaluation"):
        again.measure(records)
    with clock.time("close"):
        again.conclude([], "")
        again.close("FINISHED", "")
    return clock


def plain(store: Path, copy: Path) -> float:
    """Write the rows of a store again, with sqlite3 alone, in one transaction; return the CPU seconds."""
    with sqlite3.connect(store) as source:
        made = [
            sql
            for (sql,) in source.execute(
                "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'"
            )
        ]
        rows = {name: source.execute(f"SELECT * FROM {name}").fetchall() for name in TABLES}
    source.close()
    target = sqlite3.connect(copy)
    target.execute("PRAGMA journal_mode=WAL")
    for sql in made:
        target.execute(sql)
    begin = time.process_time()
    with target:
        for name, content in rows.items():
            target.executemany(f"INSERT INTO {name} VALUES ({', '.join('?' * len(content[0]))})", content)
    took = time.process_time() - begin
    target.close()
    return took


def measure(count: int, way: str) -> dict[str, float]:
    """Return milliseconds of CPU a run, by activity."""
    if way == "client":
        releases.RELEASES = {}
    gc.set_threshold(1_000_000)  # as in the storing process
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        os.environ["DVC_ROOT"] = folder  # where the artifacts go
        found = {name: cpu for name, (cpu, _) in store(count).seconds.items()}
        found["sqlite3"] = plain(Path(folder) / "mlflow.db", Path(folder) / "plain.db")
    return {name: 1000 * one / count for name, one in found.items()}


def rows() -> Iterator[Row]:
    """Measure the cost of a run in sweeps of each size, each in a new process."""
    for count, way in [*((count, "tables") for count in SWEEPS), (48, "client")]:
        found = json.loads(run("python", "-m", "bench.storing", str(count), way, cwd=Path.cwd()).stdout)
        whole = sum(found[name] for name in ("start", "finish", "evaluation"))
        if way == "client":
            yield Row(f"storing {count:,} runs by MLflow's client: CPU a run", whole, "ms")
            continue
        yield Row(f"storing {count:,} runs × {EPOCHS} points: CPU a run", whole, "ms", most=4)
        for name in ("start", "finish", "evaluation"):
            yield Row(f"  of which {name}", found[name], "ms")
        yield Row("  once a sweep: opening and closing", count * (found["open"] + found["close"]) / 1000, "s")
        yield Row("  the same rows by sqlite3 alone: CPU a run", found["sqlite3"], "ms")
        goal = 4 if count == max(SWEEPS) else math.inf
        yield Row("  ours ÷ sqlite3 alone", whole / found["sqlite3"], "×", most=goal)


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]), sys.argv[2])))
