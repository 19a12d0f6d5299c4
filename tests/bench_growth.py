"""Measure how a sweep grows: time a run, peak memory and the store's size, of `dvc exp run` in fresh clones."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from conftest import copy_checkout, environment

GOALS = {1000: "15 s", 10_000: "90 s, 1.5 GB"}
MEASURED = "10 100 1000 10000"  # 100000 takes the memory and patience of a person who asks for it


def settings(runs: int) -> list[str]:
    """Return options for so many runs of one variant, a multiple of 10: ten learning rates, the rest are seeds."""
    seeds = ",".join(map(str, range(1, runs // 10 + 1)))
    rates = ",".join(f"{number}e-6" for number in range(1, 11))
    own = ["variants=[linear]", "train.epochs=200", "track.points=200", "sweep.batch_size=[full]"]
    return [part for one in (*own, f"sweep.lr=[{rates}]", f"sweep.seed=[{seeds}]") for part in ("-S", one)]


def measure(runs: int) -> tuple[float, float, float]:
    """Return the seconds, the most MB that one process took, and the store's MB."""
    with tempfile.TemporaryDirectory() as folder:
        repository = copy_checkout(Path(folder))
        begin = time.perf_counter()
        process = subprocess.Popen(
            ["dvc", "exp", "run", *settings(runs)], cwd=repository, env=environment(), stdout=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)  # of it and all processes below it that it waited for
        elapsed = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"{runs} runs: dvc exp run ended with {process.returncode}")
        store = [*repository.glob("mlflow.db*"), *repository.glob("mlartifacts/**/*")]
        size = sum(path.stat().st_size for path in store if path.is_file())
    return elapsed, usage.ru_maxrss * 1024 / 1e6, size / 1e6


def main() -> None:
    """Print the table."""
    print("   runs   seconds   ms a run   peak MB   store MB   goal", flush=True)
    for runs in map(int, os.environ.get("GROWTH", MEASURED).split()):
        elapsed, peak, size = measure(runs)
        told = f"{runs:7,} {elapsed:9.1f} {elapsed / runs * 1e3:10.1f} {peak:9,.0f} {size:10,.1f}"
        print(f"{told}   {GOALS.get(runs, '')}", flush=True)


if __name__ == "__main__":
    main()
