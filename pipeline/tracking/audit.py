"""Compares the runs in MLflow's store with their seals, and with the workspace's outs, to find what was altered."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from pipeline.metrics import RUN_METRICS
from pipeline.runs import outs
from pipeline.runs.records import CURVE, Record
from pipeline.system import addresses, machine
from pipeline.system.files import md5_of
from pipeline.tracking import seals, sweep_run
from pipeline.tracking.comparison import Comparison, Curve, curve_of
from pipeline.tracking.runs import FINISHED, PARENT, RUNNING, WEIGHTS, Point, StoredRun
from pipeline.tracking.store.store import Store, answering

MEND = "recompute it: pipeline reproduce {0}; then mlflow runs delete --run-id {0} && pipeline sync"


@dataclass(frozen=True)
class Finding:
    """What is wrong, where, and how to mend it."""

    what: str
    mend: str


@dataclass(frozen=True)
class Audit:
    """What was found, in how many runs; unsealed: how many of them are older than seals."""

    findings: list[Finding]
    runs: int
    unsealed: int


@answering()
def audit(experiment: str, evaluated: Sequence[Record]) -> Audit:
    """Check every run of an experiment, and those of the workspace's outs; nothing if there is no store.

    Args:
        experiment: MLflow's.
        evaluated: the records in the outs; empty if there are none.
    """
    store = Store.look(experiment)
    if store is None:
        return Audit([], 0, 0)
    everything = [run for run in store.everything() if run.tags.get("role") in {"run", "sweep"}]
    sweeps = {run.run_id: run for run in everything if run.tags["role"] == "sweep"}
    runs = [run for run in everything if run.tags["role"] == "run"]
    curves, last = curves_of(store, runs), last_values(store, runs)
    faults = {run.run_id: [*of_run(store, run, sweeps, curves[run.run_id], last[run.run_id])] for run in runs}
    sound = [run for run in runs if not faults[run.run_id]]
    findings = [finding for found in faults.values() for finding in found]
    findings += [finding for sweep in sweeps.values() for finding in of_sweep(store, sweep, runs)]
    comparison = Comparison(store)
    whole: dict[str, list[StoredRun]] = {}
    for run in sound:
        if run.is_complete:
            whole.setdefault(run.tags.get("fingerprint", ""), []).append(run)
    for record in evaluated:
        findings += of_record(comparison, record, whole.get(record.run.fingerprint, []), curves)
    unsealed = sum("seal" not in run.tags and run.is_complete for run in runs)
    return Audit(findings, len(everything), unsealed)


def curves_of(store: Store, runs: Sequence[StoredRun], key: str = CURVE) -> dict[str, Curve]:
    """Read a metric's history, id -> step and value, in the order by which MLflow finds the last."""
    histories = store.histories(runs, key).items()
    return {one: curve_of(sorted(points, key=Point.rank)) for one, points in histories}


def last_values(store: Store, runs: Sequence[StoredRun]) -> dict[str, dict[str, float]]:
    """Read the last value in the history of each metric, id -> key -> value."""
    last: dict[str, dict[str, float]] = {run.run_id: {} for run in runs}
    for key in RUN_METRICS:
        for one, points in curves_of(store, runs, key).items():
            last[one] |= {key: points[-1][1]} if points else {}
    return last


def named(run: StoredRun) -> str:
    """Name a run in a message."""
    return f"{run.name} (run {run.run_id})"


def place(store: Store, run: StoredRun, name: str) -> str:
    """Locate an artifact in a message."""
    try:
        return addresses.shown(f"{store.artifact_uri(run)}/{name}")
    except FileNotFoundError as error:
        return f"{name} ({error})"


def of_run(
    store: Store, run: StoredRun, sweeps: Mapping[str, StoredRun], curve: Curve, last: Mapping[str, float]
) -> Iterator[Finding]:
    """Compare a run with its seals, with its sweep's run, and its metrics with the last of their histories."""
    tags = run.tags
    parent = sweeps.get(tags.get(PARENT, ""))
    faults = []
    if not run.is_complete:
        if "seal" in tags:
            faults.append(f"says {run.status}, but was sealed when it ended")
    else:
        state = run.seal_state
        if state == seals.ALTERED:
            faults.append("its seal does not match: status, times, params, metrics, datasets or tags were altered")
        elif state == seals.UNSEALED and parent and "seal" in parent.tags:
            faults.append("its seal is gone")
        faults += [*altered_files(store, run, curve), *altered_metrics(run, last)]
    if parent is None or parent.tags.get("sweep") != tags.get("sweep"):
        faults.append("its sweep's run is not in the store: deleted or altered")
    if tags.get("git_commit") != tags.get("mlflow.source.git.commit"):
        faults.append("its tags git_commit and mlflow.source.git.commit name different commits")
    confirmed = any(key.startswith(seals.CONFIRMATIONS) for key in tags) or "seal_confirmed" in tags
    if "seal" in tags and confirmed and tags.get("seal_confirmed") != seals.of_confirmations(tags):
        faults.append("its tags confirmed… were altered")
    if faults:
        yield Finding(f"{named(run)}: {'; '.join(faults)}", MEND.format(run.run_id))


def altered_files(store: Store, run: StoredRun, curve: Curve) -> Iterator[str]:
    """Say which of a run's weights and curve are not as they were sealed."""
    tags = run.tags
    try:
        weights = store.artifact(run, WEIGHTS)
    except FileNotFoundError:
        weights = b""
    if md5_of(weights) != tags.get("weights_md5"):
        yield f"{place(store, run, WEIGHTS)} is gone, or its md5 is not the run's weights_md5"
    elif "seal" in tags and tags.get("seal_files") != seals.of_files(curve, weights):
        yield f"its curve {CURVE} or its weights were altered after it ended"


def altered_metrics(run: StoredRun, last: Mapping[str, float]) -> Iterator[str]:
    """Say which of a run's metrics are not the last of their histories, key -> value."""
    for key in RUN_METRICS:
        if last.get(key) != run.metrics.get(key):
            yield f"{key}: its value is not the last of its history"


def of_sweep(store: Store, parent: StoredRun, runs: Sequence[StoredRun]) -> Iterator[Finding]:
    """Compare a sweep's run with its seals, its artifacts with its list, and the list with the stored runs."""
    tags, run_id = parent.tags, parent.run_id
    children = [run for run in runs if run.tags.get(PARENT) == run_id]
    faults, listed = [], {}
    if "seal" in tags:
        contents = sweep_run.contents(store, parent)
        faults = [*altered_sweep(store, parent, contents, children)]
        listed = contents.runs if contents else {}
    elif "champion" in tags and any("seal" in run.tags for run in children):  # else not ended, or older than seals
        faults = ["its seal is gone"]
    if faults:
        mend = f"mlflow runs delete --run-id {run_id}; then pipeline sync in a workspace that has the sweep's outs"
        yield Finding(f"{named(parent)}: {'; '.join(faults)}", mend)
    stored = {run.tags.get("fingerprint") for run in runs if run.is_complete}
    for fingerprint, name in listed.items():
        if fingerprint not in stored:
            what = f"{name} (fingerprint {fingerprint}) of sweep {tags.get('sweep')}"
            yield Finding(f"{what}: is not in the store: deleted or altered", "pipeline sync, or dvc repro")


def altered_sweep(
    store: Store, parent: StoredRun, contents: sweep_run.Contents | None, children: Sequence[StoredRun]
) -> Iterator[str]:
    """Say what of a sealed sweep's run, list and artifacts is gone or altered."""
    if parent.seal_state == seals.ALTERED:
        yield "its seal does not match: params, datasets or tags were altered after it ended"
    if parent.status not in {FINISHED, RUNNING}:
        yield f"says {parent.status}, though it had ended: altered, or a later stage was killed"
    if contents is None:
        yield f"{place(store, parent, sweep_run.CONTENTS)}, its list, is gone or altered"
    else:
        yield from altered_artifacts(store, parent, contents.files, children)


def altered_artifacts(
    store: Store, parent: StoredRun, files: Mapping[str, str], children: Sequence[StoredRun]
) -> Iterator[str]:
    """Say which artifacts of a sweep are gone or altered: those on its list, and patches, which are named by hash."""
    patches = {run.tags.get("git_changes", "") for run in [parent, *children]} - {""}
    expected = {name: name.removesuffix(".patch") for name in patches} | dict(files)
    for name, digest in sorted(expected.items()):
        try:
            whole = sha256(store.artifact(parent, name)).hexdigest().startswith(digest)
        except FileNotFoundError:
            whole = False
        if not whole:
            yield f"{place(store, parent, name)} is gone or altered"


def of_record(
    comparison: Comparison, record: Record, stored: Sequence[StoredRun], curves: Mapping[str, Curve]
) -> Iterator[Finding]:
    """Compare a run in the outs with the complete ones of its fingerprint; a missing one is reported elsewhere.

    The outs count as made here: rounding explains a difference only from what another machine stored.
    """
    if not stored:
        return
    here = machine.numeric_tags()
    decision = comparison.decide(stored, record, here, curves)
    run = decision.standing
    if run is None or not (has_metrics(run, record) or machine.may_differ(run.tags, here, record.run.device)):
        what = f"its weights, curve or metrics are not those of {outs.TRAINED} and {outs.EVALUATED}"
        yield Finding(f"{named(stored[0])}: {what}", MEND.format(stored[0].run_id))


def has_metrics(run: StoredRun, record: Record) -> bool:
    """Tell whether a stored run's metrics are those of a record in the outs."""
    return all(value == record.metrics.get(key, value) for key, value in run.metrics.items())
