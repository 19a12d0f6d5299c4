"""Runs that say RUNNING: those that this process fills in, and stale ones, whose process is gone."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from safetensors.numpy import save

from pipeline.runs.records import CURVE, Record
from pipeline.system import processes
from pipeline.system.files import md5_of
from pipeline.tracking import seals
from pipeline.tracking.comparison import is_part_of
from pipeline.tracking.runs import KILLED, WEIGHTS, Dataset, Point, StoredRun, milliseconds, status_of, text
from pipeline.tracking.store import backend
from pipeline.tracking.store.backend import Change
from pipeline.tracking.store.store import Store


class OpenRun:
    """A stored run that says RUNNING, with its params and datasets; each change that it returns must be stored."""

    def __init__(
        self,
        run: StoredRun,
        params: Mapping[str, str],
        datasets: Sequence[Dataset],
        history: Sequence[Point] = (),
    ) -> None:
        """Go on with a run.

        Args:
            run: as it was read.
            params: all of the run's, with those that are stored now.
            datasets: all of the run's, likewise.
            history: the points of its curve that another process stored.
        """
        self.run, self.params = run, params
        self.datasets = frozenset(one.identity for one in (*datasets, *run.datasets))
        self.points = {point.step: point.value for point in history}

    @property
    def contradicts(self) -> str:
        """The id of the run that this one contradicts, empty if there is none."""
        return self.run.tags.get("contradicts", "")

    def grow(self, points: Mapping[int, float], at: float) -> Change:
        """Return how to store the new points of the curve, step -> value; `at` is in seconds since 1970."""
        new = {step: value for step, value in points.items() if step not in self.points}
        self.points.update(new)
        return Change(self.run.run_id, points=backend.curve(new, at))

    def is_part_of(self, record: Record) -> bool:
        """Tell whether the stored points are a record's."""
        return is_part_of(((step, value) for step, value in self.points.items() if math.isfinite(value)), record)

    def end(self, record: Record, steps: Sequence[int], made_with: Mapping[str, str], at: float, folder: str) -> Change:
        """Return how to store the rest of a trained run, seal it, and then end it, so that what has ended is sealed.

        Args:
            record: the run's.
            steps: of the curve's points to store; others already stored stay.
            made_with: what the bits depend on; unknown for a run restored from its outs.
            at: when it ended, in seconds since 1970.
            folder: where its artifacts go.
        """
        known = (step for step in self.points if 0 <= step < len(record.curve))
        curve = {step: float(record.curve[step]) for step in sorted({*steps, *known})}
        content = save(dict(record.tensors))
        tags = {**made_with, "weights_md5": md5_of(content), "seal_files": seals.of_files(curve.items(), content)}
        tags |= {"diverged": text(record.diverged), "went_wrong": "diverged"} if record.diverged else {}
        tags |= {"left": text(record.left)} if record.left else {}
        status = status_of(record.diverged)
        end = None if "restored" in self.run.tags else milliseconds(at)  # when a restored run ended is unknown
        tags["seal"] = self._seal(status, end, tags, curve)
        grown = self.grow(curve, at)
        return replace(grown, folder=folder, files={WEIGHTS: content}, tags=tags, status=status, end=end)

    def _seal(self, status: str, end: int | None, tags: Mapping[str, str], curve: Mapping[int, float]) -> str:
        stored = self.run.sealed
        stored = replace(stored, status=status, end=stored.end if end is None else end)
        stored = replace(stored, params=self.params, datasets=self.datasets)
        finite = [step for step, value in curve.items() if math.isfinite(value)]
        return stored.with_(tags, {CURVE: curve[max(finite)]} if finite else {}).seal()

    def give_up(self, at: float) -> Change:
        """Return how to end a run whose curve, stored by another attempt, is not the one trained here."""
        error = "its curve is not that of the attempt that finished; see the run beside it"
        return backend.stopped(self.run, KILLED, milliseconds(at), error)


def end_dead_runs(store: Store) -> list[str]:
    """End runs whose process is gone as KILLED, at its last sign of life; return their names."""
    if not store.owned():
        return []
    with store.lock:  # others may have ended them meanwhile
        dead = [run for run in store.owned() if not processes.is_alive(run.tags, time.time())]
        signs = store.histories(dead, CURVE)
        store.write([ended(run, signs[run.run_id]) for run in dead])
    return [f"{run.name} ({run.run_id})" for run in dead]


def ended(run: StoredRun, curve: Sequence[Point]) -> Change:
    """Return how to end a run whose process is gone."""
    signs = [run.start, milliseconds(float(run.tags["heartbeat"])), *(point.at for point in curve)]
    owner = f"process {run.tags['pid']} on {run.tags['host']}"
    return backend.stopped(run, KILLED, max(signs), f"{owner} is gone and did not end this run")
