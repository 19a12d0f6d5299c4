"""What a person asks of the runs in MLflow, answered in plain values."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors.numpy import load_file

from pipeline import outs, repository
from pipeline.evaluation import rounding
from pipeline.params import HIGHER_IS_BETTER, METRICS, InputError, Params
from pipeline.records import CURVE, Record
from pipeline.sweep import sweep_id
from pipeline.tracking import parents, repeats, seals, stored
from pipeline.tracking.recorder import Recorder
from pipeline.tracking.store import (
    STORE_ERRORS,
    WEIGHTS,
    Store,
    StoredRun,
    answering,
    is_complete,
    now,
    seal_state,
)
from pipeline.tracking.stored import Stored


@answering()
def top(experiment: str, metric: str, limit: int) -> list[dict[str, str]]:
    """List the best runs, best first, as rows of text; what diverged or has no such figure is none of them.

    Runs that were altered since they ended, and would be among the best, stand below them, marked.
    """
    store = Store.open(experiment)
    condition = f"attributes.status = 'FINISHED' and tags.role = 'run' and metrics.`{metric}` > -1e308"
    order = f"metrics.`{metric}` {'DESC' if metric in HIGHER_IS_BETTER else 'ASC'}"
    sound: list[dict[str, str]] = []
    altered: list[dict[str, str]] = []
    for run in store.search(condition, [order], min(1000, limit + 10)):
        row = {"run": run.info.run_name}
        row |= {key: f"{run.data.metrics[key]:.6g}" for key in (metric, *METRICS) if key in run.data.metrics}
        row |= {"seal": seal_state(run), "run_id": run.info.run_id}
        (altered if row["seal"] == seals.ALTERED else sound).append(row)
        if len(sound) == limit:
            break
    return sound + altered


@answering()
def runs(experiment: str, names: Mapping[str, str]) -> list[dict[str, str]]:
    """List the stored runs of fingerprints (fingerprint -> name), as rows of text; a missing one has no id.

    Runs that were altered since they ended stand after those of the same fingerprint, marked.
    """
    store = Store.open(experiment)
    rows = []
    for fingerprint, name in names.items():
        stored = sorted(store.of(fingerprint), key=lambda run: seal_state(run) == seals.ALTERED)
        for run in stored or [None]:
            tags = run.data.tags if run else {}
            row = {"run": name, "status": run.info.status if run else "missing", "fingerprint": fingerprint}
            row |= {key: tags.get(key, "")[:12] for key in ("sweep", "dvc_experiment", "git_commit", "git_dirty")}
            rows.append(row | {"seal": seal_state(run) if run else "", "run_id": run.info.run_id if run else ""})
    return rows


def recall(experiment: str, run_id: str) -> Stored:
    """Read all that MLflow holds of a run, and check it.

    Raises:
        InputError: there is no such run, or it is not one of the pipeline's, or its record is malformed, or the store
            does not answer.
    """
    stored.run_id(run_id)
    try:
        return stored.check(_read(Store.open(experiment), run_id))
    except FileNotFoundError as error:
        raise InputError(f"{run_id}: its record is not whole, an artifact is gone: {error}") from error
    except STORE_ERRORS as error:
        fault = repository.without_password(f"{repository.store_uri()}: {error}")
        raise InputError(f"{run_id}: cannot be read from MLflow's store {fault}") from error
    except Exception as error:  # MLflow and its drivers raise anything over rows that MLflow did not write
        fault = repository.without_password(f"{type(error).__name__}: {stored.first_line(error)}")
        raise InputError(f"{run_id}: its record in MLflow's store cannot be read: {fault}") from error


def _read(store: Store, run_id: str) -> Stored:
    run = store.client.get_run(run_id)
    tags = run.data.tags
    if tags.get("role") != "run":
        raise InputError(
            f"{run_id}: is not a run that this pipeline made; list those with: pipeline top, pipeline runs"
        )
    stored.check_tags(run_id, tags)
    parent = store.client.get_run(tags["mlflow.parentRunId"])
    if (parent.data.tags.get("role"), parent.data.tags.get("sweep")) != ("sweep", tags["sweep"]):
        raise InputError(
            f"{run_id}: its parent {tags['mlflow.parentRunId']} is not the run of its sweep {tags['sweep']}"
        )
    history = [(point.step, point.value) for point in store.client.get_metric_history(run_id, CURVE)]
    changes = tags.get("git_changes", "")
    params_yaml, summary = (
        stored.decode(run_id, name, store.artifact(parent, name, stored.TEXT_BYTES))
        for name in ("params.yaml", outs.SUMMARY.name)
    )
    try:
        weights = store.artifact(run, WEIGHTS, stored.WEIGHTS_BYTES)
    except FileNotFoundError:
        weights = b""
    return Stored(
        run_id,
        run.info.status,
        tags,
        run.data.params,
        run.data.metrics,
        stored.check_curve(run_id, history),
        weights,
        params_yaml,
        summary,
        store.artifact(parent, changes, stored.PATCH_BYTES) if changes else b"",
        f"{store.artifact_uri(parent)}/{changes}",
        "champion" in parent.data.tags,
        seal_state(run),
    )


@dataclass(frozen=True)
class State:
    """What is to be said of a store.

    ended: runs that were just ended. ownerless: runs without an owner, by id. lacking: runs that it should hold, and
    does not, or not whole. artifacts: where they lie.
    """

    ended: list[str]
    ownerless: dict[str, str]
    lacking: list[str]
    artifacts: str


@answering()
def state(experiment: str, expected: Mapping[str, str]) -> State:
    """Open a store, ending the runs of the dead, and say what there is to say of it.

    Args:
        experiment: MLflow's.
        expected: runs that it should hold, fingerprint -> name.
    """
    store = Store.connect(experiment)
    ended = [f"{run.info.run_name} ({run.info.run_id})" for run in store.end_the_dead()]
    running = store.search("attributes.status = 'RUNNING'")
    ownerless = {run.info.run_id: run.info.run_name for run in running if "heartbeat" not in run.data.tags}
    found = store.search("tags.role = 'run'") if expected else []
    held = {run.data.tags.get("fingerprint") for run in found if is_complete(run)}
    lacking = [name for fingerprint, name in expected.items() if fingerprint not in held]
    return State(ended, ownerless, lacking, store.experiment.artifact_location)


@answering()
def sync(params: Params, evaluated: Sequence[Record], artifacts: Sequence[Path], champion: str) -> int:
    """Store what the store lacks of a sweep; return how many runs it lacked or held in part.

    Raises:
        InputError: the store does not answer.
    """
    store = Store.open(params.track.experiment)
    runs = [record.run for record in evaluated]
    parent = parents.find(store, sweep_id(runs))
    unlike = [
        (record, found) for record in evaluated if not _holds(found := store.find(record.run.fingerprint), record)
    ]
    # Another machine may have stored them, and rounded otherwise.
    table = rounding.table(load_file(outs.PREPARED)) if unlike else []
    lacking = sum(not _holds_within_rounding(store, found, record, table) for record, found in unlike)
    if lacking or not (parent and "champion" in parent.data.tags):
        recorder = Recorder(params, runs, os.getpid(), now())
        recorder.complete(evaluated, artifacts, champion)
        recorder.end("FINISHED", "")
    return lacking


def _holds(found: Sequence[StoredRun], record: Record) -> bool:
    expected = record.metrics.items()
    return any(is_complete(run) and all(run.data.metrics.get(key) == value for key, value in expected) for run in found)


def _holds_within_rounding(store: Store, found: Sequence[StoredRun], record: Record, table: rounding.Table) -> bool:
    evaluated = [run for run in found if not record.metrics.keys() - run.data.metrics.keys()]
    others = [run for run in evaluated if not repeats.has_weights(run, record)]
    return any(repeats.agrees(store, run, record, table) for run in others)
