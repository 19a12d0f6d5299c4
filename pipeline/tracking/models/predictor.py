"""A stored run as something that predicts: its record, checked, with its weights and the columns they belong to."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.numpy import load

from pipeline.config import params
from pipeline.config.axes import AXES
from pipeline.errors import InputError
from pipeline.evaluation import predictions
from pipeline.runs.fingerprints import code_hash, run_fingerprint
from pipeline.runs.names import run_name
from pipeline.runs.records import Array
from pipeline.runs.sweep import configured
from pipeline.tracking import queries, seals, stored
from pipeline.tracking.display import first_line
from pipeline.tracking.stored import Stored
from pipeline.tracking.values import weights_md5


class Range(BaseModel):
    """A column's values, in the table's units."""

    model_config = ConfigDict(allow_inf_nan=False)

    min: float
    mean: float
    max: float


class Columns(BaseModel):
    """What a record's summary.json says about its table's columns; its own check covers the names."""

    source: str
    source_md5: str
    features: list[str]
    target: str
    columns: dict[str, Range]


@dataclass(frozen=True)
class Predictor:
    """A run's fit on all training rows.

    weights: its safetensors file; tensors: what that holds.
    """

    run_id: str
    name: str
    variant: str
    columns: Columns
    weights: bytes
    tensors: Mapping[str, Array]

    @property
    def features(self) -> Sequence[str]:
        """The names of the columns that it needs."""
        return self.columns.features

    @property
    def target(self) -> str:
        """The name of the column that it predicts."""
        return self.columns.target

    def predict(self, X: NDArray[np.float64]) -> Array:
        """Predict y_pred (m, 1), float32, from X (m, k), in the table's units."""
        return predictions.predict(self.variant, self.tensors, X)


def recall(experiment: str, run: str) -> Predictor:
    """Read the record of a run, by whichever name `queries.identify` knows, and check that it can predict.

    Raises:
        InputError: there is no such run; its record is malformed, altered or incomplete; it diverged; or its variant is
            not linear and its code here is not the one that trained it.
    """
    run_id, _ = queries.identify(experiment, run)
    record = queries.recall(experiment, run_id)
    md5 = record.tags.get("weights_md5")
    if "diverged" in record.tags:
        raise InputError(f"{run_id}: diverged in {record.tags['diverged']}, and cannot predict")
    if record.seal == seals.ALTERED or (record.weights and md5 and weights_md5(record.weights) != md5):
        raise InputError(f"{run_id}: was altered after it ended; recompute it: pipeline reproduce {run_id}")
    if not record.weights:
        raise InputError(f"{run_id}: its record has no weights; recompute it: pipeline reproduce {run_id}")
    try:
        columns = Columns.model_validate(json.loads(record.summary))
        ranges = {name: columns.columns[name] for name in columns.features}
    except (ValidationError, KeyError) as error:
        raise InputError(f"{run_id}: its sweep's summary.json is malformed: {first_line(error)}") from error
    columns = columns.model_copy(update={"columns": ranges})
    predictor = Predictor(
        run_id, name_of(record), record.params["variant"], columns, record.weights, load(record.weights)
    )
    if not predictions.is_linear(predictor.tensors):
        check_code(record)
    return predictor


def name_of(record: Stored) -> str:
    """Name a run as its sweep does."""
    return run_name(record.params)


def check_code(record: Stored) -> None:
    """Refuse a run whose code is not the one here: only that gives its weights a meaning.

    Raises:
        InputError: naming its commit.
    """
    settings, told = params.check(stored.parse_params(record)), record.params
    point = {axis.name: axis.read(told.get(axis.name, str(axis.default))) for axis in AXES}
    try:
        code = code_hash(told["variant"])
    except FileNotFoundError:
        code = ""
    values = configured(settings, told["variant"], point)
    if run_fingerprint(record.tags["data_md5"], code, values) != record.tags["fingerprint"]:
        raise InputError(
            f"{record.run_id}: variant {told['variant']} is not linear, and its code here is not the one that trained "
            f"this run; predict with that: git checkout {record.commit or 'COMMIT'}"
        )
