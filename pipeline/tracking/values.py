"""Converts the pipeline's values to MLflow's params, tags and times. Does not import MLflow."""

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import md5, sha256
from pathlib import Path
from typing import Any

from pipeline.config.params import Params
from pipeline.runs.run import Run
from pipeline.system import repository

VALUE_LENGTH = 6000  # MLflow silently cuts longer values


def text(value: object) -> str:
    """Convert a param's or tag's value to text; one that MLflow would cut ends in its length and hash."""
    written = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if len(written) <= VALUE_LENGTH:
        return written
    whole = sha256(written.encode()).hexdigest()
    return f"{written[: VALUE_LENGTH - 100]}… {len(written)} characters, sha256 {whole}"


def sweep_params(params: Params, label: str) -> dict[str, str]:
    """Return params.yaml, and the data's label, as the params of a sweep's run."""
    return {key: text(value) for key, value in ({"data": label} | flat(params.model_dump())).items()}


def run_params(run: Run, params: Params, summary: Mapping[str, Any]) -> dict[str, str]:
    """Return the data's label, and all that configures a run, named as in params.yaml except for the sweep's axes.

    Batch size and lr are there a second time for MLflow's charts, which know neither `full` nor logarithmic axes, and
    label an axis with the param's own name.

    Args:
        run: the run.
        params: params.yaml.
        summary: of the prepared data, summary.json.
    """
    own = {name: value for name, value in vars(run).items() if name != "fingerprint" and value is not None}
    rows = summary["train_rows"][0]
    own |= {"data": data_label(summary), "log10 of lr": round(math.log10(run.lr), 6)}
    own |= {"rows per minibatch": rows if run.batch_size == "full" else min(run.batch_size, rows)}
    return {key: text(value) for key, value in (own | flat({"data": params.data.model_dump()})).items()}


def data_label(summary: Mapping[str, Any]) -> str:
    """Name a sweep's data: the table, and 6 digits of a hash over its content, target and split.

    Runs with the same label were tested on the same rows and may be ranked against each other. The label holds nothing
    that would have to be quoted in a search.

    Args:
        summary: of the prepared data, summary.json.
    """
    same = json.dumps([summary["source_md5"], summary["target"], summary["split"]], sort_keys=True)
    table = re.sub(r"[^\w.-]+", "-", _stem(summary))
    return f"{table} {sha256(same.encode()).hexdigest()[:6]}"


def table_name(summary: Mapping[str, Any]) -> str:
    """Name a sweep's table in `a-z0-9_-` alone; one that has nothing of these is named by a hash.

    Args:
        summary: of the prepared data, summary.json.
    """
    slug = re.sub("[^a-z0-9_-]+", "-", _stem(summary).lower()).strip("-")
    return slug or f"table-{sha256(_stem(summary).encode()).hexdigest()[:6]}"


def _stem(summary: Mapping[str, Any]) -> str:
    return Path(summary["source"]).stem


def flat(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Join the keys of nested mappings with dots."""
    joined: dict[str, object] = {}
    for key, value in values.items():
        joined |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return joined


def source_tags() -> dict[str, str]:
    """Name the code that makes a run, including in the tags that MLflow's pages show."""
    tags = repository.code_tags()
    shown = {
        "mlflow.source.git.commit": tags.get("git_commit"),
        "mlflow.source.name": tags.get("dvc_stage", "pipeline"),
        "mlflow.source.type": "LOCAL",
        "mlflow.user": repository.user(),
    }
    return tags | {key: value for key, value in shown.items() if value}


def md5_of(written: str) -> str:
    """Hash a text."""
    return md5(written.encode(), usedforsecurity=False).hexdigest()


def weights_md5(content: bytes) -> str:
    """Hash a weights file's content."""
    return md5(content, usedforsecurity=False).hexdigest()


def milliseconds(seconds: float) -> int:
    """Convert a time to MLflow's unit."""
    return int(seconds * 1000)


def now() -> str:
    """Return the current time as text."""
    return datetime.now(UTC).isoformat(timespec="seconds")
