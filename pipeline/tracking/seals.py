"""Seals: hashes of a record, written when its run ends, which show whether it was altered since. Knows no MLflow.

`seal` covers status, times, params, last metrics, datasets and the tags that say where a run comes from, `seal_files`
the curve and the artifacts. What people and MLflow add (notes, names, tags and metrics of their own) stays outside, as
do the tags of the machinery. A seal finds what was changed, not who holds the keys: whoever can write the store can
write a fitting seal as well.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from typing import Self

from pipeline.records import RUN_METRICS

TAGS = frozenset(
    {
        *("role", "fingerprint", "sweep", "mlflow.parentRunId", "champion", "contradicts", "diverged", "restored"),
        *("data_md5", "source_md5", "weights_md5", "seal_files"),
        *("git_commit", "git_dirty", "git_changes", "dvc_stage", "dvc_experiment", "dvc_baseline"),
        *("mlflow.source.git.commit", "mlflow.source.name", "mlflow.source.type", "mlflow.user"),
        *("architecture", "kernels", "torch", "record_format"),
    }
)
SEALED, UNSEALED, ALTERED = "sealed", "unsealed", "altered"
CONFIRMATIONS = "confirmed"  # how the tags begin that count repeats; they have a seal of their own: runs go on counting


@dataclass(frozen=True)
class Contents:
    """What `seal` covers of a run: only a parent's params, tags and datasets, as its status goes back and forth.

    status, start, end: MLflow's words, in milliseconds since 1970. datasets: a tuple of texts each.
    """

    params: Mapping[str, str]
    tags: Mapping[str, str]
    datasets: frozenset[tuple[str, ...]]
    status: str = ""
    start: int | None = None
    end: int | None = None
    metrics: Mapping[str, float] | None = None

    def with_(self, tags: Mapping[str, str], metrics: Mapping[str, float] | None = None) -> Self:
        """Return the contents with tags, and metrics, that are stored with the seal."""
        known = dict(self.metrics or {}) | dict(metrics or {})
        return replace(self, tags={**self.tags, **tags}, metrics=known if self.metrics is not None else None)

    def seal(self) -> str:
        """Hash the contents."""
        values = asdict(self) | {"datasets": sorted(self.datasets)}
        values["tags"] = {key: value for key, value in self.tags.items() if key in TAGS}
        if self.metrics is not None:
            values["metrics"] = {key: value for key, value in self.metrics.items() if key in RUN_METRICS}
        return digest(values)

    def state(self) -> str:
        """Say whether the seal among the tags fits.

        It holds one hash, or two where figures were stored after it: a process that is killed in between leaves the
        record as it was before, which the second fits.
        """
        held = self.tags.get("seal", "")
        return UNSEALED if not held else SEALED if self.seal() in held.split() else ALTERED


def digest(values: object) -> str:
    """Hash plain values; floats by the shortest text that gives their bits back."""
    return sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def of_files(points: Iterable[tuple[int, float]], weights: bytes) -> str:
    """Seal a run's curve, step and value of each stored point, and its weights file."""
    curve = sorted((step, value) for step, value in points if math.isfinite(value))
    return digest({"curve": curve, "weights": sha256(weights).hexdigest()})


def of_confirmations(tags: Mapping[str, str]) -> str:
    """Seal the tags that count a run's repeats."""
    counts = {key: value for key, value in tags.items() if key.startswith(CONFIRMATIONS)}
    return digest({"fingerprint": tags.get("fingerprint"), **counts})
