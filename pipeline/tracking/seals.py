"""Seals: hashes of a record, written when its run ends, that show whether it was altered since. Does not import MLflow.

`seal` covers status, times, params, last metrics, datasets and the tags that say where a run comes from, `seal_files`
the curve and the artifacts. What people and MLflow add (notes, names, tags and metrics of their own) stays outside, as
do the tags that name processes and repeats. A seal shows that something was changed, not by whom: anyone who can write
to the store can also write a matching seal.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Self

from pipeline.metrics import COST, FINAL, NESTED, RUN_METRICS

TAGS = frozenset(
    {
        *("role", "fingerprint", "sweep", "mlflow.parentRunId", "champion", "contradicts", "diverged", "restored"),
        "left",
        *("data_md5", "source_md5", "weights_md5", "seal_files"),
        *("git_commit", "git_dirty", "git_changes", "dvc_stage", "dvc_experiment", "dvc_baseline"),
        *("mlflow.source.git.commit", "mlflow.source.name", "mlflow.source.type", "mlflow.user"),
        *("architecture", "kernels", "torch", "record_format"),
    }
)
SWEEP_METRICS = frozenset(
    {
        *("sweep/runs", "sweep/diverged", "champion/runs", *(f"champion/{key}" for key in FINAL), *NESTED, COST),
        *(f"champion/{key}{kind}" for key in RUN_METRICS for kind in ("", " std")),
    }
)
METRICS = frozenset({*RUN_METRICS, *SWEEP_METRICS})
SEALED, UNSEALED, ALTERED = "sealed", "unsealed", "altered"
ENCODE = json.JSONEncoder(sort_keys=True).encode
CONFIRMATIONS = "confirmed"  # prefix of the tags that count repeats; they have a seal of their own, as the counts grow


@dataclass(frozen=True)
class Sealed:
    """What `seal` covers of a run; of a sweep's run, neither status nor times, as they still change.

    status: MLflow's. start, end: in milliseconds since 1970. datasets: each a tuple of texts.
    """

    params: Mapping[str, str]
    tags: Mapping[str, str]
    datasets: frozenset[tuple[str, ...]]
    status: str = ""
    start: int | None = None
    end: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)

    def with_(self, tags: Mapping[str, str], metrics: Mapping[str, float] | None = None) -> Self:
        """Return the contents with the tags and metrics that are stored along with the seal."""
        return replace(self, tags={**self.tags, **tags}, metrics={**self.metrics, **(metrics or {})})

    def seal(self) -> str:
        """Hash the contents."""
        values: dict[str, object] = {"status": self.status, "start": self.start, "end": self.end}
        values |= {"params": dict(self.params), "datasets": sorted(self.datasets)}
        values["tags"] = {key: value for key, value in self.tags.items() if key in TAGS}
        metrics = {key: value for key, value in (self.metrics or {}).items() if key in METRICS}
        values["metrics"] = metrics if metrics or self.status else None  # older sweeps have none
        return digest(values)

    def state(self) -> str:
        """Tell whether the seal among the tags matches.

        It holds one hash, or two if metrics were stored after it: a process killed in between leaves the record as it
        was before, which the second matches.
        """
        held = self.tags.get("seal", "")
        return UNSEALED if not held else SEALED if self.seal() in held.split() else ALTERED


def digest(values: object) -> str:
    """Hash plain values; floats by the shortest text that restores their bits."""
    return sha256(ENCODE(values).encode()).hexdigest()


def of_files(points: Iterable[tuple[int, float]], weights: bytes) -> str:
    """Seal a run's curve, step and value of each stored point, and its weights file."""
    curve = sorted((step, value) for step, value in points if math.isfinite(value))
    return digest({"curve": curve, "weights": sha256(weights).hexdigest()})


def of_confirmations(tags: Mapping[str, str]) -> str:
    """Seal the tags that count a run's repeats."""
    counts = {key: value for key, value in tags.items() if key.startswith(CONFIRMATIONS)}
    return digest({"fingerprint": tags.get("fingerprint"), **counts})
