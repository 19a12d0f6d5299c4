"""`pipeline sync`: stores in MLflow what it lacks of the workspace's outs: runs, and the champion's model."""

import json
from collections.abc import Sequence
from pathlib import Path

from pipeline.config.params import Params, load
from pipeline.errors import InputError
from pipeline.runs import outs, records, sweep
from pipeline.runs.checked import check_prepared
from pipeline.runs.records import Record
from pipeline.system import repository
from pipeline.tracking import leftovers, listings, queries, synced
from pipeline.tracking.models import champions
from pipeline.tracking.pages import views


def sync() -> str:
    """Store what MLflow lacks, and register the champion if it is not; say what was done, and link to the sweep.

    Raises:
        InputError: outs are missing or are not those of params.yaml, or the store fails.
    """
    params = load()
    try:
        evaluated = records.read_evaluated(params.variants)
        champion = outs.champion()
        current = is_current(params, evaluated)
    except FileNotFoundError as error:
        raise InputError(f"{error.filename or error}: no such file here; {repository.make_or_pull()}") from error
    check_prepared(params.data)
    if not current:
        raise InputError("the outs were made with other params, data or code than those here; run: dvc repro")
    own = identity(params, evaluated)
    leftovers.end_the_dead(params.track.experiment)
    state = synced.state(params, own)  # before the store is read, or what changes meanwhile would go unseen
    lacking = 0 if synced.is_noted(state) else store_lacking(params, evaluated, outs.evaluation(), champion)
    synced.note(state)
    summary = json.loads(outs.SUMMARY.read_text(encoding="utf-8"))
    views.refresh(params.track.experiment, summary, params.evaluate.metric)
    registered = champions.update(params, evaluated, champion)
    stored = f"{len(evaluated)} runs, " + (f"{lacking} of them stored now" if lacking else "all stored")
    links = listings.links_of(params.track.experiment, own)
    return "\n".join(filter(None, [stored, registered, *links]))


def is_current(params: Params, evaluated: Sequence[Record]) -> bool:
    """Tell whether records are those that params.yaml, the prepared data and the code here make."""
    if params.train.nested != ("nested" in outs.summary()):
        return False
    if specified := sweep.specification(params):
        studies = (json.loads(outs.study(variant).read_text(encoding="utf-8")) for variant in params.variants)
        return all(study["sweep"] == sweep.sweep_id([], specified) for study in studies)
    return {run.fingerprint for run in sweep.plan(params)} == {record.run.fingerprint for record in evaluated}


def identity(params: Params, evaluated: Sequence[Record]) -> str:
    """Return the id of the workspace's sweep."""
    return sweep.sweep_id([record.run for record in evaluated], sweep.specification(params))


def store_lacking(params: Params, evaluated: Sequence[Record], artifacts: Sequence[Path], champion: str) -> int:
    """Store what the store lacks of a sweep; return how many runs it lacked or held in part.

    Raises:
        InputError: the store fails.
    """
    own = identity(params, evaluated)
    lacking, is_evaluated = queries.lacking(params.track.experiment, own, evaluated, outs.nested())
    if lacking or not is_evaluated:
        from pipeline.tracking import direct  # noqa: PLC0415 - stores, which seldom is needed

        direct.restore(params, evaluated, artifacts, champion)
    return lacking
