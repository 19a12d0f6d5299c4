"""Answers questions about stored runs in plain values, and changes nothing in the store."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from pipeline.errors import InputError
from pipeline.runs import outs
from pipeline.runs.records import CURVE, Record
from pipeline.system import addresses, repository
from pipeline.tracking import parents, stored
from pipeline.tracking.display import first_line, shown
from pipeline.tracking.pages.links import run_link
from pipeline.tracking.repeats import Repeats, has_weights
from pipeline.tracking.runs import PARENT, WEIGHTS, StoredRun
from pipeline.tracking.store.location import StoreError
from pipeline.tracking.store.store import Store, answering
from pipeline.tracking.stored import Stored


@answering()
def identify(experiment: str, named: str) -> tuple[str, str]:
    """Find the run that is meant by its id, its fingerprint, or at least the first 8 digits of either.

    Of several runs with one fingerprint it is the one that all others are compared with. What has another form, or is
    not found, is returned as it is: `recall` says why there is no such run.

    Returns:
        its id, and a link to its page.

    Raises:
        InputError: more than one is meant, or none.
    """
    if not re.fullmatch("[0-9a-f]{8,32}", named):
        return named, ""
    store = Store.look(experiment)
    if store is None:
        raise InputError(f"{named}: not stored: {_no(experiment)}")
    found = store.named(named)
    if not found and len(named) == 32:
        return named, ""
    if not found:
        raise InputError(
            f"{named}: no stored run has an id or a fingerprint that starts so; list them: pipeline top --all"
        )
    fingerprints = list(dict.fromkeys(run.tags["fingerprint"] for run in found if "fingerprint" in run.tags))
    by_id = [run.run_id for run in found if run.run_id.startswith(named)]
    if len(by_id) == 1 and not any(run.tags.get("fingerprint", "").startswith(named) for run in found):
        run_id = by_id[0]
    elif len(fingerprints) == 1 and not by_id:
        run_id = (store.find(fingerprints[0]) or found)[0].run_id
    else:
        meant = ", ".join(f"{run.run_id} ({shown(run.name)[1:-1]})" for run in found[:10])
        raise InputError(f"{named}: may be any of {len(found)} runs: {meant}")
    return run_id, run_link(store.experiment.experiment_id, run_id)


def recall(experiment: str, run_id: str) -> Stored:
    """Read all that the store holds of a run, and check it.

    Raises:
        InputError: there is no such run, it is not one of the pipeline's, its record is malformed, or the store does
            not answer.
    """
    stored.run_id(run_id)
    try:
        store = Store.look(experiment)
        if store is None:
            raise InputError(f"{run_id}: not stored: {_no(experiment)}")
        return stored.check(_read(store, run_id))
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{run_id}: its record is incomplete, an artifact is gone: {error}") from error
    except StoreError as error:
        raise InputError(f"{run_id}: {error}") from error
    except Exception as error:  # MLflow and its drivers raise anything on rows that MLflow did not write
        fault = addresses.shown(f"{type(error).__name__}: {first_line(error)}")
        raise InputError(f"{run_id}: its record in MLflow's store cannot be read: {fault}") from error


def _no(experiment: str) -> str:
    return f"{addresses.shown(repository.store_uri())} has no experiment {experiment!r}"


def _read(store: Store, run_id: str) -> Stored:
    run = _run(store, run_id)
    parent = _parent(store, run)
    history = [(point.step, point.value) for point in store.history(run, CURVE)]
    changes = run.tags.get("git_changes", "")
    params_yaml, summary = (
        stored.decode(run_id, name, store.artifact(parent, name, stored.TEXT_BYTES))
        for name in ("params.yaml", outs.SUMMARY.name)
    )
    return Stored(
        run_id,
        run.status,
        run.tags,
        run.params,
        run.metrics,
        stored.check_curve(run_id, history),
        _weights(store, run),
        params_yaml,
        summary,
        store.artifact(parent, changes, stored.PATCH_BYTES) if changes else b"",
        addresses.shown(f"{store.artifact_uri(parent)}/{changes}"),
        parents.is_evaluated(parent),
        run.seal_state,
    )


def _run(store: Store, run_id: str) -> StoredRun:
    run = store.run(run_id)
    if run.tags.get("role") != "run":
        raise InputError(f"{run_id}: is not a run of this pipeline; list those with: pipeline top, pipeline runs")
    stored.check_tags(run_id, run.tags)
    return run


def _parent(store: Store, run: StoredRun) -> StoredRun:
    parent = store.run(run.tags[PARENT])
    if (parent.tags.get("role"), parent.tags.get("sweep")) != ("sweep", run.tags["sweep"]):
        raise InputError(f"{run.run_id}: its parent {run.tags[PARENT]} is not the run of its sweep {run.tags['sweep']}")
    return parent


def _weights(store: Store, run: StoredRun) -> bytes:
    try:
        return store.artifact(run, WEIGHTS, stored.WEIGHTS_BYTES)
    except FileNotFoundError:
        return b""


@dataclass(frozen=True)
class Health:
    """The state of a store, as `pipeline doctor` needs it.

    ownerless: runs that say RUNNING without an owner, id -> name. lacking: names of runs that it should hold and
    does not, or not whole. artifacts: where they lie, empty if there is no experiment. lost: what an unknown MLflow
    costs.
    """

    ownerless: dict[str, str]
    lacking: list[str]
    artifacts: str
    lost: str = ""


@answering()
def health(experiment: str, expected: Mapping[str, str]) -> Health:
    """Check a store's runs, and where its artifacts lie.

    Args:
        experiment: MLflow's.
        expected: runs that it should hold, fingerprint -> name.
    """
    store = Store.look(experiment)
    if store is None:
        return Health({}, list(expected.values()), "")
    ownerless = {run.run_id: run.name for run in store.running() if "heartbeat" not in run.tags}
    held = {run.tags.get("fingerprint") for run in (store.runs() if expected else []) if run.is_complete}
    lacking = [name for fingerprint, name in expected.items() if fingerprint not in held]
    return Health(ownerless, lacking, store.experiment.artifact_location, store.lost)


@answering()
def lacking(
    experiment: str, sweep: str, evaluated: Sequence[Record], figures: Collection[str] = ()
) -> tuple[int, bool]:
    """Return how many runs of a sweep the store lacks or holds in part, and whether it holds the sweep's evaluation.

    Args:
        experiment: MLflow's.
        sweep: its id.
        evaluated: its runs.
        figures: the names of its own that the evaluation made, besides those that each makes.
    """
    store = Store.look(experiment)
    if store is None:
        return len(evaluated), False
    parent = parents.find(store, sweep)
    repeats = Repeats(store)
    stored = store.find_many([record.run.fingerprint for record in evaluated])
    held = sum(_holds(repeats, stored[record.run.fingerprint], record) for record in evaluated)
    is_whole = parent is not None and parents.is_evaluated(parent) and parent.metrics.keys() >= set(figures)
    return len(evaluated) - held, is_whole


def _holds(repeats: Repeats, found: Sequence[StoredRun], record: Record) -> bool:
    same = record.metrics.items()
    if any(run.is_complete and all(run.metrics.get(key) == value for key, value in same) for run in found):
        return True
    # Another machine may have stored it, and rounded differently.
    others = [run for run in found if not record.metrics.keys() - run.metrics.keys() and not has_weights(run, record)]
    return repeats.one_that_agrees(others, record) is not None
