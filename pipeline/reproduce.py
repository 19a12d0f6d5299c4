"""`pipeline reproduce`: make runs again from their records alone, away from the working tree, and compare."""

import io
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML
from safetensors import SafetensorError
from safetensors.numpy import load

from pipeline import outs, provenance, queries, records, revisions
from pipeline.params import InputError
from pipeline.queries import Stored
from pipeline.records import Array, Record
from pipeline.sweep import curve_steps
from pipeline.tracking import WEIGHTS


def reproduce(experiment: str, run_ids: Sequence[str]) -> dict[str, list[str]]:
    """Make runs again; runs that trained in the same stack are made together.

    Returns:
        by run id, what differs from the record; nothing where it is the same bit for bit.

    Raises:
        InputError: a run's record, commit, data or torch version is gone.
    """
    groups: dict[tuple[str, ...], list[Stored]] = defaultdict(list)
    for run_id in run_ids:
        stored = queries.recall(experiment, run_id)
        same = (stored.tags.get("git_commit", ""), stored.tags.get("git_changes", ""), stored.params_yaml)
        groups[*same, stored.params["variant"], stored.params["batch_size"]].append(stored)
    differences: dict[str, list[str]] = {}
    for group in groups.values():
        made = {record.run.fingerprint: record for record in make(group[0])}
        for stored in group:
            record = made.get(stored.tags["fingerprint"])
            gone = ["the code, data and params on record give no run of this fingerprint"]
            differences[stored.run_id] = gone if record is None else compare(stored, record)
    return differences


def make(stored: Stored) -> list[Record]:
    """Train a run again, with the runs of its stack, as the size of a stack can touch the last bits.

    Raises:
        InputError: its commit, data or torch version is gone.
    """
    made_with, here = stored.tags["torch"].split("+")[0], version("torch").split("+")[0]
    if made_with != here:
        raise InputError(
            f"{stored.run_id}: was made with torch {made_with}, and here is {here}; check out commit "
            f"{stored.tags.get('git_commit', '')[:12]} into a folder of its own and run make setup there"
        )
    with worktree(stored) as folder:
        params = parse_params(stored)
        size = stored.params["batch_size"]
        params["variants"] = [stored.params["variant"]]
        params["sweep"]["batch_size"] = [size if size == "full" else int(size)]
        place_data(stored, params, folder)
        write_params(params, folder)
        stage(folder, "pipeline.train", stored.params["variant"])
        return records.read(folder / outs.TRAINED / stored.params["variant"])


def parse_params(stored: Stored) -> dict[str, Any]:
    """Read the sweep's params.yaml."""
    params: dict[str, Any] = YAML(typ="safe", pure=True).load(stored.params_yaml)
    return params


def write_params(params: dict[str, Any], folder: Path) -> None:
    """Write a params.yaml."""
    text = io.StringIO()
    YAML(typ="safe", pure=True).dump(params, text)
    (folder / "params.yaml").write_text(text.getvalue(), encoding="utf-8")


@contextmanager
def worktree(stored: Stored) -> Iterator[Path]:
    """Check out a run's commit, with the changes that lay over it, into a folder that is removed afterwards.

    Raises:
        InputError: git does not have the commit.
    """
    commit = stored.tags.get("git_commit", "")
    if not commit or provenance.git("cat-file", "-e", f"{commit}^{{commit}}") is None:
        raise InputError(
            f"{stored.run_id}: git does not have its commit {commit or '(none on record)'}; fetch it first"
        )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve() / "worktree"
        try:
            git(stored, "worktree", "add", "--quiet", "--detach", str(folder), commit)
            if stored.patch:
                git(stored, "-C", str(folder), "apply", "--binary", "--whitespace=nowarn", "-", given=stored.patch)
            yield folder
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", folder], check=False, capture_output=True)


def git(stored: Stored, *arguments: str, given: bytes = b"") -> None:
    """Run git.

    Raises:
        InputError: it fails.
    """
    result = subprocess.run(["git", *arguments], input=given, capture_output=True, check=False)
    if result.returncode != 0:
        raise InputError(
            f"{stored.run_id}: git {' '.join(arguments)}: {result.stderr.decode(errors='replace').strip()}"
        )


def place_data(stored: Stored, params: dict[str, Any], folder: Path) -> None:
    """Put the prepared data in their place: by their md5, or prepared again from the raw table of its md5.

    Raises:
        InputError: neither is to be had.
    """
    wanted, raw, source = stored.tags["data_md5"], stored.tags["source_md5"], params["data"]["source"]
    prepared = folder / outs.PREPARED
    prepared.parent.mkdir(parents=True, exist_ok=True)
    if (tensors := revisions.content(wanted)) is not None:
        prepared.write_bytes(tensors)
    else:
        places = [folder / source, provenance.root() / source]
        table = next((path.read_bytes() for path in places if path.exists() and outs.md5(path) == raw), None)
        table = revisions.content(raw) if table is None else table
        if table is not None:
            (folder / "reproduced.csv").write_bytes(table)
            params["data"]["source"] = "reproduced.csv"  # never the user's own file, wherever that lies
            write_params(params, folder)
            stage(folder, "pipeline.prepare")
    if not prepared.exists() or outs.md5(prepared) != wanted:
        raise InputError(
            f"{stored.run_id}: its data are gone: neither the prepared tensors (md5 {wanted}) nor {source} as it was "
            f"(md5 {raw}) are in the workspace, in DVC's cache or in its remote"
        )
    (folder / outs.SUMMARY).write_text(stored.summary, encoding="utf-8")


def stage(folder: Path, module: str, *arguments: str) -> None:
    """Run a stage as it is at the run's commit, with a store of its own.

    Raises:
        InputError: it fails; it has said why.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "MLFLOW_", "PYTHONPATH"))}
    own = {"DVC_ROOT": str(folder), "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}"}
    command = [sys.executable, "-m", module, *arguments]
    if subprocess.run(command, cwd=folder, env=kept | own, check=False).returncode != 0:
        raise InputError(f"{' '.join(command[1:])}: failed at the run's commit; see above")


def compare(stored: Stored, record: Record) -> list[str]:
    """Say what of a run made again differs from what MLflow holds of it."""
    differences = [] if stored.weights else [f"{WEIGHTS}: is gone from MLflow"]
    try:
        differences += compare_tensors(load(stored.weights) if stored.weights else record.tensors, record.tensors)
    except SafetensorError as error:
        differences.append(f"{WEIGHTS}: cannot be read: {error}")
    steps = curve_steps(len(record.curve), parse_params(stored)["track"]["points"])
    made = {step: float(record.curve[step]) for step in steps if np.isfinite(record.curve[step])}
    if wrong := [step for step in sorted({*made, *stored.points}) if made.get(step) != stored.points.get(step)]:
        step, both = wrong[0], [step for step in wrong if step in made and step in stored.points]
        most = f", by at most {max(abs(made[step] - stored.points[step]) for step in both):.3g}" if both else ""
        differences.append(
            f"train/mse: {len(wrong)} of {len(made)} points differ{most}; the first, step {step}: "
            f"{stored.points.get(step)} on record, {made.get(step)} now"
        )
    if stored.tags.get("diverged", "") != record.diverged:
        differences.append(
            f"diverged: {stored.tags.get('diverged', 'not')!r} on record, {record.diverged or 'not'!r} now"
        )
    return differences


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
