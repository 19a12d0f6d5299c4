"""A sweep's datasets, as its runs name them in MLflow: the raw table, and the prepared tensors with their folds."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.runs import outs

SCHEMA_LENGTH = 1_000_000  # MLflow accepts no longer one
PURPOSE = "mlflow.data.context"


@dataclass(frozen=True)
class Dataset:
    """A dataset, with tags that say what a run uses it for."""

    name: str
    digest: str
    source_type: str
    source: str
    schema: str
    profile: str
    tags: Mapping[str, str]

    @property
    def identity(self) -> tuple[str, ...]:
        """The dataset's name, and what it is for."""
        return self.name, self.digest, *sorted(f"{key}={value}" for key, value in self.tags.items())

    @property
    def description(self) -> tuple[str, ...]:
        """Everything that MLflow holds of the dataset."""
        return *self.identity, self.source_type, self.source, self.schema, self.profile


def describe(summary: Mapping[str, Any], source_md5: str, data_md5: str) -> list[Dataset]:
    """Describe the raw table and the prepared tensors; their digests are DVC's.

    Args:
        summary: of the prepared data, summary.json.
        source_md5: of the raw table.
        data_md5: of the prepared tensors.
    """
    columns = [*summary["features"], summary["target"]]
    schema = json.dumps({"mlflow_colspec": [{"name": name, "type": "double", "required": True} for name in columns]})
    schema = schema if len(schema) < SCHEMA_LENGTH else ""
    profile = json.dumps({"num_rows": summary["rows"], "num_elements": summary["rows"] * len(columns)})
    name, method = Path(summary["source"]).stem, summary["split"]["method"]
    tested = "cross-validation" if method == "kfold" else "holdout"
    raw, prepared = json.dumps({"uri": summary["source"]}), json.dumps({"uri": str(outs.PREPARED)})
    return [
        Dataset(name, source_md5, "local", raw, schema, profile, {PURPOSE: "training"}),
        Dataset(f"{name} {tested}", data_md5, "local", prepared, schema, profile, {PURPOSE: tested}),
    ]
