"""Optuna's grid search with its MLflow callback, which stores a trial's params and final value.

See: https://optuna-integration.readthedocs.io/en/stable/reference/generated/optuna_integration.MLflowCallback.html
"""

import os

import optuna
import work
from optuna_integration import MLflowCallback


def objective(trial: optuna.Trial) -> float:
    """Train a trial."""
    config = {name: trial.suggest_categorical(name, values) for name, values in work.AXES.items()}
    *_, last = work.train(**config)
    return last


def sweep() -> None:
    """Run the trials."""
    callback = MLflowCallback(tracking_uri=os.environ["MLFLOW_TRACKING_URI"], metric_name="train/mse")
    study = optuna.create_study(study_name="peers", sampler=optuna.samplers.GridSampler(work.AXES))
    study.optimize(objective, n_trials=len(work.grid()), callbacks=[callback])


optuna.logging.set_verbosity(optuna.logging.WARNING)
work.timed(sweep)
