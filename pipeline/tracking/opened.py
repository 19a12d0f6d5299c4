"""A run that this process fills in: what is stored of it so far, and how it ends."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from safetensors.numpy import save

from pipeline.records import CURVE, Record
from pipeline.tracking import seals
from pipeline.tracking.datasets import Dataset
from pipeline.tracking.runs import KILLED, NOTHING, WEIGHTS, StoredRun, status_of
from pipeline.tracking.store import Store
from pipeline.tracking.values import milliseconds, text, weights_md5


class Opened:
    """A stored run that says RUNNING, with its params and datasets."""

    def __init__(
        self, store: Store, run: StoredRun, params: Mapping[str, str], datasets: Sequence[Dataset], is_new: bool
    ) -> None:
        """Store the params and datasets that the run lacks.

        Args:
            store: the one that holds the run.
            run: as it was read.
            params: all of the run's.
            datasets: all of the run's.
            is_new: whether this process created it; else another has stored part of it.
        """
        store.log_params(run, params)
        store.client.log_datasets(run.run_id, datasets)
        self.store, self.run, self.params = store, run, params
        self.datasets = frozenset(one.identity for one in (*datasets, *run.datasets))
        history = [] if is_new else store.history(run, CURVE)
        self.points = {point.step: point.value for point in history}

    def log_points(self, points: Mapping[int, float], at: float, tags: Mapping[str, str] = NOTHING) -> None:
        """Store the new points of the curve, step -> value, and then tags; `at` is in seconds since 1970."""
        new = {step: value for step, value in points.items() if step not in self.points}
        self.store.log_points(self.run, new, at, tags)
        self.points.update(new)

    def is_part_of(self, record: Record) -> bool:
        """Tell whether the stored points are a record's."""
        finite = {step: value for step, value in self.points.items() if math.isfinite(value)}
        return all(0 <= step < len(record.curve) and value == record.curve[step] for step, value in finite.items())

    def end(self, record: Record, steps: Sequence[int], made_with: Mapping[str, str], at: float) -> None:
        """Store the rest of a trained run, seal it and end it.

        Args:
            record: the run's.
            steps: of the curve's points to store; others already stored stay.
            made_with: what the bits depend on; unknown for a run restored from its outs.
            at: when it ended, in seconds since 1970.
        """
        known = (step for step in self.points if 0 <= step < len(record.curve))
        curve = {step: float(record.curve[step]) for step in sorted({*steps, *known})}
        content = save(dict(record.tensors))
        self.store.log_artifact(self.run, WEIGHTS, content)
        tags = {**made_with, "weights_md5": weights_md5(content), "seal_files": seals.of_files(curve.items(), content)}
        tags |= {"diverged": text(record.diverged), "went_wrong": "diverged"} if record.diverged else {}
        status = status_of(record.diverged)
        end = None if "restored" in self.run.tags else milliseconds(at)  # when a restored run ended is unknown
        self.log_points(curve, at, tags | {"seal": self._seal(status, end, tags, curve)})
        # After the seal, so that every complete run is sealed.
        self.store.client.set_status(self.run.run_id, status, end)

    def _seal(self, status: str, end: int | None, tags: Mapping[str, str], curve: Mapping[int, float]) -> str:
        stored = self.run.contents
        stored = replace(stored, status=status, end=stored.end if end is None else end)
        stored = replace(stored, params=self.params, datasets=self.datasets)
        finite = [step for step, value in curve.items() if math.isfinite(value)]
        return stored.with_(tags, {CURVE: curve[max(finite)]} if finite else {}).seal()

    def give_up(self, at: float) -> None:
        """End a run whose curve, stored by another attempt, is not the one trained here."""
        error = "its curve is not that of the attempt that finished; see the run beside it"
        self.store.stop(self.run, KILLED, milliseconds(at), error)
