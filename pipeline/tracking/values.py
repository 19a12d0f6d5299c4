"""Converts the pipeline's values to MLflow's params, tags, datasets and times. Does not import MLflow."""

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from pipeline.config.params import Params
from pipeline.config.yaml import parse
from pipeline.errors import InputError
from pipeline.metrics import RUN_METRICS, rounded, summarized
from pipeline.runs import outs
from pipeline.runs.records import Record
from pipeline.runs.run import Run
from pipeline.system import repository
from pipeline.tracking.runs import Dataset, text

SCHEMA_LENGTH = 1_000_000  # MLflow accepts no longer one
PURPOSE = "mlflow.data.context"  # a dataset's tag
PARAMS = "params.yaml"


def sweep_params(params: Params, label: str) -> dict[str, str]:
    """Return params.yaml, and the data's label, as the params of a sweep's run."""
    return {key: text(value) for key, value in ({"data": label} | flat(params.model_dump())).items()}


def sweep_metrics(evaluated: Sequence[Record], champion: str) -> dict[str, float]:
    """Return the metrics of a sweep's own run: its champion's means and deviations over the seeds, and counts of runs.

    Args:
        evaluated: all runs of the sweep.
        champion: its configuration, empty if every run diverged.
    """
    best = [record for record in evaluated if record.run.configuration == champion and record.is_whole]
    diverged = sum(bool(record.diverged) for record in evaluated)
    found = {"sweep/runs": float(len(evaluated)), "sweep/diverged": float(diverged), "champion/runs": float(len(best))}
    for key in RUN_METRICS:
        mean, deviation = summarized(record.metrics[key] for record in best if key in record.metrics)
        found |= {f"champion/{key}": mean, f"champion/{key} std": deviation}
    return rounded(found)  # as many digits as the leaderboard has


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
    own |= {"rows per minibatch": run.minibatch(rows)}
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


def datasets(summary: Mapping[str, Any], source_md5: str, data_md5: str) -> list[Dataset]:
    """Describe the raw table, and the prepared tensors with their folds, as MLflow's datasets; the digests are DVC's.

    Args:
        summary: of the prepared data, summary.json.
        source_md5: of the raw table.
        data_md5: of the prepared tensors.
    """
    columns = [*summary["features"], summary["target"]]
    schema = json.dumps({"mlflow_colspec": [{"name": name, "type": "double", "required": True} for name in columns]})
    schema = schema if len(schema) < SCHEMA_LENGTH else ""
    profile = json.dumps({"num_rows": summary["rows"], "num_elements": summary["rows"] * len(columns)})
    name, method = _stem(summary), summary["split"]["method"]
    tested = "cross-validation" if method == "kfold" else "holdout"
    raw, prepared = json.dumps({"uri": summary["source"]}), json.dumps({"uri": str(outs.PREPARED)})
    return [
        Dataset(name, source_md5, "local", raw, schema, profile, {PURPOSE: "training"}),
        Dataset(f"{name} {tested}", data_md5, "local", prepared, schema, profile, {PURPOSE: tested}),
    ]


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
    joined = {"dvc_grid": grid} if (grid := changed_keys()) else {}
    return tags | {key: value for key, value in shown.items() if value} | joined


def changed_keys() -> str:
    """Name the keys of params.yaml that this process's DVC experiment changes, and the commit that it starts from.

    Experiments of one grid, as `dvc exp run --queue -S train.epochs=100,200` queues them, have this in common; DVC
    itself runs each alone.

    Returns:
        such as `train.epochs,variants 1a2b3c4`; empty without an experiment, if it changes none of them, or if one of
        the two files cannot be read.
    """
    baseline = os.environ.get("DVC_EXP_BASELINE_REV")
    if not os.environ.get("DVC_EXP_NAME") or not baseline:
        return ""
    before = repository.git("show", f"{baseline}:./{PARAMS}")
    try:
        texts = [before or "", Path(PARAMS).read_text(encoding="utf-8")]
        read = [parse(text, PARAMS) for text in texts]
    except (OSError, ValueError, InputError):
        return ""
    old, new = (flat(one) if isinstance(one, dict) else {} for one in read)
    keys = ",".join(sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key)))
    return f"{keys} {baseline[:7]}" if keys else ""


def now() -> str:
    """Return the current time as text."""
    return datetime.now(UTC).isoformat(timespec="seconds")
