"""Runs a stage and prints how its seconds are spent: `python -m bench.clocked_stage train VARIANT` or `… evaluate`."""

import sys
import time
from collections.abc import Callable
from importlib import import_module
from pkgutil import resolve_name

import psutil

from pipeline.tracking import tracker

CLOCKED = {
    "train": [
        ("pipeline.runs.checked", "check_prepared", "checking the prepared data"),
        ("pipeline.execution.trainer", "Trainer.train", "training"),
        ("pipeline.train", "write", "writing its outs"),
        ("pipeline.tracking.tracker", "Tracker.close", "waiting for the store"),
    ],
    "evaluate": [
        ("pipeline.evaluation.outcome", "metrics", "computing metrics"),
        ("pipeline.evaluation.leaderboard", "ranked", "ranking"),
        ("pipeline.evaluation.pictures", "draw", "drawing pictures"),
        ("pipeline.evaluation.pictures", "write", "writing pictures"),
        ("pipeline.evaluation.report", "render", "making the report"),
        ("pipeline.tracking.tracker", "Tracker.close", "waiting for the store"),
    ],
}
spent: dict[str, float] = {}


def clock(module: str, name: str, told: str) -> None:
    """Let a function, named by module and name, add its seconds to those of its purpose."""
    path, _, last = f"{module}.{name}".rpartition(".")
    place = resolve_name(path)
    setattr(place, last, clocked(getattr(place, last), told))


def clocked(function: Callable[..., object], told: str) -> Callable[..., object]:
    def timed(*arguments: object, **options: object) -> object:
        begin = time.perf_counter()
        try:
            return function(*arguments, **options)
        finally:
            spent[told] = spent.get(told, 0.0) + time.perf_counter() - begin

    return timed


def main(stage: str) -> None:
    """Run a stage as `python -m` does."""
    begun = psutil.Process().create_time()
    tracker.launch_ahead()
    own = import_module(f"pipeline.{stage}")
    spent["Python and imports"] = time.time() - begun
    for place in CLOCKED[stage]:
        clock(*place)
    own.main()
    spent["all else"] = time.time() - begun - sum(spent.values())
    for told, took in spent.items():
        print(f"clocked: {told} {took:.3f}")


if __name__ == "__main__":
    main(sys.argv.pop(1))
