"""params -> runs, and the fingerprints that join DVC's outs to MLflow's runs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

from pipeline.config.axes import AXES
from pipeline.config.params import Params, Train
from pipeline.errors import InputError
from pipeline.runs import outs
from pipeline.runs.fingerprints import code_hash, fingerprint, left_fingerprint, run_fingerprint, search_hash
from pipeline.runs.run import Run
from pipeline.system.files import file_md5

PROPOSED = frozenset({"tpe", "random", "cmaes"})  # the methods by which Optuna proposes a sweep's runs
USED = {  # the settings of an optimizer, schedule or loss
    "momentum": ("momentum",),
    "nesterov": ("momentum",),
    "adam": ("beta1", "beta2", "eps"),
    "adamw": ("beta1", "beta2", "eps"),
    "step": ("step_every", "step_factor"),
    "huber": ("huber_delta",),
}


def plan(params: Params, prepared: Path = outs.PREPARED) -> list[Run]:
    """List every run of the sweep, in the order of params.yaml; none if they are known only as they arise.

    Raises:
        InputError: `only` and `skip` leave none.
    """
    if params.sweep.search.method in PROPOSED:
        return []
    data, chosen = file_md5(prepared), points(params)
    return [run for variant in params.variants for run in _runs(params, variant, chosen, data)]


def _runs(params: Params, variant: str, points: Iterable[Mapping[str, Any]], data: str) -> list[Run]:
    code, each = code_hash(variant), [configured(params, variant, point) for point in points]
    return [Run(**values, fingerprint=run_fingerprint(data, code, values)) for values in each]


def configured(params: Params, variant: str, point: Mapping[str, Any]) -> dict[str, Any]:
    """Return all that configures a run, Run's fields but the fingerprint; `point` has a value for each axis."""
    used = {name for axis in ("optimizer", "schedule", "loss") for name in USED.get(point[axis], ())}
    used |= {"patience", "min_delta"} if params.train.stop.patience else set()
    settings = {name: value for name, value in train_settings(params.train).items() if name in used}
    return {"variant": variant, **settings, **point, "device": params.train.device}  # a setting may be an axis


def train_settings(train: Train) -> dict[str, Any]:
    """Return the settings that only some runs use, as Run names them."""
    names = ("momentum", "eps", "step_every", "step_factor", "huber_delta")
    betas = dict(zip(("beta1", "beta2"), train.betas, strict=True))
    return {name: getattr(train, name) for name in names} | betas | train.stop.model_dump()


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


def runs_of(params: Params, variant: str, one: Mapping[str, Any], prepared: Path = outs.PREPARED) -> list[Run]:
    """List the runs of one configuration, one for each seed; none if the sweep leaves it out."""
    points = ({**one, "seed": seed} for seed in params.sweep.seed)
    return _runs(params, variant, filter(partial(is_meant, params), points), file_md5(prepared))


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
    code = {**{variant: code_hash(variant) for variant in params.variants}, "search": search_hash()}
    own = params.model_dump(include={"variants": True, "train": True, "sweep": True}, exclude={"train": {"nested"}})
    spans = {name: asdict(entry) for name, entry in params.sweep.intervals.items()}
    return {"data": file_md5(prepared), "code": code, "optuna": version("optuna"), **own, "intervals": spans}


def is_current(run: Run, left: str, data: str) -> bool:
    """Tell whether the code here trains a run, which ended early if `left` says so, on data with this md5."""
    values = {name: value for name, value in vars(run).items() if name != "fingerprint"}
    whole = replace(run, fingerprint=run_fingerprint(data, code_hash(run.variant), values))
    return run.fingerprint in {whole.fingerprint, left_fingerprint(whole, left)}
