"""A stored run in plain values: its names, is it whole, does its seal match? Does not import MLflow."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from types import MappingProxyType
from typing import NamedTuple

from pipeline.config.axes import AXES
from pipeline.runs.names import run_name
from pipeline.system import processes
from pipeline.tracking import seals

VALUE_LENGTH = 6000  # MLflow silently cuts longer values
NOTHING: Mapping[str, str] = MappingProxyType({})
Points = Mapping[str, Mapping[int, float]]  # of curves that grow: fingerprint -> step -> value
RUNNING, SCHEDULED, FINISHED, FAILED, KILLED = "RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"
PARENT = "mlflow.parentRunId"  # the tag with the id of the sweep's run
KIND = {"mlflow.experimentKind": "custom_model_development"}  # of experiments: MLflow's pages then show training
NOTE = "mlflow.note.content"  # the tag with a run's description
WEIGHTS = "weights.safetensors"
HIDDEN = "mlflow.pipeline."  # prefix, out of sight on MLflow's pages, that tags of the machinery have in the store
MACHINERY = frozenset(
    {
        *("host", "pid", "pid_started", "heartbeat", "attempt", "note_md5"),
        *("seal", "seal_files", "seal_confirmed"),
    }
)


@dataclass(frozen=True)
class Experiment:
    """An experiment as MLflow holds it."""

    name: str
    experiment_id: str
    artifact_location: str
    is_deleted: bool
    tags: Mapping[str, str]


class Point(NamedTuple):
    """One value of a metric; `at` is in milliseconds since 1970."""

    step: int
    value: float
    at: int

    def rank(self) -> tuple[int, int, float]:
        """Return what orders a metric's points in MLflow: the last is the greatest."""
        return self.step, self.at, self.value


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


@dataclass(frozen=True)
class StoredRun:
    """A run as it was read.

    title: what MLflow's pages call it; a person may have changed it. start, end: in milliseconds since 1970.
    metrics: the last value of each.
    """

    run_id: str
    title: str
    status: str
    start: int
    end: int | None
    artifact_uri: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    datasets: tuple[Dataset, ...]

    @property
    def name(self) -> str:
        """Name the run as the outs do, from its params; its title if it has none, as a sweep's run."""
        needed = ("variant", *(axis.name for axis in AXES if axis.default is None))
        return run_name(self.params) if all(key in self.params for key in needed) else self.title

    @property
    def is_complete(self) -> bool:
        """Tell whether the run's training is stored whole: it finished, or it diverged."""
        return self.status == FINISHED or (self.status == FAILED and "diverged" in self.tags)

    @property
    def is_at_work(self) -> bool:
        """Tell whether the run says RUNNING and its process is alive."""
        return self.status == RUNNING and processes.is_alive(self.tags, time.time())

    @property
    def sealed(self) -> seals.Sealed:
        """Return what `seal` covers of the run."""
        if self.tags.get("role") == "sweep":
            described = frozenset(one.description for one in self.datasets)
            own = {key: value for key, value in self.metrics.items() if key in seals.SWEEP_METRICS}
            return seals.Sealed(self.params, self.tags, described, metrics=own)
        # The rest of a dataset is shared by all runs, and sealed with the sweep.
        named = frozenset(one.identity for one in self.datasets)
        return seals.Sealed(self.params, self.tags, named, self.status, self.start, self.end, self.metrics)

    @property
    def seal_state(self) -> str:
        """Tell whether the run is sealed, altered, or unsealed: it has not ended, or is older than seals."""
        sealed = self.tags.get("role") == "sweep" or self.is_complete
        return self.sealed.state() if sealed else seals.UNSEALED


def stored_key(key: str) -> str:
    """Return the name that a tag has in the store."""
    return HIDDEN + key if key in MACHINERY else key


def known_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return a stored run's tags under the pipeline's own names; older versions did not hide any."""
    hidden = {key.removeprefix(HIDDEN): value for key, value in tags.items() if key.startswith(HIDDEN)}
    return {key: value for key, value in tags.items() if not key.startswith(HIDDEN)} | hidden


def status_of(diverged: str) -> str:
    """Return the status of a trained run; `diverged` says where it diverged, empty if it did not."""
    return FAILED if diverged else FINISHED


def text(value: object) -> str:
    """Convert a param's or tag's value to text; one that MLflow would cut ends in its length and hash."""
    written = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if len(written) <= VALUE_LENGTH:
        return written
    whole = sha256(written.encode()).hexdigest()
    return f"{written[: VALUE_LENGTH - 100]}… {len(written)} characters, sha256 {whole}"


def milliseconds(seconds: float) -> int:
    """Convert a time to MLflow's unit."""
    return int(seconds * 1000)
