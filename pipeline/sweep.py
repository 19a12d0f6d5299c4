"""params -> runs, and the fingerprints that join DVC's outs to MLflow's runs."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

from pipeline import outs
from pipeline.params import BatchSize, InputError, Params, Train
from pipeline.source import bare

PACKAGE = Path(__file__).parent
# The sources that train a run, which its fingerprint covers; they are train's deps in dvc.yaml too.
SOURCES = (
    "__init__.py",
    "sweep.py",
    "table/prepared.py",
    "train.py",
    "training/data.py",
    "training/fit.py",
    "training/lift.py",
    "training/nested.py",
    "training/optimizers.py",
    "training/parameters.py",
    "training/schedules.py",
    "training/stacks.py",
    "variants/{variant}.py",
)
PATH_POINTS = 101  # the most epochs at which a path is kept; track.points would retrain a sweep for a curve's sake
PROPOSED = frozenset({"tpe", "random", "cmaes"})  # the methods by which Optuna proposes a sweep's runs
# The sources, without .py, that choose a searched sweep's runs; train's deps too, but no part of what a run is.
SEARCH = (
    "evaluation/metrics",
    "predictions",
    "search/halving",
    "search/rounds",
    "search/space",
    "search/stage",
    "search/study",
)


def _size(text: str) -> BatchSize:
    return "full" if text == "full" else int(text)


@dataclass(frozen=True)
class Axis:
    """What a sweep may vary: all that is known of it, wherever runs are named, listed, stored and compared.

    name: of the key in params.yaml, Run's field, the columns and MLflow's param. label: in a run's name, before the
    value. short: the same on MLflow's pages, where a name has little room. words: for one value and for several.
    read: from text. default: the value that names leave out; None if each is named.
    """

    name: str
    label: str
    short: str
    words: tuple[str, str]
    read: Callable[[str], Any]
    default: object = None

    def is_told(self, runs: "Iterable[Run]") -> bool:
        """Tell whether a list of runs needs to say where they stand on this axis: not if all have the default."""
        return self.default is None or any(getattr(run, self.name) != self.default for run in runs)


# In the order of the sweep: of two neighbours in it, the last axes differ first.
AXES = (
    Axis("batch_size", "bs", "b", ("batch size", "batch sizes"), _size),
    Axis("lr", "lr", "", ("lr", "lr"), float),
    Axis("optimizer", "optimizer", "", ("optimizer", "optimizers"), str, "sgd"),
    Axis("weight_decay", "weight_decay", "wd", ("weight decay", "weight decays"), float, 0.0),
    Axis("schedule", "schedule", "", ("schedule", "schedules"), str, "constant"),
    Axis("loss", "loss", "", ("loss", "losses"), str, "mse"),
    Axis("epochs", "epochs", "e", ("epochs", "numbers of epochs"), int, 1000),
    Axis("init", "init", "", ("initial weights", "initial weights"), str, "zeros"),
    Axis("seed", "seed", "s", ("seed", "seeds"), int),
)
OF_CONFIGURATION = tuple(axis for axis in AXES if axis.name != "seed")  # all that runs of a configuration share
USED = {  # the settings of an optimizer, schedule or loss
    "momentum": ("momentum",),
    "nesterov": ("momentum",),
    "adam": ("beta1", "beta2", "eps"),
    "adamw": ("beta1", "beta2", "eps"),
    "step": ("step_every", "step_factor"),
    "huber": ("huber_delta",),
}
# Run's fields but its fingerprint, and how each is read from text.
FIELDS: Mapping[str, Callable[[str], Any]] = {
    "variant": str,
    **{axis.name: axis.read for axis in AXES},
    "device": str,
    **dict.fromkeys(("momentum", "beta1", "beta2", "eps", "step_factor", "huber_delta", "min_delta"), float),
    **dict.fromkeys(("step_every", "patience"), int),
}


@dataclass(frozen=True)
class Run:
    """One training of one configuration: a fit on all training rows and one for each fold.

    From `momentum` on, the settings of its optimizer, schedule, loss and stopping: None where not used.
    """

    variant: str
    batch_size: BatchSize
    lr: float
    seed: int
    epochs: int
    init: str
    device: str
    fingerprint: str
    optimizer: str = "sgd"
    weight_decay: float = 0.0
    schedule: str = "constant"
    loss: str = "mse"
    momentum: float | None = None
    beta1: float | None = None
    beta2: float | None = None
    eps: float | None = None
    step_every: int | None = None
    step_factor: float | None = None
    huber_delta: float | None = None
    patience: int | None = None
    min_delta: float | None = None

    @property
    def configuration(self) -> str:
        """The name shared by runs that differ only in their seed."""
        return configuration(vars(self))

    @property
    def name(self) -> str:
        """The run's name, for people."""
        return name(vars(self))


def configuration(values: Mapping[str, Any]) -> str:
    """Name a configuration: the variant, and each axis whose value is not the default; takes Run's fields, or texts."""
    return _named(values, OF_CONFIGURATION)


def name(values: Mapping[str, Any]) -> str:
    """Name a run, from Run's fields or their texts."""
    return _named(values, AXES)


def _named(values: Mapping[str, Any], axes: Sequence[Axis]) -> str:
    given = [(axis, values.get(axis.name, axis.default)) for axis in axes]
    parts = [f"{axis.label}={value}" for axis, value in given if str(value) != str(axis.default)]
    return " ".join([values["variant"], *parts])


def plan(params: Params, prepared: Path = outs.PREPARED) -> list[Run]:
    """List every run of the sweep, in the order of params.yaml; none if they are known only as they arise.

    Raises:
        InputError: `only` and `skip` leave none.
    """
    if params.sweep.search.method in PROPOSED:
        return []
    data, chosen, runs = outs.md5(prepared), points(params), []
    for variant in params.variants:
        code = code_hash(variant)
        for point in chosen:
            values = configured(params, variant, point)
            runs.append(Run(**values, fingerprint=run_fingerprint(data, code, values)))
    return runs


def points(params: Params) -> list[dict[str, Any]]:
    """List the points of the sweep: a value for each axis.

    Raises:
        InputError: `only` and `skip` leave none.
    """
    names = [axis.name for axis in AXES]
    crossed = (dict(zip(names, values, strict=True)) for values in product(*map(params.axis, names)))
    meant = [point for point in crossed if is_meant(params, point)]
    if not meant:
        raise InputError("params.yaml: sweep.only and sweep.skip: leave none of the runs that the lists of axes give")
    return meant


def is_meant(params: Params, values: Mapping[str, Any]) -> bool:
    """Tell whether a run matches one of `only`, if there are any, and none of `skip`."""

    def matches(rule: Mapping[str, Any]) -> bool:
        return all(values[axis] in (wanted if isinstance(wanted, list) else [wanted]) for axis, wanted in rule.items())

    only, skip = params.sweep.only, params.sweep.skip
    return (not only or any(map(matches, only))) and not any(map(matches, skip))


def configured(params: Params, variant: str, point: Mapping[str, Any]) -> dict[str, Any]:
    """Return all that configures a run, Run's fields but the fingerprint; `point` has a value for each axis."""
    used = {name for axis in ("optimizer", "schedule", "loss") for name in USED.get(point[axis], ())}
    used |= {"patience", "min_delta"} if params.train.stop.patience else set()
    settings = {name: value for name, value in train_settings(params.train).items() if name in used}
    return {"variant": variant, **point, "device": params.train.device, **settings}


def train_settings(train: Train) -> dict[str, Any]:
    """Return the settings that only some runs use, as Run names them."""
    names = ("momentum", "eps", "step_every", "step_factor", "huber_delta")
    betas = dict(zip(("beta1", "beta2"), train.betas, strict=True))
    return {name: getattr(train, name) for name in names} | betas | train.stop.model_dump()


def runs_of(params: Params, variant: str, one: Mapping[str, Any], prepared: Path = outs.PREPARED) -> list[Run]:
    """List the runs of one configuration, one for each seed; none if the sweep leaves it out."""
    data, code = outs.md5(prepared), code_hash(variant)
    points = (configured(params, variant, {**one, "seed": seed}) for seed in params.sweep.seed)
    meant = [values for values in points if is_meant(params, values)]
    return [Run(**values, fingerprint=run_fingerprint(data, code, values)) for values in meant]


def left_fingerprint(run: Run, left: str) -> str:
    """Return the fingerprint of a run that ended early, as `left` says; another than that of the whole run."""
    return fingerprint({"run": run.fingerprint, "left": left})


def run_fingerprint(data: str, code: str, values: Mapping[str, Any]) -> str:
    """Hash what determines a run's result: the md5 of its data, the hash of its code, and what configures it."""
    used = {name: value for name, value in values.items() if value is not None}
    return fingerprint({"data": data, "code": code, **used})


def fingerprint(values: Mapping[str, object]) -> str:
    """Hash everything that determines a result; the same values give the same 32 hexadecimal digits everywhere."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:32]


def code_hash(variant: str, package: Path = PACKAGE) -> str:
    """Hash the source that trains a variant's runs, without comments and docstrings."""
    names = [name.format(variant=variant) for name in SOURCES]
    return fingerprint({name: bare((package / name).read_text(encoding="utf-8")) for name in names})


def sweep_id(runs: Sequence[Run], specified: Mapping[str, object]) -> str:
    """Identify a sweep by its specification, or, as that of a plain one is empty, by its runs."""
    return identity([run.fingerprint for run in runs], specified)


def identity(fingerprints: Iterable[str], specified: Mapping[str, object]) -> str:
    """Identify a sweep, as `sweep_id` does."""
    return fingerprint(dict(specified) or {"runs": sorted(fingerprints)})[:12]


def is_searched(params: Params) -> bool:
    """Tell whether a sweep's runs are known only as they arise."""
    return params.sweep.search.method != "none"


def specification(params: Params, prepared: Path = outs.PREPARED) -> dict[str, object]:
    """Return what decides which runs a searched sweep trains, and how far; empty for another."""
    if not is_searched(params):
        return {}
    code = {variant: code_hash(variant) for variant in params.variants}
    code["search"] = fingerprint({name: bare((PACKAGE / f"{name}.py").read_text(encoding="utf-8")) for name in SEARCH})
    own = params.model_dump(include={"variants": True, "train": True, "sweep": True}, exclude={"train": {"nested"}})
    spans = {name: asdict(entry) for name, entry in params.sweep.intervals.items()}
    return {"data": outs.md5(prepared), "code": code, "optuna": version("optuna"), **own, "intervals": spans}


def is_current(run: Run, left: str, data: str) -> bool:
    """Tell whether the code here trains a run, which ended early if `left` says so, on data with this md5."""
    values = {name: value for name, value in vars(run).items() if name != "fingerprint"}
    whole = replace(run, fingerprint=run_fingerprint(data, code_hash(run.variant), values))
    return run.fingerprint in {whole.fingerprint, left_fingerprint(whole, left)}


def curve_steps(epochs: int, points: int) -> list[int]:
    """Choose the epochs of a stored curve: every 1st, 2nd, 5th, 10th, … and the last; at most `points` in all."""
    strides = (digit * 10**power for power in range(20) for digit in (1, 2, 5))
    # The multiples of stride below the last epoch, and the last one itself.
    stride = next(stride for stride in strides if (epochs - 2) // stride + 2 <= points)
    return [*range(0, epochs - 1, stride), epochs - 1]
