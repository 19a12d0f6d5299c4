"""A run's record as a store returns it: data that others may have written, checked for its form before any use."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load

from pipeline.config import params
from pipeline.config.axes import AXES, Axis
from pipeline.config.params import Params
from pipeline.config.yaml import TEXT_BYTES, parse
from pipeline.errors import InputError, first_line, refuse, shown
from pipeline.runs.records import CURVE, FORMAT
from pipeline.runs.sweep import PROPOSED, train_settings
from pipeline.tracking.runs import PARENT, StoredRun, text
from pipeline.tracking.values import flat

PATCH_BYTES = 2**26
WEIGHTS_BYTES = 2**28
HEADER_BYTES = 2**14  # of a weights file, beside its numbers
REQUIRED = {
    "fingerprint": "[0-9a-f]{32}",
    "sweep": "[0-9a-f]{12}",
    "data_md5": "[0-9a-f]{32}",
    "source_md5": "[0-9a-f]{32}",
    PARENT: "[0-9a-f]{32}",
}
OPTIONAL = {
    "architecture": "[0-9A-Za-z_]{1,40}",
    "kernels": "[0-9a-z]{1,40}",
    "torch": r"[0-9]+(\.[0-9]+)+[0-9A-Za-z.+]{0,40}",
    "git_commit": "[0-9a-f]{40}",
    "git_changes": r"[0-9a-f]{12}([0-9a-f]{52})?\.patch",
    "record_format": "[0-9]{1,4}",
    "weights_md5": "[0-9a-f]{32}",
    "contradicts": "[0-9a-f]{32}",
    "diverged": "[ -~]{1,6000}",
    "left": "[ -~]{1,6000}",
}


@dataclass(frozen=True)
class StoredRecord:
    """What MLflow holds of a run, in plain values: all that it takes to reproduce it.

    metrics: the last value of each. points: the stored curve, step -> train/mse. weights: a safetensors file, empty
    if missing. params_yaml and summary: the sweep's params.yaml and summary.json. patch: how the code differed from
    its commit; patch_uri: where the patch lies. evaluated: whether the sweep's evaluation was stored. seal:
    whether the run is sealed, unsealed or altered.
    """

    run_id: str
    status: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    points: Mapping[int, float]
    weights: bytes
    params_yaml: str
    summary: str
    patch: bytes
    patch_uri: str
    evaluated: bool
    seal: str

    @property
    def commit(self) -> str:
        """The commit of its code, empty if none is on record."""
        return self.tags.get("git_commit", "")


class Summary(BaseModel):
    """What a record's summary.json must hold, as far as it is used here."""

    model_config = ConfigDict(strict=True)

    source_md5: str
    rows: int = Field(ge=1, lt=2**31)
    features: list[str]
    target: str
    train_rows: list[int] = Field(min_length=1)


def run_id(value: str) -> str:
    """Check a run's id.

    Raises:
        InputError: it is not 32 hexadecimal digits.
    """
    if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{32}", value):
        raise InputError(
            f"{shown(value)}: is not a run id or fingerprint, of 32 hexadecimal digits, or 8 or more of them; "
            "list them with: pipeline top, or pipeline runs"
        )
    return value


def check_tags(name: str, tags: Mapping[str, str]) -> None:
    """Check the tags that say where a run comes from.

    Raises:
        InputError: naming each that is missing or malformed.
    """
    faults = []
    for key, form in (REQUIRED | OPTIONAL).items():
        value = tags.get(key)
        if value is None and key in OPTIONAL:
            continue
        if not isinstance(value, str) or not re.fullmatch(form, value):
            faults.append(f"tag {key}: got {'nothing' if value is None else shown(value)}, takes {form}")
    refuse(name, faults)
    if (number := int(tags.get("record_format", "1"))) > FORMAT:
        raise InputError(
            f"{name}: its record has format {number}, but this version reads only up to {FORMAT}; update the pipeline"
        )


def check(stored: StoredRecord) -> StoredRecord:
    """Check all of a record but its tags, which are checked already, and that its parts agree.

    Raises:
        InputError: naming what is malformed.
    """
    name = stored.run_id
    values = parse_params(stored)
    settings = params.check({**values, "variants": params.variant_names()[:1]})
    refuse(name, disagreements(stored.params, settings, values))
    try:
        summary = Summary.model_validate(json.loads(stored.summary))
    except (ValidationError, ValueError, RecursionError) as error:
        raise InputError(f"{name}: its sweep's summary.json is malformed: {first_line(error)}") from error
    if (summary.features, summary.target) != (settings.data.features, settings.data.target):
        raise InputError(f"{name}: its sweep's summary.json and params.yaml name different columns")
    if summary.source_md5 != stored.tags["source_md5"]:
        raise InputError(f"{name}: its sweep's summary.json and tag source_md5 name different tables")
    splits = 1 + settings.data.split.folds if settings.data.split.method == "kfold" else 1
    if len(summary.train_rows) != splits:
        raise InputError(f"{name}: its sweep's summary.json and params.yaml have different splits")
    check_points(name, stored.points, int(stored.params["epochs"]))  # one of its sweep's
    check_weights(name, stored.weights, splits, len(summary.features))
    check_patch(name, stored.tags.get("git_changes", ""), stored.patch)
    return stored


def parse_params(stored: StoredRecord) -> dict[str, Any]:
    """Read the sweep's params.yaml.

    Raises:
        InputError: it is too large or too deep, is not YAML, or is not params that this version accepts.
    """
    name = f"{stored.run_id}: its sweep's params.yaml"
    values = parse(stored.params_yaml, name)
    variant = stored.params.get("variant", "")
    if (
        not isinstance(values, dict)
        or not isinstance(values.get("variants"), list)
        or variant not in values["variants"]
    ):
        raise InputError(f"{name} does not list the run's variant {shown(variant)}")
    if not re.fullmatch("[a-z][a-z0-9_]{0,60}", variant):
        raise InputError(f"{stored.run_id}: param variant: got {shown(variant)}, takes the name of a variant")
    # Another commit's variant may be unknown here; that commit's code checks its name.
    params.check({**values, "variants": params.variant_names()[:1]}, name)
    return values | {"variants": [variant]}


def disagreements(own: Mapping[str, str], settings: Params, values: Mapping[str, Any]) -> list[str]:
    """List the params of a run that are not among its sweep's.

    Args:
        own: the run's.
        settings: the sweep's.
        values: the sweep's as its file has them, without keys that were added later and have a default.
    """
    held = {*flat({"data": values["data"]}), *values["train"], *own}
    expected: dict[str, list[object]] = {
        axis.name: [*settings.axis(axis.name), *proposed(own.get(axis.name, ""), axis, settings)]
        for axis in AXES
        if axis.default is None or axis.name in held
    }
    fixed = {"device": settings.train.device} | flat({"data": settings.data.model_dump()})
    expected |= {key: [value] for key, value in fixed.items() if key in held}
    expected |= {key: [value] for key, value in train_settings(settings.train).items() if key in own}
    return [
        f"param {key}: got {shown(own.get(key))}, but its sweep's params.yaml has {shown(', '.join(texts))}"
        for key, choices in expected.items()
        if own.get(key) not in (texts := [text(choice) for choice in choices])
    ]


def proposed(value: str, axis: Axis, settings: Params) -> list[object]:
    """Return an axis's value on record if a search may have proposed it, from within an interval; else nothing."""
    entry = settings.sweep.intervals.get(axis.name)
    if settings.sweep.search.method not in PROPOSED or not entry:
        return []
    try:
        return [read] if entry.low <= (read := axis.read(value)) <= entry.high else []
    except (ValueError, TypeError):
        return []


def check_parent(run: StoredRun, parent: StoredRun) -> None:
    """Refuse a run whose parent is not the run of its sweep.

    Raises:
        InputError: it is not.
    """
    if (parent.tags.get("role"), parent.tags.get("sweep")) != ("sweep", run.tags["sweep"]):
        raise InputError(f"{run.run_id}: its parent {run.tags[PARENT]} is not the run of its sweep {run.tags['sweep']}")


def check_curve(name: str, history: Iterable[tuple[int, float]]) -> dict[int, float]:
    """Return a stored curve, step -> train/mse; a step stored twice must have one value.

    Raises:
        InputError: naming a step that has two values.
    """
    points: dict[int, float] = {}
    for step, value in history:
        if points.setdefault(step, value) != value:
            raise InputError(f"{name}: {CURVE}: step {step} has two values: {points[step]} and {value}")
    return points


def check_points(name: str, points: Mapping[int, float], epochs: int) -> None:
    """Check a stored curve's points.

    Raises:
        InputError: a step is not an epoch, or a value is not finite.
    """
    for step, value in points.items():
        if type(step) is not int or not 0 <= step < epochs:
            raise InputError(f"{name}: {CURVE}: step {shown(step)} is not among the run's {epochs} epochs")
        if not isinstance(value, float) or not math.isfinite(value):
            raise InputError(f"{name}: {CURVE}: step {step} is {shown(value)}, takes a finite number")


def check_weights(name: str, weights: bytes, splits: int, k: int) -> None:
    """Check the names, shapes and dtypes of a weights file; an empty one is missing, which the comparison reports.

    A linear model's parameters are W and b; other models' parameters have the names in their code. Each has a gradient.

    Raises:
        InputError: it is not a weights file for `splits` splits and `k` features.
    """
    if not weights:
        return
    try:
        found = {key: (tensor.shape, str(tensor.dtype)) for key, tensor in load(weights).items()}
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{name}: its weights cannot be read: {first_line(error)}") from error
    names = [key for key in found if f"grad_{key}" in found]
    own = {"W": (splits, k, 1), "b": (splits, 1)}
    if not set(own) & set(found):
        own = {key: (splits, *found[f"grad_{key}"][0]) for key in names}
    shapes = own | {f"grad_{key}": shape[1:] for key, shape in own.items()}
    shapes |= {"mean": (splits, k), "scale": (splits, k)}
    if not own or found != {key: (shape, "float32") for key, shape in shapes.items()}:
        raise InputError(f"{name}: its weights are {shown(found)}, but its params and summary.json give {shapes}")
    most = 4 * sum(math.prod(shape) for shape in shapes.values()) + HEADER_BYTES
    if len(weights) > most:
        raise InputError(f"{name}: its weights have {len(weights)} bytes, but its tensors take at most {most}")


def check_patch(name: str, title: str, patch: bytes) -> None:
    """Check that a patch has the hash in its name.

    Raises:
        InputError: it has another.
    """
    if title and not sha256(patch).hexdigest().startswith(title.removesuffix(".patch")):
        raise InputError(f"{name}: {title}: its content does not have the hash in its name; it was altered")


def decode(name: str, what: str, content: bytes) -> str:
    """Read an artifact as text.

    Raises:
        InputError: it is too long, or not UTF-8.
    """
    if len(content) > TEXT_BYTES:
        raise InputError(f"{name}: its sweep's {what} has more than {TEXT_BYTES} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: its sweep's {what} is not UTF-8: {error}") from error
