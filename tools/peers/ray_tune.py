"""Ray Tune with its MLflow callback, a report each epoch; one learning rate and one seed, as a run takes 10 s and more.

See: https://docs.ray.io/en/latest/tune/examples/tune-mlflow.html
"""

import os

import ray
import work
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback

AXES = {name: values if name == "batch_size" else values[:1] for name, values in work.AXES.items()}


def trainable(config: work.Config) -> None:
    """Train a trial."""
    for mse in work.train(**config):
        tune.report({"mse": mse})


def sweep() -> None:
    """Run the trials, one on each core."""
    callback = MLflowLoggerCallback(tracking_uri=os.environ["MLFLOW_TRACKING_URI"], experiment_name="peers")
    space = {name: tune.grid_search(values) for name, values in AXES.items()}
    folder = os.path.abspath("tune")  # noqa: PTH100
    tune.Tuner(
        trainable, param_space=space, run_config=tune.RunConfig(callbacks=[callback], storage_path=folder, verbose=0)
    ).fit()


here = os.path.dirname(work.__file__)  # noqa: PTH120
ray.init(
    include_dashboard=False,
    log_to_driver=False,
    _node_ip_address="127.0.0.1",
    runtime_env={"env_vars": {"PYTHONPATH": here}},
)
work.timed(sweep, len(AXES["batch_size"]))
