"""Compare a sweep here with what others take for theirs: the same table and configurations, one after another.

Each of tests/peers is run in .venv-bench, as its documentation shows; the times are without Python's start and imports.
Ours are of whole commands: DVC, every stage, five folds a run that no peer trains, the evaluation and the storing.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from conftest import REPOSITORY, copy_checkout, environment, run

PEERS = {
    "bare": "bare PyTorch loop, tracks nothing",
    "optuna_callback": "Optuna, MLflowCallback, final value only",
    "hydraflow_sweep": "hydraflow, multirun",
    "mlflow_loop": "MLflow's loop, log_metric per epoch",
    "ray_tune": "Ray Tune, MLflowLoggerCallback",
}
PYTHON = REPOSITORY / ".venv-bench/bin/python"
SETTINGS = ["train.epochs=200", "track.points=200"]
FEW = ["variants=[linear]", "sweep.lr=[1e-6,1e-5]"]  # 24 runs
MANY = [f"sweep.lr=[{','.join(f'{number}e-6' for number in range(1, 22))}]"]  # 1,008 runs


def peer(name: str) -> float:
    """Return the seconds a run takes a peer."""
    with tempfile.TemporaryDirectory() as folder:
        store = f"sqlite:///{folder}/mlflow.db"
        variables = environment(MLFLOW_TRACKING_URI=store, RAY_USAGE_STATS_ENABLED="0", MLFLOW_LOGGING_LEVEL="WARNING")
        command = [str(PYTHON), str(REPOSITORY / "tests/peers" / f"{name}.py")]
        result = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"{name}: ended with {result.returncode}\n{result.stderr}")
    seconds: float = json.loads(result.stdout.splitlines()[-1])["seconds"]
    return seconds


def ours(settings: list[str]) -> float:
    """Return the seconds of `dvc exp run` in a fresh clone."""
    with tempfile.TemporaryDirectory() as folder:
        repository = copy_checkout(Path(folder))
        options = [part for setting in SETTINGS + settings for part in ("-S", setting)]
        begin = time.perf_counter()
        run("dvc", "exp", "run", *options, cwd=repository)
        return time.perf_counter() - begin


def main() -> None:
    """Print the table."""
    left_out = os.environ.get("PEERS_WITHOUT", "").split()
    print("24 runs × 200 epochs                       seconds a run", flush=True)
    measured = {}
    for name, words in PEERS.items():
        if name not in left_out:
            measured[name] = peer(name)
            print(f"{words:42} {measured[name]:8.4f}", flush=True)
    print(f"{'ours, dvc exp run as a whole':42} {ours(FEW) / 24:8.4f}", flush=True)
    many = ours(MANY)
    print(f"{'ours, 1,008 runs, dvc exp run as a whole':42} {many / 1008:8.4f}, {many:.1f} s (goal 15 s)", flush=True)
    print(f"{'bare loop ÷ ours at 1,008 runs':42} {measured['bare'] * 1008 / many:8.1f} × (goal 5 ×)", flush=True)


if __name__ == "__main__":
    main()
