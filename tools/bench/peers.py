"""Compares a sweep with the same sweep in other tools: the same table and configurations, one after another.

Each of tools/peers is run in .venv-bench, as its documentation shows; the times are without Python's start and imports.
Ours are of whole commands: DVC, every stage, five folds a run that no peer trains, the evaluation and the storing.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from statistics import median

from conftest import REPOSITORY, environment

from bench.growth import rates
from bench.measured import cloned, cost, experiment
from bench.rows import Row
from bench.sweeps import many

PEERS = {
    "optuna_callback": "Optuna, MLflowCallback, final value only",
    "hydraflow_sweep": "hydraflow, multirun",
    "mlflow_loop": "MLflow's loop, log_metric per epoch",
    "ray_tune": "Ray Tune, MLflowLoggerCallback",
}
PYTHON = REPOSITORY / ".venv-bench/bin/python"
FEW = ("train.epochs=200", "track.points=200", "variants=[linear]", "sweep.lr=[1e-6,1e-5]")  # 24 runs
LINEAR = ("train.epochs=200", "track.points=200", "variants=[linear]", rates(84))  # 1,008 runs
EACH = "a run of 200 epochs"


def rows() -> Iterator[Row]:
    """Measure each tool."""
    bare = median(peer("bare")[0] for _ in range(3))
    yield Row(f"bare PyTorch loop, tracks nothing: {EACH} (of 24, median of 3)", bare, "s")
    for name, words in PEERS.items():
        took, runs = peer(name)
        yield Row(f"{words}: {EACH} (of {runs})", took, "s")
    with cloned() as repository:
        yield Row(f"ours, dvc exp run as a whole: {EACH} (of 24)", cost(experiment(*FEW), repository).seconds / 24, "s")
    ours = many()[0] / 1008
    yield Row(f"ours, dvc exp run as a whole: {EACH} (of 1,008, four variants)", ours, "s")
    yield Row("  bare loop ÷ ours at 1,008 runs", bare / ours, "×", least=5)
    with cloned() as repository:
        linear = cost(experiment(*LINEAR), repository).seconds / 1008
    yield Row(f"ours, dvc exp run as a whole: {EACH} (of 1,008, nn.Linear as the bare loop)", linear, "s")
    yield Row("  bare loop ÷ ours at 1,008 runs of its variant", bare / linear, "×", least=5)


def peer(name: str) -> tuple[float, int]:
    """Return a peer's seconds a run, and the number of its runs."""
    with tempfile.TemporaryDirectory() as folder:
        store = f"sqlite:///{folder}/mlflow.db"
        variables = environment(MLFLOW_TRACKING_URI=store, RAY_USAGE_STATS_ENABLED="0", MLFLOW_LOGGING_LEVEL="WARNING")
        command = [str(PYTHON), str(REPOSITORY / "tools/peers" / f"{name}.py")]
        result = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"{name}: ended with {result.returncode}\n{result.stderr}")
    found = json.loads(result.stdout.splitlines()[-1])
    return float(found["seconds"]), int(found["runs"])
