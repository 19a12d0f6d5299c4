"""Hydraflow: Hydra's multirun, each job an MLflow run.

See: https://daizutabi.github.io/hydraflow/
"""

import sys
from dataclasses import dataclass

import hydraflow
import mlflow
import work
from mlflow.entities import Run


@dataclass
class Config:
    """The axes."""

    batch_size: int = 1
    lr: float = 1e-6
    seed: int = 1


@hydraflow.main(Config, force_new_run=True)  # type: ignore[untyped-decorator] # or it looks for earlier ones in a file store
def app(run: Run, cfg: Config) -> None:  # noqa: ARG001 - hydraflow's own form
    """Train and track one job."""
    for epoch, mse in enumerate(work.train(cfg.batch_size, cfg.lr, cfg.seed)):
        mlflow.log_metric("train/mse", mse, step=epoch)


sys.argv += ["--multirun", *(f"{name}={','.join(map(str, values))}" for name, values in work.AXES.items())]
work.timed(app)
