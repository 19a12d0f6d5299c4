"""Stores a stage's runs from this process: finds or creates each by its fingerprint, and fills it in."""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType

from pipeline.config.params import Params
from pipeline.evaluation.choice import costs
from pipeline.runs import outs
from pipeline.runs.records import CURVE, FORMAT, Record
from pipeline.runs.run import Run
from pipeline.runs.sweep import specification, sweep_id
from pipeline.system import machine, processes, repository
from pipeline.system.files import file_md5
from pipeline.tracking import datasets, finals, grids, leftovers, values
from pipeline.tracking.models import champions
from pipeline.tracking.opened import Opened
from pipeline.tracking.pages import descriptions, figures, links, names, views
from pipeline.tracking.parents import Parent, is_evaluated
from pipeline.tracking.repeats import Repeats, has_weights
from pipeline.tracking.runs import FINISHED, NOTE, NOTHING, PARENT, Points, StoredRun
from pipeline.tracking.store import backend
from pipeline.tracking.store.backend import Change, New
from pipeline.tracking.store.location import PATIENCE_SECONDS, StoreError
from pipeline.tracking.store.store import Store, answering

KEPT = (
    "{} of {} runs were stored by another machine, which rounds differently; they are the same within rounding, and "
    "keep their own metrics in MLflow"
)
CONTRADICTED = (
    "WARNING: {0} was repeated with the same code, data and params, but differs from MLflow run {1}. "
    "The repeat is stored beside it, tagged contradicts={1}. To see what differs: pipeline reproduce {1}"
)
Found = Mapping[str, Sequence[StoredRun]]  # fingerprint -> stored runs
NONE: Found = MappingProxyType({})


class Direct:
    """Stores the runs of one stage.

    Each call finds its runs by their fingerprints and stores only what is missing, so that repeated work stores nothing
    twice.
    """

    def __init__(
        self,
        params: Params,
        runs: Sequence[Run],
        pid: int,
        restored: str = "",
        clock: Callable[[], float] = time.time,
        report: Callable[[], object] = lambda: None,
    ) -> None:
        """Open the sweep's run for a stage.

        Args:
            params: params.yaml.
            runs: all of the sweep's.
            pid: of the stage.
            restored: the time, if runs are only restored.
            clock: returns when what is being stored happened, in seconds since 1970.
            report: called after each run is stored.
        """
        self.params, self.runs, self.clock, self.report = params, runs, clock, report
        self.specified = specification(params)
        self.own: dict[str, Opened] = {}  # fingerprint -> run that this process has opened and not ended
        self.said: list[str] = []  # what a person should know when the stage has ended
        self.evaluated: Sequence[Record] = ()  # the sweep's runs, once they are
        self.kept = 0  # of these, other machines' stored runs, which keep their metrics
        self.elsewhere = 0  # runs of the sweep that an earlier sweep's run lists
        self.started: dict[str, float] = {}  # fingerprint -> when the stage began the run
        self.store = Store.open(params.track.experiment, PATIENCE_SECONDS)
        if lost := self.store.lost:
            print(f"WARNING: {lost}", file=sys.stderr)
        leftovers.end_dead_runs(self.store)
        self.repeats = Repeats(self.store)
        self.owner = processes.process_tags(pid)
        self.tags = {**values.source_tags(), **self.owner, "sweep": sweep_id(runs, self.specified)}
        self.tags |= {"dvc_grid": joined} if (joined := grids.grid()) else {}
        summary = json.loads(outs.SUMMARY.read_text(encoding="utf-8"))
        self.tags |= {"data_md5": file_md5(outs.PREPARED), "source_md5": summary["source_md5"]}  # as dvc.lock has them
        self.summary, self.label, date = summary, values.data_label(summary), names.date_of(summary)
        self.about = descriptions.data(summary, self.label, date)
        of = params.sweep.search.method if self.specified else ""
        self.title = names.sweep_name(runs, values.table_name(summary), date, self.tags.get("dvc_experiment", ""), of)
        self.names = {} if self.specified else names.run_names(runs)
        self.datasets = datasets.describe(summary, self.tags["source_md5"], self.tags["data_md5"])
        self.parent = self._open_parent({"restored": restored} if restored else {})
        threading.Thread(target=self._beat, daemon=True).start()

    def _open_parent(self, extra: Mapping[str, str]) -> Parent:
        patch = repository.changes()
        if patch:
            self.tags["git_changes"] = f"{sha256(patch).hexdigest()}.patch"
        tags, configured = {**self.tags, "data": self.label, **extra}, values.sweep_params(self.params, self.label)
        parent = Parent.open(self.store, tags, self.owner, configured, self.datasets, self.clock(), self.title)
        if patch:
            parent.log_file(self.tags["git_changes"], patch)
        return parent

    def _beat(self) -> None:
        while True:
            time.sleep(processes.HEARTBEAT_SECONDS)
            alive = {"heartbeat": f"{time.time():.0f}"}
            runs = [self.parent.run, *(opened.run for opened in list(self.own.values()))]
            with suppress(StoreError):  # the next call that stores meets the same error
                self.store.write([Change(run.run_id, tags=alive) for run in runs])

    def start(self, runs: Sequence[Run]) -> None:
        """Open the runs that the store lacks, or holds from an unfinished attempt."""
        for run in runs:
            self.started.setdefault(run.fingerprint, self.clock())
        with self.store.lock:
            self._find_and_open([run for run in dict.fromkeys(runs) if run.fingerprint not in self.own])

    def _find_and_open(self, runs: Sequence[Run], extra: Mapping[str, str] = NOTHING) -> dict[str, list[StoredRun]]:
        found = self.store.find_many([run.fingerprint for run in runs])
        self._open(runs, found, extra)
        return found

    def _open(self, runs: Sequence[Run], found: Found, extra: Mapping[str, str] = NOTHING) -> None:
        # Of the runs found, those that are complete, or that another live process fills in, stay as they are.
        new, left = [], []
        for run in runs:
            params = values.run_params(run, self.params, self.summary)
            stored = found.get(run.fingerprint, ())
            # A run that has not ended is not sealed: continue it only if it is what this process would have begun.
            one = next((one for one in stored if one.is_complete or self._may_continue(one, params)), None)
            if one is None:
                new.append((run.fingerprint, self._new(run, params, extra)))
            elif not (one.is_complete or one.is_at_work):
                left.append((run.fingerprint, one, params))
        created = self.store.create([one for _, one in new]) if new else []
        for (fingerprint, _), made in zip(new, created, strict=True):
            self.own[fingerprint] = Opened(made, made.params, made.datasets)
        known = self.store.histories([one for _, one, _ in left], CURVE)
        self.store.write([backend.taken(one, self.owner) for _, one, _ in left])
        self.store.write([backend.completed(one, params, self.datasets) for _, one, params in left])
        for fingerprint, one, params in left:
            self.own[fingerprint] = Opened(one, params, self.datasets, known[one.run_id])

    def _new(self, run: Run, params: Mapping[str, str], extra: Mapping[str, str]) -> New:
        tags = {"role": "run", "fingerprint": run.fingerprint, PARENT: self.parent.run.run_id}
        tags["record_format"] = str(FORMAT)
        tags["dvc_stage"] = f"train@{run.variant}"  # even if another stage, or none, stores it
        place = self.store.experiment.experiment_id, self.parent.run.run_id
        if "contradicts" in extra:
            tags["went_wrong"] = backend.CONTRADICTS
        tags[NOTE] = descriptions.run(run, self.title, *place, self.about)
        begun = values.milliseconds(self.started.get(run.fingerprint, self.clock()))
        name = self.names.get(run.fingerprint) or names.full_name(run)
        return New(name, begun, {**self.tags, **tags, **extra}, params, self.datasets)

    def _may_continue(self, stored: StoredRun, params: Mapping[str, str]) -> bool:
        try:
            self.store.artifact_uri(stored)
        except FileNotFoundError:  # weights would be written wherever it leads
            return False
        return stored.params.items() <= params.items()

    def grow(self, added: Points) -> None:
        """Store new points of the curves of running runs."""
        own = [(self.own[fingerprint], points) for fingerprint, points in added.items() if fingerprint in self.own]
        self.store.write(opened.grow(points, self.clock()) for opened, points in own)

    def finish(self, records: Sequence[Record]) -> None:
        """Store trained runs, or compare them with those already stored."""
        with self.store.lock:
            unknown = [record for record in records if record.run.fingerprint not in self.own]
            found = self.store.find_many([record.run.fingerprint for record in unknown])
            stored = {fingerprint: runs for fingerprint, runs in found.items() if runs and runs[0].is_complete}
            self._open([record.run for record in unknown if record.run.fingerprint not in stored], found)
            self._compare([record for record in unknown if record.run.fingerprint in stored], stored)
            own = [record for record in records if record.run.fingerprint in self.own]  # others: a live process will
            self._end(own, machine.numeric_tags())
        self._report(records)

    def _report(self, records: Sequence[Record]) -> None:
        for _ in records:
            self.report()

    def _compare(self, records: Sequence[Record], stored: Found) -> None:
        # Notes on stored runs what confirms them, and opens runs beside them for the other records.
        noted = []
        self.repeats.read(run for record in records for run in stored[record.run.fingerprint])
        for record in records:
            runs = stored[record.run.fingerprint]
            if confirmation := self.repeats.confirm(runs, record):
                noted.append(confirmation)
                continue
            first = runs[0].run_id
            print(CONTRADICTED.format(record.run.name, first), file=sys.stderr)
            self._open_beside(runs, record)
        self.store.write(noted)

    def _open_beside(self, runs: Sequence[StoredRun], record: Record, extra: Mapping[str, str] = NOTHING) -> None:
        # Goes on with what a killed process began to store beside the first of the runs.
        first = runs[0].run_id
        begun = [
            one for one in runs if one.tags.get("contradicts") == first and not (one.is_complete or one.is_at_work)
        ]
        self._open([record.run], {record.run.fingerprint: begun}, {"contradicts": first, **extra})

    def _end(self, records: Sequence[Record], made_with: Mapping[str, str] = NOTHING) -> None:
        # made_with: what the bits depend on; unknown for a run restored from its outs.
        left = [record.run for record in records if not self.own[record.run.fingerprint].is_part_of(record)]
        if left:
            self.store.write([self.own.pop(run.fingerprint).give_up(self.clock()) for run in left])
            self._open(left, NONE, {} if made_with else {"restored": values.now()})
        self.store.write(self._ending(record, made_with) for record in records)
        for record in records:
            del self.own[record.run.fingerprint]

    def _ending(self, record: Record, made_with: Mapping[str, str]) -> Change:
        opened = self.own[record.run.fingerprint]
        steps, folder = record.steps(self.params.track.points), self.store.artifact_uri(opened.run)
        return opened.end(record, steps, made_with, self.clock(), folder)

    def measure(self, evaluated: Sequence[Record]) -> None:
        """Store the evaluation's metrics with the runs.

        A run that is not in the store (trained elsewhere, or into another store) is restored from its record. One that
        another machine stored and that is the same within rounding keeps the metrics of its own weights.
        """
        self.evaluated = evaluated
        self.kept = self._complete(evaluated, values.now())
        if self.kept:
            self.said.append(KEPT.format(self.kept, len(evaluated)))

    def conclude(self, artifacts: Sequence[Path], champion: str) -> None:
        """Store the evaluation's files with the runs' sweep, seal it, and register the champion."""
        if not self.kept or not is_evaluated(self.parent.run):  # else their sweep keeps its own as well
            self.parent.log_files(artifacts)
            found = figures.compute(self.evaluated, champion)
            if champion:
                found |= {f"champion/{key}": value for key, value in outs.final().items()} | outs.nested()
            note = self._note(self.evaluated, artifacts, champion)
            self.parent.complete(self.runs, self.specified, champion, found, note, self.clock())
        if done := champions.update(self.params, self.evaluated, champion):
            self.said.append(done)

    def _note(self, evaluated: Sequence[Record], artifacts: Sequence[Path], champion: str) -> str:
        place, metric = (self.store.experiment.experiment_id, self.parent.run.run_id), self.params.evaluate.metric
        pages = {path.stem: links.run_page(*place, path.name) for path in artifacts if path.suffix == ".html"}
        pages |= views.update(self.store, self.label, metric, self.clock())
        note = descriptions.sweep(evaluated, champion, metric, self.about, self.elsewhere, pages)
        if champion and (told := costs(outs.summary())):
            note += f"\n\nNested cross-validation: {told}."
        if champion and (found := outs.final()):
            said = descriptions.final(found, finals.measured(self.store, self.parent.run, found))
            self.said.append(said)
            note += f"\n\n{said}"
        return f"{note}\n\n{descriptions.images([path.name for path in artifacts if path.suffix == '.png'], place[1])}"

    def _complete(self, records: Sequence[Record], restored: str) -> int:
        # Returns how many of the stored runs are another machine's.
        with self.store.lock:
            found = self._find_and_open([record.run for record in records], {"restored": restored})
            lacking = [record for record in records if record.run.fingerprint in self.own]
            self._end(lacking)
            found |= self.store.find_many([record.run.fingerprint for record in lacking])
            measured, others = [], []
            for record in records:
                stored = found[record.run.fingerprint]
                self.elsewhere += all(run.tags.get(PARENT) != self.parent.run.run_id for run in stored)
                if own := next((run for run in stored if has_weights(run, record)), None):
                    measured += self.store.measure(own, record.metrics, self.clock())
                elif all(run.is_complete for run in stored):
                    others.append((stored, record))
            self.store.write(measured)
            kept = sum(self._complete_other(stored, record, restored) for stored, record in others)
        self._report(records)
        return kept

    def _complete_other(self, stored: Sequence[StoredRun], record: Record, restored: str) -> bool:
        # Returns whether a stored run equals the record within rounding; if none does, stores the record beside them.
        close = self.repeats.one_that_agrees(stored, record)
        if close is None:
            self._open_beside(stored, record, {"restored": restored})
            self._end([record])
            own = next(run for run in self.store.find(record.run.fingerprint) if has_weights(run, record))
            self.store.write(self.store.measure(own, record.metrics, self.clock()))
        elif record.metrics.keys() - close.metrics.keys():
            metrics = self.repeats.own_metrics(close, record)
            self.store.write(self.store.measure(close, metrics, self.clock()))
        return close is not None

    def close(self, status: str, error: str) -> None:
        """End the stage: runs left open get `status`; the sweep is finished, or waits for its next stage."""
        opened = [one.run for one in self.own.values()]
        if status == FINISHED:
            self.parent.end(self.clock())
        else:
            at = values.milliseconds(self.clock())
            self.store.write([backend.stopped(run, status, at, error) for run in (*opened, self.parent.run)])
        self.store.settle(self.owner, {one.run_id for one in (self.parent.run, *opened)})


@answering()
def restore(params: Params, evaluated: Sequence[Record], artifacts: Sequence[Path], champion: str) -> None:
    """Store what the store lacks of an evaluated sweep.

    Raises:
        InputError: the store fails.
    """
    direct = Direct(params, [record.run for record in evaluated], os.getpid(), values.now())
    direct.measure(evaluated)
    direct.conclude(artifacts, champion)
    direct.close(FINISHED, "")
    print("\n".join(direct.said))
