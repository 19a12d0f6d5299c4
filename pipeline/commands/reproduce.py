"""`pipeline reproduce`: runs made again from their records alone, in a worktree of their own, and compared."""

import io
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from safetensors import SafetensorError

from pipeline.commands import revisions, worktrees
from pipeline.commands.verdict import Answer, compare, differing_params
from pipeline.config.axes import AXES
from pipeline.errors import InputError, first_line
from pipeline.metrics import RUN_METRICS
from pipeline.runs import outs, records
from pipeline.runs.records import BEHIND, Record
from pipeline.system import repository
from pipeline.system.files import file_md5, read_csv
from pipeline.system.kernels import unpinned
from pipeline.table.prepared import Prepared
from pipeline.tracking import queries
from pipeline.tracking.validation import StoredRecord, parse_params

TABLE = "reproduced.csv"  # never the path on record, which may lead anywhere


def reproduce(
    experiment: str, run_ids: Sequence[str], allow_patch: bool = False, allow_commit: bool = False
) -> dict[str, Answer]:
    """Reproduce runs.

    Args:
        experiment: MLflow's.
        run_ids: ids of runs, fingerprints, or at least the first 8 digits of either.
        allow_patch: run code that a record contains, without asking.
        allow_commit: run a commit that no local branch, tag or DVC experiment reaches, without asking.

    Returns:
        run id -> its answer.

    Raises:
        InputError: a record is malformed, its commit or data are missing, or its code may not be run.
    """
    worktrees.remove_leftovers()
    wanted = [queries.recall(experiment, queries.identify(experiment, run_id)[0]) for run_id in run_ids]
    for stored in {(one.commit, one.patch): one for one in wanted}.values():
        worktrees.permit(stored, allow_patch, allow_commit)
    answers: dict[str, Answer] = {}
    for stored in {one.run_id: one for one in wanted}.values():
        made, prepared = make(stored)
        answers[stored.run_id] = compare(stored, find(stored, made), prepared)
    return answers


def make(stored: StoredRecord) -> tuple[list[Record], Prepared]:
    """Train a run again, and evaluate it: alone, as its bits do not depend on the runs that train with it."""
    with worktrees.worktree(stored) as folder:
        params = parse_params(stored)
        if "nested" in params["train"]:
            params["train"]["nested"] = False  # the further fits are the sweep's, not the run's
        # A run that fell behind trains with the runs that it fell behind.
        if not stored.tags.get("left", "").startswith(BEHIND):
            params["sweep"] |= narrowed(stored.params, params["sweep"])
        source, params["data"]["source"] = params["data"]["source"], TABLE
        write_params(stored, params, folder)
        place_data(stored, source, folder)
        stage(folder, "pipeline.train", stored.params["variant"])
        stage(folder, "pipeline.evaluate")
        return read(stored, folder)


def narrowed(own: Mapping[str, str], swept: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of `sweep` for a sweep of this run alone, without a search; older sweeps may have fewer axes."""
    values = {axis.name: [axis.read(own[axis.name])] for axis in AXES if axis.name in swept and axis.name in own}
    return values | ({"search": {**swept["search"], "method": "none"}} if "search" in swept else {})


def read(stored: StoredRecord, folder: Path) -> tuple[list[Record], Prepared]:
    """Read what the stages of the run's commit wrote, and the data that they were trained on."""
    try:
        metrics = {row.pop("fingerprint"): row for row in read_csv(folder / outs.EVALUATED)}
        made = records.read(folder / outs.TRAINED / stored.params["variant"])
        rows = [metrics[record.run.fingerprint] for record in made]
        evaluated = [
            replace(record, metrics={key: float(value) for key, value in row.items() if key in RUN_METRICS and value})
            for record, row in zip(made, rows, strict=True)
        ]
        return evaluated, Prepared.load(folder / outs.PREPARED)
    except (OSError, KeyError, ValueError, TypeError, IndexError, SafetensorError) as error:
        raise InputError(
            f"{stored.run_id}: this version cannot read the outs of its commit: {first_line(error)}; check out "
            f"commit {stored.commit[:12]} into a folder of its own and run make setup there"
        ) from error


def find(stored: StoredRecord, made: Sequence[Record]) -> Record | None:
    """Find a run among those made: by its fingerprint, or else by its params."""
    known = {record.run.fingerprint: record for record in made}
    same = (record for record in made if not differing_params(stored, record))
    return known.get(stored.tags["fingerprint"]) or next(same, None)


def write_params(stored: StoredRecord, params: dict[str, Any], folder: Path) -> None:
    """Write a params.yaml."""
    written = io.StringIO()
    YAML(typ="safe", pure=True).dump(params, written)
    worktrees.write(stored, folder, Path("params.yaml"), written.getvalue().encode())


def place_data(stored: StoredRecord, source: str, folder: Path) -> None:
    """Place the prepared data, found by their md5, or prepared again from the raw table, found by its md5.

    Args:
        stored: the record.
        source: the path of its raw table.
        folder: the worktree, with a params.yaml whose table is TABLE.

    Raises:
        InputError: neither is found.
    """
    wanted, raw = stored.tags["data_md5"], stored.tags["source_md5"]
    prepared = folder / outs.PREPARED
    if (tensors := revisions.content(wanted)) is not None:
        worktrees.write(stored, folder, outs.PREPARED, tensors)
    else:
        places = [place for top in (folder, repository.root()) if (place := inside(top, source))]
        table = next((place.read_bytes() for place in places if file_md5(place) == raw), None)
        table = revisions.content(raw) if table is None else table
        if table is not None:
            worktrees.write(stored, folder, Path(TABLE), table)
            stage(folder, "pipeline.prepare")
    if not prepared.exists() or file_md5(prepared) != wanted:
        raise InputError(
            f"{stored.run_id}: its data are missing: neither the prepared tensors (md5 {wanted}) nor {source!a} as "
            f"it was (md5 {raw}) is in the workspace, DVC's cache or its remote"
        )
    worktrees.write(stored, folder, outs.SUMMARY, stored.summary.encode())


def inside(folder: Path, source: str) -> Path | None:
    """Return the path of a record's table in a folder; None if there is no such file, or the path leads outside."""
    try:
        place = (folder / source).resolve()
        return place if place.is_relative_to(folder.resolve()) and place.is_file() else None
    except (OSError, ValueError, RuntimeError):  # a name that is too long or has a NUL, or a circle of links
        return None


def stage(folder: Path, module: str, *arguments: str) -> None:
    """Run a stage of the run's commit, with a store of its own."""
    # The commit's own code decides whether kernels are pinned, as it did when the run was made.
    kept = {key: value for key, value in unpinned().items() if not key.startswith(("DVC_", "MLFLOW_", "PYTHONPATH"))}
    own = {"DVC_ROOT": str(folder), "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}"}
    command = [sys.executable, "-m", module, *arguments]
    # In a session of its own: Ctrl-C reaches only this command, which kills the stage. stdout is for the answers.
    done = subprocess.run(command, cwd=folder, env=kept | own, check=False, start_new_session=True, stdout=2)
    if done.returncode != 0:
        raise InputError(f"{' '.join(command[1:])}: failed at the run's commit; see above")
