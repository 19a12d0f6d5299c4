"""Deep links into MLflow's pages. Does not import MLflow.

Without `workflowType` in the link, MLflow's sidebar opens on pages about language models, whatever the experiment holds
(mlflow issue 24498).
"""

import os
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

from pipeline import repository

DEFAULT = "http://127.0.0.1:5000"  # where `pipeline ui` and `mlflow ui` serve
TRAINING = {"workflowType": "machine_learning"}


def address() -> str:
    """Locate the pages: PIPELINE_UI, else a tracking server's own, else where `pipeline ui` serves; no password."""
    given = os.environ.get("PIPELINE_UI") or repository.store_uri()
    parts = urlsplit(given)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        return DEFAULT
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))


def runs_link(experiment_id: str, view: str = "") -> str:
    """Link to an experiment's runs, arranged as in a saved view if one is named by its key."""
    shared = {"viewStateShareKey": view} if view else {}
    return _link(f"experiments/{quote(experiment_id, safe='')}/runs", shared)


def run_link(experiment_id: str, run_id: str) -> str:
    """Link to one run: a configuration's or a sweep's."""
    return _link(f"experiments/{quote(experiment_id, safe='')}/runs/{quote(run_id, safe='')}", {})


def model_link(name: str) -> str:
    """Link to a registered model and its versions."""
    return _link(f"models/{quote(name, safe='')}", {})


def _link(page: str, query: dict[str, str]) -> str:
    return f"{address()}/#/{page}?{urlencode(TRAINING | query)}"
