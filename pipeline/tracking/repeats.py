"""Compares a repeated run with stored ones: the same bits, or the same within rounding."""

from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property

from safetensors import SafetensorError
from safetensors.numpy import load, load_file, save

from pipeline.evaluation import outcome
from pipeline.runs import outs, rounding
from pipeline.runs.records import CURVE, Array, Record
from pipeline.system import machine
from pipeline.table.prepared import Prepared
from pipeline.tracking import seals
from pipeline.tracking.runs import WEIGHTS, Point, StoredRun
from pipeline.tracking.store.backend import Change
from pipeline.tracking.store.store import Store
from pipeline.tracking.values import now, weights_md5


def has_weights(run: StoredRun, record: Record) -> bool:
    """Tell whether a stored run's weights have a record's bits."""
    return run.tags.get("weights_md5") == weights_md5(save(dict(record.tensors)))


class Repeats:
    """Compares records of the workspace with stored runs."""

    def __init__(self, store: Store) -> None:
        """Compare with a store's runs."""
        self.store = store
        self.curves: dict[str, list[Point]] = {}

    @cached_property
    def table(self) -> rounding.Table:
        """What the rounding bounds need of the workspace's data."""
        return rounding.table(load_file(outs.PREPARED))

    def read(self, runs: Iterable[StoredRun]) -> None:
        """Read the curves of runs that are compared next, in few queries."""
        self.curves = self.store.histories(runs, CURVE)

    def _curve(self, run: StoredRun) -> list[Point]:
        found = self.curves.get(run.run_id)
        return self.store.history(run, CURVE) if found is None else found

    def is_same(self, run: StoredRun, record: Record) -> bool:
        """Tell whether a stored run's weights and curve have a record's bits."""
        if not has_weights(run, record):
            return False
        return all(point.value == float(record.curve[point.step]) for point in self._curve(run))

    def agrees(self, run: StoredRun, record: Record) -> bool:
        """Tell whether a stored run's weights and curve equal a record's within rounding."""
        tensors = self.tensors(run)
        points = {point.step: point.value for point in self._curve(run)}
        if not run.is_complete or not tensors or not all(0 <= step < len(record.curve) for step in points):
            return False
        return not rounding.compare(record, self.table, "diverged" in run.tags, tensors, points, {}).beyond

    def one_that_agrees(self, runs: Iterable[StoredRun], record: Record) -> StoredRun | None:
        """Find the first stored run that equals a record within rounding."""
        return next((run for run in runs if self.agrees(run, record)), None)

    def confirm(self, runs: Iterable[StoredRun], record: Record) -> Change | None:
        """Return how to note on a stored run that a record confirms it; None if there is no such run."""
        here, device = machine.numeric_tags(), record.run.device
        same = next((run for run in runs if self.is_same(run, record)), None)
        elsewhere = (run for run in runs if machine.may_differ(run.tags, here, device))
        close = same or self.one_that_agrees(elsewhere, record)
        if close is None:
            return None
        tag = "confirmed" if same else "confirmed_within_rounding"
        tags = {tag: str(int(close.tags.get(tag, "0")) + 1), f"{tag}_at": now()}
        seal = seals.of_confirmations({**close.tags, **tags})
        return Change(close.run_id, tags=tags | {"seal_confirmed": seal})

    def own_metrics(self, run: StoredRun, record: Record) -> dict[str, float]:
        """Evaluate a stored run's own weights, not the record's; its curve's last value is already stored."""
        own = replace(record, tensors=self.tensors(run))
        return {key: value for key, value in outcome.metrics(own, Prepared.load(outs.PREPARED)).items() if key != CURVE}

    def tensors(self, run: StoredRun) -> dict[str, Array]:
        """Read a stored run's weights; none if they are gone, or do not have the md5 of its tag."""
        try:
            content = self.store.artifact(run, WEIGHTS)
            return dict(load(content)) if weights_md5(content) == run.tags.get("weights_md5") else {}
        except (FileNotFoundError, SafetensorError, ValueError, KeyError):
            return {}
