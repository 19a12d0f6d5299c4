"""Answers questions about stored runs and sweeps in plain values, and changes nothing in the store."""

import csv
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain
from pathlib import PurePosixPath
from typing import Any

from pipeline.config.axes import AXES
from pipeline.config.where import Condition, number
from pipeline.errors import InputError, first_line, shown
from pipeline.evaluation.boards import configuration
from pipeline.metrics import RUN_METRICS, as_loss
from pipeline.runs import outs
from pipeline.runs.records import BEHIND, CURVE
from pipeline.system import addresses, repository
from pipeline.system.tables import Row
from pipeline.tracking import seals, sweep_run, validation
from pipeline.tracking.decision import ranked
from pipeline.tracking.pages import links, views
from pipeline.tracking.runs import PARENT, WEIGHTS, StoredRun
from pipeline.tracking.store.location import StoreError
from pipeline.tracking.store.store import Store, answering
from pipeline.tracking.validation import StoredRecord
from pipeline.tracking.values import data_label

# The columns of each run; those of other axes only where a value is not the default.
ALWAYS = ("variant", *(axis.name for axis in AXES if axis.default is None), "epochs")
OTHERS = {axis.name: str(axis.default) for axis in AXES if axis.name not in ALWAYS}
MADE_BY = ("sweep", "dvc_experiment", "git_commit", "git_dirty")
LEADERBOARD_BYTES = 2**26


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
        own = store.of_many(fingerprints).get(fingerprints[0], [])
        run_id = (ranked(own) or found)[0].run_id
    else:
        meant = ", ".join(f"{run.run_id} ({shown(run.name)[1:-1]})" for run in found[:10])
        raise InputError(f"{named}: may be any of {len(found)} runs: {meant}")
    return run_id, links.run_link(store.experiment.experiment_id, run_id)


def recall(experiment: str, run_id: str) -> StoredRecord:
    """Read all that the store holds of a run, and check it.

    Raises:
        InputError: there is no such run, it is not one of the pipeline's, its record is malformed, or the store does
            not answer.
    """
    validation.run_id(run_id)
    try:
        store = Store.look(experiment)
        if store is None:
            raise InputError(f"{run_id}: not stored: {_no(experiment)}")
        return validation.check(_read(store, run_id))
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


def _read(store: Store, run_id: str) -> StoredRecord:
    run = _run(store, run_id)
    parent = store.run(run.tags[PARENT])
    validation.check_parent(run, parent)
    history = [(point.step, point.value) for point in store.history(run, CURVE)]
    changes = run.tags.get("git_changes", "")
    params_yaml, summary = (
        validation.decode(run_id, name, store.artifact(parent, name, validation.TEXT_BYTES))
        for name in ("params.yaml", outs.SUMMARY.name)
    )
    return StoredRecord(
        run_id,
        run.status,
        run.tags,
        run.params,
        run.metrics,
        validation.check_curve(run_id, history),
        _weights(store, run),
        params_yaml,
        summary,
        store.artifact(parent, changes, validation.PATCH_BYTES) if changes else b"",
        addresses.shown(f"{store.artifact_uri(parent)}/{changes}"),
        sweep_run.is_evaluated(parent),
        run.seal_state,
    )


def _run(store: Store, run_id: str) -> StoredRun:
    run = store.run(run_id)
    if run.tags.get("role") != "run":
        raise InputError(f"{run_id}: is not a run of this pipeline; list those with: pipeline top, pipeline runs")
    validation.check_tags(run_id, run.tags)
    return run


def _weights(store: Store, run: StoredRun) -> bytes:
    try:
        return store.artifact(run, WEIGHTS, validation.WEIGHTS_BYTES)
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


@dataclass(frozen=True)
class Scope:
    """Which of the stored runs are meant; empty fields allow any.

    fingerprints: theirs. sweep: a sweep's id. data: what the column of this name says, or its first word.
    conditions: on params, metrics, tags and columns.
    """

    fingerprints: frozenset[str] | None = None
    sweep: str = ""
    data: str = ""
    conditions: tuple[Condition, ...] = ()

    def holds(self, values: Row) -> bool:
        """Tell whether a row is meant, as far as data and conditions say."""
        data = str(values["data"])
        meant = self.data in {"", data, data.split(" ", maxsplit=1)[0]}
        return meant and all(condition.holds(values) for condition in self.conditions)

    def refuse_unknown(self, names: Collection[str]) -> None:
        """Refuse a condition on what no row has: a misspelt name would always find nothing.

        Raises:
            InputError: there are rows, which have `names`, and a condition has another.
        """
        for condition in self.conditions:
            if names and condition.key not in names:
                own = sorted(name for name in names if not name.startswith("mlflow."))
                there = ", ".join(shown(name)[1:-1] for name in own)
                raise InputError(f"--where '{condition}': no run has {condition.key!r}; they have: {there}")


@answering()
def top(experiment: str, metric: str, limit: int, scope: Scope) -> list[Row]:
    """List the best runs, best first, without those that diverged, fell behind or lack the metric.

    Runs that were altered after they ended, and would be among the best, follow them, marked.
    """
    store = Store.look(experiment)
    sound: list[Row] = []
    altered: list[Row] = []
    for run, row in _meant(store, store.best(metric, limit + 10), scope) if store else []:
        if run.tags.get("left", "").startswith(BEHIND):
            continue
        listed = row | {"link": links.run_link(store.experiment.experiment_id, run.run_id)} if store else row
        (altered if row["seal"] == seals.ALTERED else sound).append(listed)
        if len(sound) == limit:
            break
    return sound + altered


@answering()
def runs(experiment: str, scope: Scope) -> list[Row]:
    """List the stored runs, those of the latest sweep first."""
    store = Store.look(experiment)
    return [row for _, row in _meant(store, store.runs(), scope)] if store else []


@answering()
def sound(experiment: str, scope: Scope) -> list[Row]:
    """List the complete runs, each once, with all of their tags and params beside the columns.

    Those that were altered, or contradict the first of the same fingerprint, are left out.
    """
    store = Store.look(experiment)
    found = _meant(store, store.runs(), scope) if store else []
    complete = [(run, row) for run, row in found if run.is_complete and row["seal"] != seals.ALTERED]
    return [{**run.tags, **run.params, **row} for run, row in complete if "contradicts" not in run.tags]


@answering()
def sweep_ids(experiment: str) -> list[str]:
    """List the ids of the stored sweeps, latest first."""
    store = Store.look(experiment)
    return list(dict.fromkeys(run.tags["sweep"] for run in store.all_sweeps())) if store else []


@answering()
def runs_of(experiment: str, names: Mapping[str, str], scope: Scope) -> list[Row]:
    """List the stored runs of `names`, fingerprint -> name; a missing one has no id.

    Runs that were altered after they ended follow the others of the same fingerprint, marked.
    """
    store = Store.look(experiment)
    found: dict[str, list[Row]] = {}
    stored = store.of_many(names.keys()) if store and names else {}
    for _, row in _meant(store, chain(*stored.values()), scope) if store else []:
        found.setdefault(str(row["fingerprint"]), []).append(row)
    rows: list[Row] = []
    for fingerprint, name in names.items():
        missing = {"run": name, "status": "missing", "fingerprint": fingerprint}
        own = sorted(found.get(fingerprint, []), key=lambda row: row["seal"] == seals.ALTERED)
        rows += own or ([] if scope.conditions or scope.data else [missing])
    return rows


def _meant(store: Store, found: Iterable[StoredRun], scope: Scope) -> Iterator[tuple[StoredRun, dict[str, object]]]:
    fingerprints = _members(store, scope.sweep) if scope.sweep else scope.fingerprints
    names: set[str] = set()  # of what the runs have, while none is meant
    met = False
    for run in found:
        if fingerprints is not None and run.tags.get("fingerprint") not in fingerprints:
            continue
        row = run_row(run)
        values = {**run.tags, **run.params, **row}
        if scope.holds(values):
            met = True
            yield run, row
        elif not met:
            names |= values.keys()
    if not met:
        scope.refuse_unknown(names)


def _members(store: Store, sweep: str) -> frozenset[str]:
    # A sweep's list names all of its runs, also those that an earlier sweep stored; it is written by the evaluation.
    found = sweep_run.find(store, sweep)
    if found is None:
        raise InputError(f"--sweep {sweep}: no such sweep is stored; list them with: pipeline leaderboard --all")
    if listed := sweep_run.contents(store, found) if sweep_run.is_evaluated(found) else None:
        return frozenset(listed.runs)
    return frozenset(run.tags.get("fingerprint", "") for run in store.runs() if run.tags.get("sweep") == sweep)


def run_row(run: StoredRun) -> dict[str, object]:
    """Describe a run: its name as in the outs, params, metrics and where it comes from."""
    row: dict[str, object] = {"run": run.name, "status": run.status}
    row |= {key: number(run.params[key]) for key in ALWAYS if key in run.params}
    row |= {key: number(own) for key, default in OTHERS.items() if (own := run.params.get(key, default)) != default}
    row |= {key: run.metrics[key] for key in RUN_METRICS if math.isfinite(run.metrics.get(key, math.nan))}
    row |= {"data": data_of(run)} | {key: run.tags.get(key, "") for key in MADE_BY}
    return row | {"seal": run.seal_state, "fingerprint": run.tags.get("fingerprint", ""), "run_id": run.run_id}


@answering()
def links_of(experiment: str, sweep: str) -> list[str]:
    """Link to a sweep in MLflow's pages, a line for each link; none if it is not stored."""
    store = Store.look(experiment)
    found = sweep_run.find(store, sweep) if store else None
    return sweep_links(store, found.run_id) if store and found else []


def sweep_links(store: Store, parent_id: str) -> list[str]:
    """Link to an evaluated sweep in MLflow's pages; none before its evaluation."""
    parent = store.run(parent_id)
    if not sweep_run.is_evaluated(parent):
        return []
    sweep = links.run_link(store.experiment.experiment_id, parent_id)
    return [f"the sweep in MLflow: {sweep}", f"its leaderboard: {views.link_for(store, parent.params.get('data', ''))}"]


@answering()
def leaderboard_link(experiment: str, summary: Mapping[str, Any] | None) -> str:
    """Link to the leaderboard of a workspace's data in MLflow's pages; to all runs if it has no view.

    Args:
        experiment: MLflow's.
        summary: of the prepared data, summary.json; None if there is none.

    Raises:
        InputError: nothing is stored, or the store fails.
    """
    store = Store.look(experiment)
    if store is None:
        uri = addresses.shown(repository.store_uri())
        raise InputError(f"{uri}: nothing of experiment {experiment!r} is stored there; run: dvc repro")
    return views.link_for(store, data_label(summary) if summary else "")


def data_of(run: StoredRun) -> str:
    """Name a run's data; a run stored before data had a label names the table and its prepared data's md5."""
    source = PurePosixPath(run.params.get("data.source", ""))
    return run.params.get("data", f"{source.stem} md5:{run.tags.get('data_md5', '')[:6]}")


@answering()
def leaderboards(experiment: str, metric: str, scope: Scope) -> list[Row]:
    """List the configurations of evaluated sweeps, those of the same data together, best first.

    Those of a sweep whose record was altered come last, marked.
    """
    store = Store.look(experiment)
    known: list[Row] = []
    for parent in store.all_sweeps() if store else []:
        if store and sweep_run.is_evaluated(parent) and scope.sweep in {"", parent.tags["sweep"]}:
            known += _configurations(store, parent)
    if scope.sweep and not known:
        raise InputError(
            f"--sweep {scope.sweep}: no such sweep is evaluated; list them with: pipeline leaderboard --all"
        )
    rows = [row for row in known if scope.holds(row)]
    if not rows:
        scope.refuse_unknown({name for row in known for name in row})

    def place(row: Row) -> tuple[object, ...]:
        diverged, worse = str(row.get("diverged")) != "0", as_loss(metric, row.get(f"{metric} mean"))
        return row["seal"] == seals.ALTERED, row["data"], diverged, worse

    return sorted(rows, key=place)


def _configurations(store: Store, parent: StoredRun) -> list[Row]:
    listed = sweep_run.contents(store, parent)
    try:
        content = store.artifact(parent, outs.LEADERBOARD.name, LEADERBOARD_BYTES)
    except FileNotFoundError:
        return []
    sealed = listed and listed.files.get(outs.LEADERBOARD.name) == sha256(content).hexdigest()
    of = {"data": data_of(parent), "sweep": parent.tags["sweep"], "seal": seals.SEALED if sealed else seals.ALTERED}
    return [configuration(line) | of for line in csv.DictReader(content.decode(errors="replace").splitlines())]
