"""Deep links into MLflow's pages. Does not import MLflow.

Without `workflowType` in the link, MLflow's sidebar opens on pages about language models, whatever the experiment holds
(mlflow issue 24498).
"""

import os
from collections.abc import Sequence
from urllib.parse import quote, urlencode

from pipeline.system import addresses, repository

DEFAULT = "http://127.0.0.1:5000"  # where `pipeline ui` and `mlflow ui` serve
TRAINING = {"workflowType": "machine_learning"}


def address() -> str:
    """Locate the pages: PIPELINE_UI, else a tracking server's own, else where `pipeline ui` serves; no password."""
    given = os.environ.get("PIPELINE_UI") or repository.store_uri()
    parsed = addresses.parse(given) if given.startswith(("http://", "https://")) else None
    return f"{parsed.scheme}://{parsed.place.rstrip('/')}" if parsed else DEFAULT


def runs_link(experiment_id: str, view: str = "") -> str:
    """Link to an experiment's runs, arranged as in a saved view if one is named by its key."""
    return f"{address()}/{runs_page(experiment_id, view)}"


def runs_page(experiment_id: str, view: str = "", mode: str = "") -> str:
    """Link to an experiment's runs from another of the pages; with mode CHART, to their charts."""
    chosen = {"viewStateShareKey": view, "compareRunsMode": mode}
    return _page(("experiments", experiment_id, "runs"), {key: value for key, value in chosen.items() if value})


def run_link(experiment_id: str, run_id: str) -> str:
    """Link to one run: a configuration's or a sweep's."""
    return f"{address()}/{run_page(experiment_id, run_id)}"


def run_page(experiment_id: str, run_id: str, artifact: str = "") -> str:
    """Link to one run, or to one of its artifacts, from another of the pages, wherever they are served."""
    return _page(("experiments", experiment_id, "runs", run_id, *(["artifacts", artifact] if artifact else [])), {})


def model_link(name: str) -> str:
    """Link to a registered model and its versions."""
    return f"{address()}/{_page(('models', name), {})}"


def _page(path: Sequence[str], query: dict[str, str]) -> str:
    return f"#/{'/'.join(quote(part, safe='') for part in path)}?{urlencode(TRAINING | query)}"
