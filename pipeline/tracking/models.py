"""Models of stored runs: those that predict, and the registered ones.

There is a registered model for each table. Its alias `champion` names the version to serve.

The evaluation gives the alias to the sweep's champion and notes that version in a tag of the registered model. An alias
that names another version was moved by a person, here or on MLflow's pages: it stays there until `pipeline promote`
without a run gives it back to the sweeps.
"""

import json
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.numpy import load

from pipeline.config import params
from pipeline.config.axes import AXES
from pipeline.config.params import Params
from pipeline.errors import InputError, first_line
from pipeline.evaluation import predictions
from pipeline.evaluation.choice import best_run
from pipeline.metrics import RUN_METRICS
from pipeline.runs import outs
from pipeline.runs.fingerprints import PACKAGE, code_hash, run_fingerprint
from pipeline.runs.names import run_name
from pipeline.runs.records import Array, Record
from pipeline.runs.sweep import configured
from pipeline.system import repository
from pipeline.system.files import md5_of
from pipeline.tracking import queries, seals, validation
from pipeline.tracking.comparison import Comparison
from pipeline.tracking.pages import links
from pipeline.tracking.runs import WEIGHTS, StoredRun
from pipeline.tracking.store.backend import Version
from pipeline.tracking.store.location import WAIT_SECONDS, StoreError
from pipeline.tracking.store.store import Store, answering
from pipeline.tracking.validation import StoredRecord
from pipeline.tracking.values import table_name

if TYPE_CHECKING:  # it imports MLflow
    from pipeline.tracking.store.client import Client

CHAMPION = "champion"  # the alias
BY_SWEEP = "mlflow.pipeline.promoted"  # the tag with the version that a sweep gave the alias to
# What a model carries of this package: with kernels pinned and predictions made as here, wherever it is loaded.
CODE = (
    "__init__.py",
    "errors.py",
    "evaluation/__init__.py",
    "evaluation/predictions.py",
    "system/__init__.py",
    "system/kernels.py",
)
FORWARD_CODE = ("training/__init__.py", "training/parameters.py", "variants/*.py")
PACKAGES = ("mlflow", "numpy", "pandas", "safetensors")


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

    def predict(self, X: NDArray[np.float64]) -> Array:
        """Predict y_pred (m, 1), float32, from X (m, k), in the table's units."""
        return predictions.predict(self.variant, self.tensors, X)


def predictor(experiment: str, run: str) -> Predictor:
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
    if record.seal == seals.ALTERED or (record.weights and md5 and md5_of(record.weights) != md5):
        raise InputError(f"{run_id}: was altered after it ended; recompute it: pipeline reproduce {run_id}")
    if not record.weights:
        raise InputError(f"{run_id}: its record has no weights; recompute it: pipeline reproduce {run_id}")
    try:
        columns = Columns.model_validate(json.loads(record.summary))
        ranges = {name: columns.columns[name] for name in columns.features}
    except (ValidationError, KeyError) as error:
        raise InputError(f"{run_id}: its sweep's summary.json is malformed: {first_line(error)}") from error
    columns = columns.model_copy(update={"columns": ranges})
    found = Predictor(
        run_id, run_name(record.params), record.params["variant"], columns, record.weights, load(record.weights)
    )
    if not predictions.is_linear(found.tensors):
        check_code(record)
    return found


def check_code(record: StoredRecord) -> None:
    """Refuse a run whose code is not the one here: only that gives its weights a meaning.

    Raises:
        InputError: naming its commit.
    """
    settings, told = params.check(validation.parse_params(record)), record.params
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


def model_name(experiment: str, summary: Mapping[str, Any]) -> str:
    """Name the registered model of an experiment and a table; MLflow reads some characters in its own way."""
    return re.sub(r"[^\w.-]+", "-", f"{experiment}-{table_name(summary)}")


def update(settings: Params, evaluated: Sequence[Record], champion: str, insist: bool = False) -> str:
    """Give the alias to the sweep's champion, unless a person moved it; register that run unless it is.

    Of a configuration's runs the best is served, by the metric that chose the configuration: seeds are only draws, and
    a bad one, such as a model that never left its initial values, must not be served. DVC's experiments register
    nothing. A store that fails costs a warning, as the runs are stored already.

    Args:
        settings: params.yaml.
        evaluated: the sweep's runs.
        champion: their best configuration, empty if there is none.
        insist: take the alias back from a version that a person promoted.

    Returns:
        what was done, empty if the alias stays where a sweep put it.
    """
    if not champion or repository.in_experiment():
        return ""
    try:
        store, record = Store.open(settings.track.experiment), best_run(evaluated, champion, settings.evaluate.metric)
        if record is None:
            raise InputError(f"{champion}: no run of this configuration has weights to serve")
        with store.lock:
            return _update(store, settings, record, insist)
    except (StoreError, InputError) as error:
        print(f"WARNING: the champion is not registered: {error}; register it later: pipeline sync", file=sys.stderr)
        return ""


def _update(store: Store, settings: Params, record: Record, insist: bool) -> str:
    stored = store.of_many([record.run.fingerprint]).get(record.run.fingerprint, ())
    run = Comparison(store).decide(stored, record).standing
    if run is None:
        raise InputError(f"{record.run.name}: is not stored")
    name = model_name(settings.track.experiment, json.loads(outs.SUMMARY.read_text(encoding="utf-8")))
    held = None if insist else store.backend.served(name, CHAMPION)
    if held and is_made_of(held, run):
        return ""
    registry = registry_of(store)
    model = registry.model(name)
    at = model.aliases.get(CHAMPION) if model else None
    current = registry.version(name, at) if at else None
    by_hand = model is not None and current is not None and model.tags.get(BY_SWEEP) != str(current.number)
    if current and is_made_of(current, run) and not (by_hand and insist):
        return ""
    if by_hand and not insist:
        return (
            f"{name}: version {at} was promoted by hand and stays the champion; this sweep's is {run.name}; "
            "to serve it: pipeline promote"
        )
    number = _version_of(store, registry, name, run, settings)
    registry.tag_model(name, BY_SWEEP, str(number))
    registry.set_alias(name, CHAMPION, number)
    return _said(name, number, run)


def _said(name: str, number: int, run: StoredRun) -> str:
    return f"{name}: version {number} is the champion: {run.name}\n{links.model_link(name)}"


def is_made_of(version: Version, run: StoredRun) -> bool:
    """Tell whether a version is a run's, and its files are still there."""
    return version.run_id == run.run_id and version.is_here


@answering()
def promote(settings: Params, run: str) -> str:
    """Register a run's model, unless it is, and give its version the alias; return what was done.

    Raises:
        InputError: the run cannot predict, or the store fails.
    """
    record = predictor(settings.track.experiment, run)
    store = Store.open(settings.track.experiment)
    with store.lock:
        chosen = store.run(record.run_id)
        registry = registry_of(store)
        name = model_name(settings.track.experiment, record.columns.model_dump())
        number = _version_of(store, registry, name, chosen, settings)
        registry.set_alias(name, CHAMPION, number)
    return _said(name, number, chosen)


@answering()
def run_of(experiment: str, summary: Mapping[str, Any], number: int | None) -> str:
    """Return the id of the run that a version of a table's model was made of; by default the champion's.

    Raises:
        InputError: there is no such version, or the store fails.
    """
    store, name = Store.look(experiment), model_name(experiment, summary)
    registry = registry_of(store) if store else None
    model = registry.model(name) if registry else None
    chosen = number or (model.aliases.get(CHAMPION) if model else None)
    if registry is None or model is None or chosen is None:
        raise InputError(
            f"{name}: no model of this name is registered, or none is its champion; "
            "run: make repro, or pipeline promote RUN; a sweep of which every run diverged has no champion"
        )
    versions = {one.number: one for one in registry.versions(name)}
    if chosen not in versions:
        raise InputError(f"{name}: has no version {chosen}; it has {', '.join(map(str, sorted(versions)))}")
    return validation.run_id(versions[chosen].run_id)


def registry_of(store: Store) -> "Client":
    """Open the registry that belongs to a store, waiting for a server only as a command does: no run depends on it."""
    from pipeline.tracking.store.client import Client  # noqa: PLC0415 - loads MLflow, 1 s

    return Client(store.backend.uri, WAIT_SECONDS)


def _version_of(store: Store, registry: "Client", name: str, run: StoredRun, settings: Params) -> int:
    """Find the version that was made of a run, or make it; return its number."""
    made = next((one for one in registry.versions(name) if is_made_of(one, run)), None)
    if made:
        return made.number
    metric, own = settings.evaluate.metric, predictor(settings.track.experiment, run.run_id)
    table = Path(own.columns.source).name
    if registry.model(name) is None:
        serve = f"mlflow models serve -m models:/{name}@{CHAMPION} --env-manager local"
        registry.create_model(name, f"Predicts {own.columns.target} of {table}: `pipeline predict FILE`, or `{serve}`")
    shown = {key: run.metrics[key] for key in RUN_METRICS if key in run.metrics}
    tags = {"configuration": run.name, "metric": metric, "value": f"{shown.get(metric, '')}", "run_id": run.run_id}
    tags |= {key: run.tags[key] for key in ("fingerprint", "data_md5", "source_md5", "weights_md5") if key in run.tags}
    logged = registry.create_logged(store.experiment, run, name)
    with tempfile.TemporaryDirectory() as folder:
        registry.log_files(logged, run, Path(folder) / "model", _served(own, Path(folder), tags))
    registry.log_metrics(logged, run, list(shown))
    said = (
        f"{run.name}, {metric} {tags['value']}: {own.columns.target} from {', '.join(own.columns.features)} ({table})"
    )
    return registry.create_version(name, logged, run, tags, said)


def _served(own: Predictor, folder: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    # Gathers in a folder what MLflow is to keep of a model.
    import pandas as pd  # noqa: PLC0415 - 0.3 s, and a champion seldom changes

    weights, linear = folder / WEIGHTS, predictions.is_linear(own.tensors)
    weights.write_bytes(own.weights)
    for pattern in CODE if linear else (*CODE, *FORWARD_CODE):
        for path in PACKAGE.glob(pattern):
            copy = folder / "pipeline" / path.relative_to(PACKAGE)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    columns, packages = own.columns, PACKAGES if linear else (*PACKAGES, "torch")
    return {
        "python_model": str(Path(__file__).with_name("served_model.py")),
        "code_paths": [str(folder / "pipeline")],
        "artifacts": {"weights": str(weights)},
        "model_config": {"variant": own.variant, "features": columns.features, "target": columns.target},
        "input_example": pd.DataFrame({name: [of.min, of.mean, of.max] for name, of in columns.columns.items()}),
        "pip_requirements": [f"{name}=={version(name).partition('+')[0]}" for name in packages],  # PyPI has no +cpu
        "metadata": dict(metadata),
    }
