"""`pipeline reproduce`: make runs again from their records alone, away from the working tree, and compare."""

import io
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import md5
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML
from safetensors import SafetensorError
from safetensors.numpy import load, save

from pipeline import outs, provenance, queries, records, revisions, unpinned, worktrees
from pipeline.params import METRICS, InputError
from pipeline.recorder import flat
from pipeline.records import CURVE, Array, Record
from pipeline.stored import Stored, first_line, parse_params
from pipeline.sweep import curve_steps
from pipeline.tracking import WEIGHTS, text

FIGURES = (*METRICS, "grad_error")


def reproduce(
    experiment: str, run_ids: Sequence[str], allow_patch: bool = False, allow_commit: bool = False
) -> dict[str, list[str]]:
    """Make runs again; runs that trained in the same stack are made together.

    Args:
        experiment: MLflow's.
        run_ids: the runs'.
        allow_patch: run code that a record holds, without asking.
        allow_commit: run a commit that no local branch, tag or DVC experiment reaches, without asking.

    Returns:
        by run id, what differs from the record; nothing where it is the same bit for bit.

    Raises:
        InputError: a record is malformed, or its commit, data or torch version is gone, or its code may not be run.
    """
    worktrees.remove_leftovers()
    groups: dict[tuple[str, ...], list[Stored]] = defaultdict(list)
    for run_id in run_ids:
        stored = queries.recall(experiment, run_id)
        same = (stored.commit, stored.tags.get("git_changes", ""), stored.params_yaml, stored.tags["data_md5"])
        groups[*same, stored.params["variant"], stored.params["batch_size"]].append(stored)
    for group in groups.values():
        worktrees.permit(group[0], allow_patch, allow_commit)
    differences: dict[str, list[str]] = {}
    for group in groups.values():
        made = make(group[0])
        for stored in group:
            record = find(stored, made)
            gone = [
                "params: the code, data and params.yaml on record give no run of this fingerprint, nor of its params"
            ]
            differences[stored.run_id] = (
                gone if record is None else compare_exactly(stored, record) + compare(stored, record)
            )
    return differences


def make(stored: Stored) -> list[Record]:
    """Train a run again, with the runs of its stack, as the size of a stack can touch the last bits, and evaluate it.

    Raises:
        InputError: its commit, data or torch version is gone.
    """
    # A restored run's torch is unknown: the comparison will tell.
    made_with, here = stored.tags.get("torch", "").split("+")[0], version("torch").split("+")[0]
    if made_with not in {"", here}:
        raise InputError(
            f"{stored.run_id}: was made with torch {made_with}, and here is {here}; check out commit "
            f"{stored.commit[:12]} into a folder of its own and run make setup there"
        )
    with worktrees.worktree(stored) as folder:
        params = parse_params(stored)
        size, variant = stored.params["batch_size"], stored.params["variant"]
        params["sweep"]["batch_size"] = [size if size == "full" else int(size)]
        place_data(stored, params, folder)
        write_params(stored, params, folder)
        stage(folder, "pipeline.train", variant)
        stage(folder, "pipeline.evaluate")
        return read(stored, folder)


def read(stored: Stored, folder: Path) -> list[Record]:
    """Read what the stages of the run's commit wrote.

    Raises:
        InputError: they wrote it in another form than this version reads.
    """
    try:
        metrics = {row.pop("fingerprint"): row for row in outs.read_csv(folder / outs.EVALUATED)}
        made = records.read(folder / outs.TRAINED / stored.params["variant"])
        figures = [metrics[record.run.fingerprint] for record in made]
        return [
            replace(record, metrics={key: float(value) for key, value in row.items() if key in FIGURES and value})
            for record, row in zip(made, figures, strict=True)
        ]
    except (OSError, KeyError, ValueError, TypeError, IndexError, SafetensorError) as error:
        raise InputError(
            f"{stored.run_id}: the outs of its commit cannot be read by this version: {first_line(error)}; check out "
            f"commit {stored.commit[:12]} into a folder of its own and run make setup there"
        ) from error


def find(stored: Stored, made: Sequence[Record]) -> Record | None:
    """Find a run among those made: by its fingerprint, or, where that is not among them, by its params."""
    known = {record.run.fingerprint: record for record in made}
    same = (record for record in made if not differing_params(stored, record))
    return known.get(stored.tags["fingerprint"]) or next(same, None)


def write_params(stored: Stored, params: dict[str, Any], folder: Path) -> None:
    """Write a params.yaml."""
    written = io.StringIO()
    YAML(typ="safe", pure=True).dump(params, written)
    worktrees.write(stored, folder, Path("params.yaml"), written.getvalue().encode())


def place_data(stored: Stored, params: dict[str, Any], folder: Path) -> None:
    """Put the prepared data in their place: by their md5, or prepared again from the raw table of its md5.

    Raises:
        InputError: neither is to be had.
    """
    wanted, raw, source = stored.tags["data_md5"], stored.tags["source_md5"], params["data"]["source"]
    params["data"]["source"] = "reproduced.csv"  # never the user's own file, whatever became of that
    prepared = folder / outs.PREPARED
    if (tensors := revisions.content(wanted)) is not None:
        worktrees.write(stored, folder, outs.PREPARED, tensors)
    else:
        places = [place for top in (folder, provenance.root()) if (place := inside(top, source))]
        table = next((place.read_bytes() for place in places if outs.md5(place) == raw), None)
        table = revisions.content(raw) if table is None else table
        if table is not None:
            worktrees.write(stored, folder, Path("reproduced.csv"), table)
            write_params(stored, params, folder)
            stage(folder, "pipeline.prepare")
    if not prepared.exists() or outs.md5(prepared) != wanted:
        raise InputError(
            f"{stored.run_id}: its data are gone: neither the prepared tensors (md5 {wanted}) nor {source!a} as "
            f"it was (md5 {raw}) are in the workspace, in DVC's cache or in its remote"
        )
    worktrees.write(stored, folder, outs.SUMMARY, stored.summary.encode())


def inside(folder: Path, source: str) -> Path | None:
    """Locate a record's table, a file below the folder; None where there is none, or the path leads outside."""
    try:
        place = (folder / source).resolve()
        return place if place.is_relative_to(folder.resolve()) and place.is_file() else None
    except (OSError, ValueError, RuntimeError):  # a name too long, a NUL in it, links in a circle
        return None


def stage(folder: Path, module: str, *arguments: str) -> None:
    """Run a stage as it is at the run's commit, with a store of its own.

    Raises:
        InputError: it fails; it has said why.
    """
    # The commit's own code pins its kernels, or does not, as when the run was made.
    kept = {key: value for key, value in unpinned().items() if not key.startswith(("DVC_", "MLFLOW_", "PYTHONPATH"))}
    own = {"DVC_ROOT": str(folder), "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}"}
    command = [sys.executable, "-m", module, *arguments]
    if subprocess.run(command, cwd=folder, env=kept | own, check=False).returncode != 0:
        raise InputError(f"{' '.join(command[1:])}: failed at the run's commit; see above")


def compare_exactly(stored: Stored, record: Record) -> list[str]:
    """Say what of a run made again differs from its record in what is the same on every machine."""
    differences = differing_params(stored, record)
    hashed = md5(stored.weights, usedforsecurity=False).hexdigest()
    pairs = {
        "fingerprint": (stored.tags["fingerprint"], record.run.fingerprint),
        "status": (stored.status, "FAILED" if record.diverged else "FINISHED"),
        "diverged": (stored.tags.get("diverged"), record.diverged or None),
    }
    if stored.weights:
        pairs["weights_md5"] = (stored.tags.get("weights_md5"), hashed)
    return differences + [
        f"{key}: {there or 'nothing'} on record, {here or 'nothing'} now"
        for key, (there, here) in pairs.items()
        if there != here
    ]


def differing_params(stored: Stored, record: Record) -> list[str]:
    """Say which params of a run are not its own as made again, or not the data's as params.yaml has them."""
    own = {key: getattr(record.run, key) for key in ("variant", "batch_size", "lr", "seed", "epochs", "init", "device")}
    expected = {key: text(value) for key, value in (own | flat({"data": parse_params(stored)["data"]})).items()}
    return [
        f"{key}: {stored.params.get(key)!a} on record, {value!r} now"
        for key, value in expected.items()
        if stored.params.get(key) != value
    ]


def compare(stored: Stored, record: Record) -> list[str]:
    """Say what of a run made again differs in any bit from what MLflow holds of it: weights, curve, figures."""
    differences = [] if stored.weights else [f"{WEIGHTS}: is gone from MLflow"]
    if stored.weights:
        tensors = compare_tensors(load(stored.weights), record.tensors)
        same = stored.weights == save(dict(record.tensors))
        differences += tensors or (
            [] if same else [f"{WEIGHTS}: the tensors are the same, the file around them is not"]
        )
    steps = curve_steps(len(record.curve), parse_params(stored)["track"]["points"])
    made = {step: float(record.curve[step]) for step in steps if np.isfinite(record.curve[step])}
    return differences + compare_curves(stored.points, made) + compare_figures(stored, record, made)


def compare_curves(stored: Mapping[int, float], made: Mapping[int, float]) -> list[str]:
    """Say which points of two curves, step -> train/mse, differ, are missing or were added."""
    wrong = [step for step in sorted({*made, *stored}) if made.get(step) != stored.get(step)]
    if not wrong:
        return []
    step, both = wrong[0], [step for step in wrong if step in made and step in stored]
    most = f", by at most {max(abs(made[step] - stored[step]) for step in both):.3g}" if both else ""
    first = f"the first, step {step}: {stored.get(step)} on record, {made.get(step)} now"
    return [f"{CURVE}: {len(wrong)} of {len(made)} points differ{most}; {first}"]


def compare_figures(stored: Stored, record: Record, curve: Mapping[int, float]) -> list[str]:
    """Say which figures differ: all of them, but only the curve's last where the sweep was not evaluated yet."""
    made = {key: value for key, value in record.metrics.items() if key != CURVE}
    if not stored.evaluated and not set(stored.metrics) & set(made):
        made = {}
    if curve:
        made[CURVE] = curve[max(curve)]
    held = {key: value for key, value in stored.metrics.items() if key in made or key in FIGURES}
    return [
        f"{key}: {held.get(key, 'nothing')} on record, {made.get(key, 'nothing')} now"
        + (" (its last value)" if key == CURVE else "")
        for key in sorted({*made, *held})
        if held.get(key) != made.get(key)
    ]


def compare_tensors(stored: Mapping[str, Array], made: Mapping[str, Array]) -> list[str]:
    """Say which tensors differ in any bit, in how many values and by how much."""
    differences = []
    for name in sorted({*stored, *made}):
        if name not in stored or name not in made or stored[name].shape != made[name].shape:
            differences.append(f"{name}: is not on both sides, or not of the same shape")
        elif stored[name].tobytes() != made[name].tobytes():
            apart = stored[name].view(np.uint32) != made[name].view(np.uint32)
            with np.errstate(invalid="ignore", over="ignore"):
                most = np.abs(stored[name].astype(np.float64) - made[name])[apart].max()
            differences.append(f"{name}: {apart.sum()} of {apart.size} values differ, by at most {most:.3g}")
    return differences
