"""MLflow as its documentation tracks a PyTorch loop, without the model, which would take seconds a run.

See: https://mlflow.org/docs/latest/ml/deep-learning/pytorch
"""

import mlflow
import work


def sweep() -> None:
    """Train and track one run after another."""
    mlflow.set_experiment("peers")
    for config in work.grid():
        with mlflow.start_run():
            mlflow.log_params(config)
            for epoch, mse in enumerate(work.train(**config)):
                mlflow.log_metric("train/mse", mse, step=epoch)


work.timed(sweep)
