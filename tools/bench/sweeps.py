"""Measures sweeps in fresh clones: the default one, how its seconds are spent, its repeat, and 1,008 runs."""

import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from statistics import median

from conftest import environment, run

from bench import looking
from bench.measured import cloned, cost, experiment, seconds
from bench.rows import Row
from pipeline.runs import outs

LR = f"sweep.lr=[{','.join(f'{number}e-6' for number in range(1, 22))}]"
MANY = ("train.epochs=200", "track.points=200", LR)  # 1,008 runs: 21 learning rates, the rest as in params.yaml


def rows() -> Iterator[Row]:
    """Measure them."""
    with cloned() as repository:
        parts = timed("dvc", "repro", cwd=repository)
        yield Row("dvc repro, 48 runs, empty store", sum(parts.values()), "s", most=15)
        for stage, took in parts.items():
            yield Row(f"  of which {stage}", took, "s")
        for stage in ("train matrix", "evaluate"):
            yield from inside(stage, repository)
        again = median(seconds("dvc", "repro", cwd=repository) for _ in range(5))
        yield Row("dvc repro, nothing changed (median of 5)", again, "s", most=0.8)
        yield from looking.rows(repository)
    took, report = many()
    yield Row("dvc exp run, 1,008 runs × 200 epochs, empty store", took, "s", most=15)
    yield from report


def timed(*command: str, cwd: Path) -> dict[str, float]:
    """Return the seconds of a DVC command, stage by stage; DVC's own work before and after counts as the stage's."""
    told = {"DVC's start, to the first stage": time.perf_counter()}
    with subprocess.Popen(
        command, cwd=cwd, env=environment(PYTHONUNBUFFERED="1"), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for text in process.stdout:
            if text.startswith("Running stage"):
                told[f"stage {text.split(chr(39))[1]}, with DVC's part"] = time.perf_counter()
    if process.returncode:
        sys.exit(f"{' '.join(command)}: ended with {process.returncode}")
    ends = [*list(told.values())[1:], time.perf_counter()]
    return {name: end - begin for (name, begin), end in zip(told.items(), ends, strict=True)}


def inside(stage: str, repository: Path) -> Iterator[Row]:
    """Return how a stage's seconds are spent, without DVC and with an empty store."""
    store = f"sqlite:///{repository.parent / stage.replace(' ', '-')}.db"
    extra = {"MLFLOW_TRACKING_URI": store, "PIPELINE_RETRAIN": "1", "PIPELINE_SUMMARY": "no"}
    command = ("python", "-m", "bench.clocked_stage", *stage.split())
    for told in run(*command, cwd=repository, extra=extra).stdout.splitlines():
        if told.startswith("clocked: "):
            name, _, took = told.removeprefix("clocked: ").rpartition(" ")
            yield Row(f"  {stage} alone: {name}", float(took), "s")


@cache
def many() -> tuple[float, list[Row]]:
    """Return the seconds of 1,008 runs, and the rows of their report."""
    with cloned() as repository:
        return cost(experiment(*MANY), repository).seconds, list(looking.report(repository / outs.REPORT, 1008))
