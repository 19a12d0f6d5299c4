"""A stored run as something that predicts: its record, checked, with its weights and the columns they belong to."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.numpy import load

from pipeline import params, predictions, sweep
from pipeline.params import InputError
from pipeline.records import Array
from pipeline.tracking import queries, seals, stored
from pipeline.tracking.display import first_line, shown
from pipeline.tracking.store import Store, answering
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

    @property
    def is_linear(self) -> bool:
        """Tell whether it predicts without its variant's code."""
        return predictions.is_linear(self.tensors)

    def predict(self, X: NDArray[np.float64]) -> Array:
        """Predict y_pred (m, 1), float32, from X (m, k), in the table's units."""
        return predictions.predict(self.variant, self.tensors, X)


@answering()
def identify(experiment: str, run: str) -> str:
    """Return the id of the run that a person names: by id, by fingerprint, or by the first 8 or more digits of that.

    Raises:
        InputError: no run, or more than one configuration's, has this name.
    """
    if not re.fullmatch("[0-9a-f]{8,32}", run):
        raise InputError(f"{shown(run)}: is neither a run id nor a fingerprint; list them with: pipeline runs")
    store = Store.look(experiment)
    found = store.beginning_with(run) if store else []
    names = sorted({one.name for one in found})
    if len({one.tags["fingerprint"] for one in found}) > 1:
        raise InputError(f"{run}: begins the fingerprints of several runs: {', '.join(names[:10])}")
    if store and found:
        return store.find(found[0].tags["fingerprint"])[0].run_id
    if len(run) < 32:
        raise InputError(f"{run}: no run has a fingerprint that begins so; list them with: pipeline runs")
    return run


def recall(experiment: str, run: str) -> Predictor:
    """Read the record of a run, by whichever name `identify` knows, and check that it can predict.

    Raises:
        InputError: there is no such run; its record is malformed, altered or incomplete; it diverged; or its variant is
            not linear and its code here is not the one that trained it.
    """
    run_id = identify(experiment, run)
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
    if not predictor.is_linear:
        check_code(record)
    return predictor


def name_of(record: Stored) -> str:
    """Name a run as its sweep does."""
    told = record.params
    return f"{told['variant']} bs={told['batch_size']} lr={told['lr']} seed={told['seed']}"


def check_code(record: Stored) -> None:
    """Refuse a run whose code is not the one here: only that gives its weights a meaning.

    Raises:
        InputError: naming its commit.
    """
    settings, told = params.check(stored.parse_params(record)), record.params
    size, lr, seed = told["batch_size"], float(told["lr"]), int(told["seed"])
    values = {"variant": told["variant"], "batch_size": size if size == "full" else int(size), "lr": lr, "seed": seed}
    try:
        code = sweep.code_hash(told["variant"])
    except FileNotFoundError:
        code = ""
    here = sweep.fingerprint({"data": record.tags["data_md5"], "code": code, **values, **settings.train.model_dump()})
    if here != record.tags["fingerprint"]:
        raise InputError(
            f"{record.run_id}: variant {told['variant']} is not linear, and its code here is not the one that trained "
            f"this run; predict with that: git checkout {record.commit or 'COMMIT'}"
        )
