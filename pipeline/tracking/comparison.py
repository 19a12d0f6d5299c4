"""Compares records of the workspace with stored runs: the same bits, or the same within rounding."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

from safetensors import SafetensorError
from safetensors.numpy import load, load_file, save

from pipeline.evaluation import outcome
from pipeline.runs import outs, rounding
from pipeline.runs.records import CURVE, Array, Record
from pipeline.system import machine
from pipeline.system.files import md5_of
from pipeline.table.prepared import Prepared
from pipeline.tracking.decision import Decision, Repeat, decide
from pipeline.tracking.runs import NOTHING, WEIGHTS, Point, StoredRun
from pipeline.tracking.store.store import Store

Curve = Sequence[tuple[int, float]]  # step, value


class Comparison:
    """Compares records of the workspace with runs of a store."""

    def __init__(self, store: Store) -> None:
        """Take the store."""
        self.store = store

    def decide(
        self,
        stored: Iterable[StoredRun],
        record: Record,
        made_with: Mapping[str, str] = NOTHING,
        curves: Mapping[str, Curve] | None = None,
        may_resume: Callable[[StoredRun], bool] = lambda _: False,
    ) -> Decision:
        """Decide which of the stored runs of a record's fingerprint stands for it.

        Args:
            stored: the runs, in any order.
            record: as it was trained or read from the outs.
            made_with: what the record's bits depend on, as tags; empty if unknown, as outs may come from anywhere.
            curves: of the stored runs, by id, to compare them whole. Without them a run is known by its weights.
            may_resume: tells whether the caller would have begun an unfinished run in the same way.
        """
        md5 = md5_of(save(dict(record.tensors)))

        def is_same(run: StoredRun) -> bool:
            return run.tags.get("weights_md5") == md5 and is_part_of(curves[run.run_id] if curves else (), record)

        def may_differ(run: StoredRun) -> bool:
            return not made_with or machine.may_differ(run.tags, made_with, record.run.device)

        def is_close(run: StoredRun) -> bool:
            return self._is_close(run, record)

        return decide(stored, Repeat(is_same, may_differ, is_close), may_resume)

    def count_lacking(self, evaluated: Sequence[Record]) -> int:
        """Count the evaluated runs that the store lacks, or holds without some of their metrics."""
        stored = self.store.of_many([record.run.fingerprint for record in evaluated])
        decided = ((self.decide(stored.get(record.run.fingerprint, ()), record), record) for record in evaluated)
        return sum(not decision.has(record.metrics) for decision, record in decided)

    def _is_close(self, run: StoredRun, record: Record) -> bool:
        tensors = self._tensors(run)
        points = dict(curve_of(self.store.history(run, CURVE)))
        if not tensors or not all(0 <= step < len(record.curve) for step in points):
            return False
        return not rounding.compare(record, self._table, "diverged" in run.tags, tensors, points, {}).beyond

    @cached_property
    def _table(self) -> rounding.Table:
        return rounding.table(load_file(outs.PREPARED))

    def _tensors(self, run: StoredRun) -> dict[str, Array]:
        # A stored run's weights; none if they are gone, or do not have the md5 of its tag.
        try:
            content = self.store.artifact(run, WEIGHTS)
            return dict(load(content)) if md5_of(content) == run.tags.get("weights_md5") else {}
        except (FileNotFoundError, SafetensorError, ValueError, KeyError):
            return {}

    def own_metrics(self, run: StoredRun, record: Record) -> dict[str, float]:
        """Evaluate a stored run's own weights, not the record's; its curve's last value is already stored."""
        own = replace(record, tensors=self._tensors(run))
        return {key: value for key, value in outcome.metrics(own, Prepared.load(outs.PREPARED)).items() if key != CURVE}


def curve_of(history: Iterable[Point]) -> Curve:
    """Return a curve's points without their times."""
    return [(point.step, point.value) for point in history]


def is_part_of(curve: Iterable[tuple[int, float]], record: Record) -> bool:
    """Tell whether the points of a curve are a record's."""
    return all(0 <= step < len(record.curve) and value == float(record.curve[step]) for step, value in curve)
