"""params.yaml as typed, checked values."""

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic.fields import FieldInfo

from pipeline.config import ranges
from pipeline.config.axes import AXES, Axis
from pipeline.config.yaml import parse, read
from pipeline.errors import InputError, brief, printable, refuse
from pipeline.metrics import CHOOSING, TESTED, WITH_ERROR
from pipeline.variants import names as variant_names

LEAST_FOLDS = 3  # of nested cross-validation, which leaves out two


def _takes(text: str, **constraints: Any) -> Any:  # noqa: ANN401 - Field's own return type
    return Field(description=text, **constraints)


def _once(values: list[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


def _some(values: list[Any]) -> list[Any]:
    if not values:
        raise ValueError("empty")
    return _once(values)


def _unique(values: list[Any]) -> list[Any]:
    if len(set(values)) < len(values):
        raise ValueError("repeated")
    return _some(values)


def _rules(values: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for rule in values:
        own = [one for value in rule.values() for one in (value if isinstance(value, list) else [value])]
        if not rule or not rule.keys() <= _NAMES or not all(type(one) in {int, float, str} for one in own):
            raise ValueError(rule)
    return values


def _text(value: str) -> str:
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in value):
        raise ValueError(value)  # paths and databases take no NUL, other control characters or surrogates
    return value


def _variants(values: list[str]) -> list[str]:
    if not set(values) <= set(variant_names()):
        raise ValueError(values)
    return _some(values)


_RANGES = "; or ranges {from, to, num, scale: linear or log}, or samples {sample, from, to, scale, seed}"
_NAMES = {axis.name for axis in AXES}
_RULES = f"a list of mappings from an axis, of {', '.join(sorted(_NAMES))}, to a value or a list of them"


def _metric(value: str) -> str:
    if value not in CHOOSING:
        raise ValueError(value)
    return value


Metric = Annotated[str, AfterValidator(_metric)]


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Split(_Block):
    """How rows are held out for testing."""

    method: Literal["kfold", "holdout"] = _takes("kfold or holdout")
    folds: int = _takes("a whole number, 2 or more", ge=2)
    test_fraction: float = _takes("a number between 0 and 1", gt=0, lt=1)
    seed: int = _takes("a whole number from 0 to 4294967295", ge=0, lt=2**32)
    final_test: float = _takes("a number from 0 to 1, without 1", ge=0, lt=1, default=0.0)


class Data(_Block):
    """The user's table."""

    source: Annotated[str, AfterValidator(_text)] = _takes("the path of a CSV file", min_length=1)
    features: Annotated[list[str], AfterValidator(_unique)] = _takes("a list of one or more different column names")
    target: str = _takes("a column name", min_length=1)
    split: Split = _takes("the keys method, folds, test_fraction, seed and final_test")
    standardize: bool = _takes("true or false")
    exact: bool = _takes("true or false", default=False)


class Stop(_Block):
    """When a fit leaves its stack; a patience of 0 epochs keeps all to the end."""

    patience: int = _takes("a whole number of epochs, 0 or more", ge=0, le=10**9, default=0)
    min_delta: float = _takes("a number from 0 to 1e38", ge=0, lt=1e38, default=0.0)


def _block_of(fields: Mapping[str, tuple[Any, Any]]) -> Any:  # noqa: ANN401 - a class that is made of AXES
    made: Any = create_model
    return made("_OfAxes", __base__=_Block, **fields)


def _setting(axis: Axis) -> tuple[Any, Any]:
    default = {} if axis.required else {"default": axis.default}
    return axis.takes.type, _takes(axis.takes.one, **default)


_Settings = _block_of({axis.name: _setting(axis) for axis in AXES if axis.default is not None})


class Train(_Settings):  # type: ignore[misc, valid-type] # a key for each axis that has a default, and these
    """What all runs share, unless the sweep lists values of an axis."""

    device: Literal["cpu", "cuda"] = _takes("cpu or cuda")
    momentum: float = _takes("a number between 0 and 1", gt=0, lt=1, default=0.9)
    betas: list[Annotated[float, Field(ge=0, lt=1)]] = _takes(
        "a list of two numbers from 0 to 1, without 1", min_length=2, max_length=2, default=[0.9, 0.999]
    )
    eps: float = _takes("a number from 1e-38 to 1", gt=1e-38, le=1, default=1e-8)
    step_every: int = _takes("a whole number of epochs, 1 or more", ge=1, le=10**9, default=100)
    step_factor: float = _takes("a number between 0 and 1", gt=0, lt=1, default=0.5)
    huber_delta: float = _takes("a number from 1e-38 to 1e38", gt=1e-38, lt=1e38, default=1.0)
    stop: Stop = _takes("the keys patience and min_delta", default=Stop())
    nested: bool = _takes("true or false", default=False)


class Search(_Block):
    """How the sweep's configurations are proposed, if its lists do not give them all."""

    method: Literal["none", "tpe", "random", "cmaes", "halving"] = _takes(
        "none, tpe, random, cmaes or halving", default="none"
    )
    trials: int = _takes("a whole number, 1 or more", ge=1, le=10**6, default=100)
    rounds: int = _takes("a whole number, 1 or more", ge=1, le=10**6, default=5)
    metric: Metric = _takes("one of " + ", ".join(CHOOSING), default="cv/mse")
    seed: int = _takes("a whole number from 0 to 4294967295", ge=0, lt=2**32, default=0)


def _values(axis: Axis) -> tuple[Any, Any]:
    takes, listed = axis.takes, axis.default is None

    def check(values: list[Any]) -> list[Any]:
        if not all(map(takes.valid, values)):
            raise ValueError(values)
        return _some(values) if listed else _once(values)

    def spread(given: object) -> object:
        return given if takes.whole is None else ranges.values(given, takes.whole)

    text = f"a list of {'one or more ' * listed}{takes.several}{_RANGES * (takes.whole is not None)}"
    kind: Any = list[takes.type]  # type: ignore[name-defined]
    return Annotated[kind, BeforeValidator(spread), AfterValidator(check)], _takes(
        text, **({} if listed else {"default": []})
    )


_Lists = _block_of({axis.name: _values(axis) for axis in AXES})


class Sweep(_Lists):  # type: ignore[misc, valid-type] # a list for each axis, and these
    """What distinguishes runs; one run for every combination."""

    only: Annotated[list[dict[str, Any]], AfterValidator(_rules)] = _takes(_RULES, default=[])
    skip: Annotated[list[dict[str, Any]], AfterValidator(_rules)] = _takes(_RULES, default=[])
    search: Search = _takes("the keys method, trials, rounds, metric and seed", default=Search())
    _intervals: dict[str, ranges.Entry] = PrivateAttr(default_factory=dict)

    @model_validator(mode="wrap")
    @classmethod
    def _keep_intervals(cls, given: object, made: ModelWrapValidatorHandler[Self]) -> Self:
        sweep = made(given)
        if isinstance(given, dict):
            lists = {name: given[name] for name in cls.model_fields if isinstance(given.get(name), list)}
            found = {name: ranges.interval(own) for name, own in lists.items() if name not in {"only", "skip"}}
            sweep._intervals = {name: entry for name, entry in found.items() if entry}  # noqa: SLF001 - its own
        return sweep

    @property
    def intervals(self) -> dict[str, ranges.Entry]:
        """The axes whose list is one range or sample: what a search takes for an interval."""
        return self._intervals


class Evaluate(_Block):
    """How the champion is chosen."""

    metric: Metric = _takes("one of " + ", ".join(CHOOSING))
    choose: Literal["best", "one_se"] = _takes("best or one_se", default="best")


class Track(_Block):
    """What reaches MLflow."""

    experiment: Annotated[str, AfterValidator(_text)] = _takes(
        "the name of an MLflow experiment, 1 to 256 characters", min_length=1, max_length=256
    )
    points: int = _takes("a whole number, 2 or more", ge=2)


class Params(_Block):
    """All of params.yaml."""

    data: Data = _takes("the keys source, features, target, split, standardize and exact")
    variants: Annotated[list[str], AfterValidator(_variants)] = _takes(
        "a list of one or more of " + ", ".join(variant_names())
    )
    train: Train = _takes("the keys " + ", ".join(Train.model_fields))
    sweep: Sweep = _takes("the keys " + ", ".join(Sweep.model_fields))
    evaluate: Evaluate = _takes("the keys metric and choose")
    track: Track = _takes("the keys experiment and points")

    def axis(self, name: str) -> list[Any]:
        """List the values of an axis of the sweep: train's own if its list is empty."""
        return getattr(self.sweep, name) or [getattr(self.train, name)]


def load(path: Path | str = "params.yaml") -> Params:
    """Read and check a params file, as DVC reads it: YAML 1.2, where `1e-5` is a number.

    Raises:
        InputError: naming each wrong key, what it got and what it takes.
    """
    name = printable(path)
    return check(parse(read(Path(path), name), name), name)


def check(values: object, name: str = "params.yaml") -> Params:
    """Check the values of a params file; `name` stands before each message.

    Raises:
        InputError: naming each wrong key, what it got and what it takes.
    """
    if not isinstance(values, dict):
        raise InputError(f"{name}: got {brief(values)}, takes the keys {', '.join(Params.model_fields)}")
    if unknown := [key for key in _keys(values) if not isinstance(key, str)]:
        refuse(name, [f"{brief(key)}: unknown key; keys are names" for key in unknown])
    try:
        params = Params.model_validate(values)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False)
        refuse(name, [_message(fault["type"], fault["loc"], fault["input"]) for fault in faults])
    if params.data.target in params.data.features:
        raise InputError(f"{name}: data.target: got {brief(params.data.target)}, takes a column that is not a feature")
    if params.evaluate.choose == "one_se" and params.evaluate.metric not in WITH_ERROR:
        takes = f"takes best, or an evaluate.metric that has a standard error: {', '.join(WITH_ERROR)}"
        raise InputError(f"{name}: evaluate.choose: got 'one_se' for {params.evaluate.metric}, {takes}")
    refuse(name, [f"train.nested: got true with {fault}, or train.nested: false" for fault in _not_nested(params)])
    return params


def _not_nested(params: Params) -> list[str]:
    # Says why nested cross-validation cannot be, and what it takes instead.
    split, metric, method = params.data.split, params.evaluate.metric, params.sweep.search.method
    if not params.train.nested:
        return []
    faults = []
    if split.method != "kfold":
        faults.append(f"data.split.method {split.method}, which has no folds to leave out; takes kfold")
    elif split.folds < LEAST_FOLDS:
        why = "a fit without both has no row to train on"
        faults.append(f"data.split.folds {split.folds}, where {why}; takes {LEAST_FOLDS} or more")
    tested = [one.key for one in TESTED]
    if metric not in tested:
        faults.append(f"evaluate.metric {metric}, which no fold left out decides; takes {', '.join(tested)}")
    if method not in {"none", "random"}:
        why = "which chose its runs by their scores on all folds, so that none is unseen"
        faults.append(f"sweep.search.method {method}, {why}; takes none or random")
    return faults


def _keys(values: dict[object, object]) -> list[object]:
    return [*values, *(key for value in values.values() if isinstance(value, dict) for key in _keys(value))]


def _message(kind: str, location: Sequence[str | int], value: object) -> str:
    names = [part for part in location if isinstance(part, str)]
    key = ".".join(names) + "".join(f"[{part}]" for part in location if isinstance(part, int))
    fields: dict[str, FieldInfo] = dict(Params.model_fields)
    takes = ""
    for name in names:
        if name not in fields:
            return f"{printable(key)[:200]}: unknown key; known here: {', '.join(fields)}"
        takes = fields[name].description or ""
        block = fields[name].annotation
        fields = dict(block.model_fields) if isinstance(block, type) and issubclass(block, BaseModel) else {}
    got = "nothing" if kind == "missing" else brief(value)
    return f"{key}: got {got}, takes {takes}"
