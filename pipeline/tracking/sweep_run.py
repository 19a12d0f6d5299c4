"""A sweep's own run in MLflow, with a list of all that belongs to the sweep, so that deletions show."""

from collections.abc import Collection, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ValidationError

from pipeline.metrics import FINAL
from pipeline.runs import outs
from pipeline.runs.run import Run
from pipeline.runs.sweep import identity
from pipeline.system.files import md5_of
from pipeline.tracking import seals
from pipeline.tracking.runs import FINISHED, NOTE, SCHEDULED, Dataset, StoredRun, milliseconds
from pipeline.tracking.store import backend
from pipeline.tracking.store.backend import Change, New
from pipeline.tracking.store.store import Store

SAME_ROWS = ("data.target", "data.split.seed", "data.split.final_test")  # with the same table, these draw the same rows
CONTENTS = "contents.json"
CONTENTS_BYTES = 2**27  # enough for a million runs


class Contents(BaseModel):
    """What belongs to a sweep: its runs, fingerprint -> name, and its run's artifacts, name -> sha256.

    specification: what decided which runs a searched sweep has; empty for another.
    """

    runs: dict[str, str]
    files: dict[str, str]
    specification: dict[str, Any] = {}


class SweepRun:
    """The run of a stage's sweep."""

    def __init__(self, store: Store, run: StoredRun, files: Mapping[str, str]) -> None:
        """Continue a stored run.

        Args:
            store: the one that holds the run.
            run: as it was read.
            files: its artifacts, name -> sha256.
        """
        self.store, self.run, self.files = store, run, dict(files)

    @classmethod
    def open(
        cls,
        store: Store,
        tags: Mapping[str, str],
        owner: Mapping[str, str],
        params: Mapping[str, str],
        datasets: Sequence[Dataset],
        begun: float,
        title: str,
    ) -> Self:
        """Find or create a sweep's run, and set it to RUNNING.

        Args:
            store: the one for the run.
            tags: for a new run; `sweep` names the sweep.
            owner: the tags of the process that works on it.
            params: params.yaml.
            datasets: the sweep's.
            begun: when the stage began, in seconds since 1970.
            title: what MLflow's pages call a new run.
        """
        with store.lock:
            found = find(store, tags["sweep"])
            if found is None:
                new = New(title, milliseconds(begun), {**tags, "role": "sweep"}, params, datasets)
                [run] = store.create([new])
            else:
                run = found
                store.write([backend.taken(run, owner)])
            if is_evaluated(run):
                known = contents(store, run)
                return cls(store, run, known.files if known else {})
            sweep_run = cls(store, run, {})  # new, or left by a process that may have been killed halfway
            store.write([backend.lacking(run, params, datasets)] if found else [])
            sweep_run.log({path.name: path.read_bytes() for path in (Path("params.yaml"), outs.SUMMARY)})
        return sweep_run

    def log(self, files: Mapping[str, bytes]) -> None:
        """Store artifacts of the sweep, name -> content."""
        self.files |= {name: sha256(content).hexdigest() for name, content in files.items()}
        self.store.write([Change(self.run.run_id, folder=self.store.artifact_uri(self.run), files=files)])

    def conclude(
        self,
        runs: Sequence[Run],
        specified: Mapping[str, Any],
        champion: str,
        metrics: Mapping[str, float],
        note: str,
        at: float,
    ) -> None:
        """Store the list of the sweep's contents, and seal the sweep: its evaluation is stored.

        Args:
            runs: all of the sweep's.
            specified: what decided which they are, if it is searched.
            champion: its configuration.
            metrics: the sweep's own.
            note: its description, stored unless a person wrote or removed one.
            at: when it was evaluated, in seconds since 1970.
        """
        named = {run.fingerprint: run.name for run in runs}
        listed = Contents(runs=named, files=self.files, specification=dict(specified))
        content = listed.model_dump_json(indent=2, exclude_defaults=True).encode()
        tags = {"champion": champion, "seal_files": sha256(content).hexdigest()}
        stored = self.store.run(self.run.run_id)
        if is_ours(stored):
            tags |= {NOTE: note, "note_md5": md5_of(note.encode())}
        tags["seal"] = stored.sealed.with_(tags, metrics).seal()
        place = self.store.artifact_uri(self.run)
        listing = Change(self.run.run_id, folder=place, files={CONTENTS: content})
        sealing = Change(self.run.run_id, tags=backend.texts(tags))
        self.store.write([listing, *self.store.measure(stored, metrics, at), sealing])

    def count_measured(self, final: Mapping[str, float]) -> int:
        """Count the champions that were measured on the final rows of the sweep's table, with its own.

        It is history, so it is in MLflow and in no out. Champions with the same figure count once: nothing was learnt
        again. A sweep that was evaluated several times, each time with another champion, has a history of figures.

        Args:
            final: what the champion reaches, by final/mse and so on.
        """
        key = f"champion/{FINAL[0]}"
        here = self.store.run(self.run.run_id)
        alike = [
            other
            for other in self.store.all_sweeps()
            if key in other.metrics
            and other.tags.get("source_md5") == here.tags["source_md5"]
            and all(other.params.get(name) == here.params.get(name) for name in SAME_ROWS)
        ]
        known = {point.value for points in self.store.histories(alike, key).values() for point in points}
        return len(known | {final[FINAL[0]]})

    def end(self, at: float) -> None:
        """End the sweep if it is evaluated, else let it wait for its next stage; `at` is in seconds since 1970."""
        with self.store.lock:
            status = FINISHED if is_evaluated(self.store.run(self.run.run_id)) else SCHEDULED
            unknown = status == SCHEDULED or "restored" in self.run.tags
            end = None if unknown else milliseconds(at)
            self.store.write([Change(self.run.run_id, status=status, end=end)])


def is_ours(run: StoredRun) -> bool:
    """Tell whether the pipeline wrote a run's description, or nobody did."""
    note = run.tags.get(NOTE)
    return run.tags.get("note_md5") == (None if note is None else md5_of(note.encode()))


def is_evaluated(run: StoredRun) -> bool:
    """Tell whether a sweep's evaluation is stored."""
    return "champion" in run.tags


def find(store: Store, sweep: str) -> StoredRun | None:
    """Find a sweep's run, ignoring any that was altered after it ended."""
    return next((run for run in store.sweeps(sweep) if is_sound(store, run)), None)


def is_stored(store: Store, sweep: str, figures: Collection[str]) -> bool:
    """Tell whether a sweep's evaluation is stored, with these figures besides those that every evaluation makes."""
    run = find(store, sweep)
    return run is not None and is_evaluated(run) and run.metrics.keys() >= set(figures)


def is_sound(store: Store, run: StoredRun) -> bool:
    """Tell whether a sweep's seal and list match; one that has not ended has neither."""
    try:
        store.artifact_uri(run)
    except FileNotFoundError:
        return False
    fits = run.seal_state
    return fits == seals.UNSEALED or (fits == seals.SEALED and contents(store, run) is not None)


def contents(store: Store, run: StoredRun) -> Contents | None:
    """Read a sweep's list; None if it is missing, not the one that was sealed, or another sweep's."""
    try:
        content = store.artifact(run, CONTENTS, CONTENTS_BYTES)
        listed = Contents.model_validate_json(content)
    except (FileNotFoundError, ValidationError):
        return None
    sealed = sha256(content).hexdigest() == run.tags.get("seal_files")
    return listed if sealed and identity(listed.runs, listed.specification) == run.tags.get("sweep") else None
