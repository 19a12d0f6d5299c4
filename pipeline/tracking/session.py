"""Stores a stage's runs from this process: finds or creates each by its fingerprint, and fills it in."""

import json
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from itertools import chain
from pathlib import Path

from pipeline.config.params import Params
from pipeline.evaluation.choice import costs
from pipeline.runs import outs
from pipeline.runs.records import CURVE, FORMAT, Record
from pipeline.runs.run import Run
from pipeline.runs.sweep import specification, sweep_id
from pipeline.system import machine, processes, repository
from pipeline.system.files import file_md5
from pipeline.tracking import models, seals, values
from pipeline.tracking.comparison import Comparison, curve_of
from pipeline.tracking.decision import Decision, Kind, decide
from pipeline.tracking.open_run import OpenRun, end_dead_runs
from pipeline.tracking.pages import descriptions, links, views
from pipeline.tracking.runs import FINISHED, NOTE, NOTHING, PARENT, Points, StoredRun, milliseconds
from pipeline.tracking.store import backend
from pipeline.tracking.store.backend import Change, New
from pipeline.tracking.store.location import PATIENCE_SECONDS, StoreError
from pipeline.tracking.store.store import Store
from pipeline.tracking.sweep_run import SweepRun, is_evaluated

KEPT = (
    "{} of {} runs were stored by another machine, which rounds differently; they are the same within rounding, and "
    "keep their own metrics in MLflow"
)
CONTRADICTED = (
    "WARNING: {0} was repeated with the same code, data and params, but differs from MLflow run {1}. "
    "The repeat is stored beside it, tagged contradicts={1}. To see what differs: pipeline reproduce {1}"
)
Decided = Sequence[tuple[Run, Decision]]


class Session:
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
        self.own: dict[str, OpenRun] = {}  # fingerprint -> run that this process has opened and not ended
        self.news: list[str] = []  # what a person should know when the stage has ended
        self.evaluated: Sequence[Record] = ()  # the sweep's runs, once they are
        self.kept = 0  # of these, other machines' stored runs, which keep their metrics
        self.elsewhere = 0  # runs of the sweep that an earlier sweep's run lists
        self.started: dict[str, float] = {}  # fingerprint -> when the stage began the run
        self.store = Store.open(params.track.experiment, patience=PATIENCE_SECONDS)
        if lost := self.store.lost:
            print(f"WARNING: {lost}", file=sys.stderr)
        end_dead_runs(self.store)
        self.comparison = Comparison(self.store)
        self.owner = processes.process_tags(pid)
        self.tags = {**values.source_tags(), **self.owner, "sweep": sweep_id(runs, self.specified)}
        summary = json.loads(outs.SUMMARY.read_text(encoding="utf-8"))
        self.tags |= {"data_md5": file_md5(outs.PREPARED), "source_md5": summary["source_md5"]}  # as dvc.lock has them
        self.summary, self.label, date = summary, values.data_label(summary), descriptions.date_of(summary)
        self.about = descriptions.data(summary, self.label, date)
        of = params.sweep.search.method if self.specified else ""
        self.title = descriptions.sweep_name(
            runs, values.table_name(summary), date, self.tags.get("dvc_experiment", ""), of
        )
        self.names = {} if self.specified else descriptions.run_names(runs)
        self.datasets = values.datasets(summary, self.tags["source_md5"], self.tags["data_md5"])
        self.sweep = self._open_sweep({"restored": restored} if restored else {})
        threading.Thread(target=self._beat, daemon=True).start()

    def _open_sweep(self, extra: Mapping[str, str]) -> SweepRun:
        patch = repository.changes()
        if patch:
            self.tags["git_changes"] = f"{sha256(patch).hexdigest()}.patch"
        tags, configured = {**self.tags, "data": self.label, **extra}, values.sweep_params(self.params, self.label)
        sweep = SweepRun.open(self.store, tags, self.owner, configured, self.datasets, self.clock(), self.title)
        if patch:
            sweep.log({self.tags["git_changes"]: patch})
        return sweep

    def _beat(self) -> None:
        while True:
            time.sleep(processes.HEARTBEAT_SECONDS)
            alive = {"heartbeat": f"{time.time():.0f}"}
            runs = [self.sweep.run, *(opened.run for opened in list(self.own.values()))]
            with suppress(StoreError):  # the next call that stores meets the same error
                self.store.write([Change(run.run_id, tags=alive) for run in runs])

    def start(self, runs: Sequence[Run]) -> None:
        """Open the runs that the store lacks, or holds from an unfinished attempt."""
        for run in runs:
            self.started.setdefault(run.fingerprint, self.clock())
        with self.store.lock:
            unknown = [run for run in dict.fromkeys(runs) if run.fingerprint not in self.own]
            found = self.store.of_many([run.fingerprint for run in unknown])
            self._open([(run, decide(found.get(run.fingerprint, ()), None, self._may_resume(run))) for run in unknown])

    def _open(self, decided: Decided, extra: Mapping[str, str] = NOTHING) -> None:
        # Opens the runs that are to be stored or to go on; new ones get the extra tags.
        new = [(run, self._new(run, one, extra)) for run, one in decided if one.kind is Kind.STORE]
        created = self.store.create([one for _, one in new]) if new else []
        for (run, _), made in zip(new, created, strict=True):
            self.own[run.fingerprint] = OpenRun(made, made.params, made.datasets)
        left = [(run, one.run) for run, one in decided if one.run and one.kind is Kind.RESUME]
        known = self.store.histories([one for _, one in left], CURVE)
        self.store.write([backend.taken(one, self.owner) for _, one in left])
        self.store.write([backend.lacking(one, self._params(run), self.datasets) for run, one in left])
        for run, one in left:
            self.own[run.fingerprint] = OpenRun(one, self._params(run), self.datasets, known[one.run_id])

    def _params(self, run: Run) -> dict[str, str]:
        return values.run_params(run, self.params, self.summary)

    def _new(self, run: Run, decision: Decision, extra: Mapping[str, str]) -> New:
        tags = {"role": "run", "fingerprint": run.fingerprint, PARENT: self.sweep.run.run_id}
        tags["record_format"] = str(FORMAT)
        tags["dvc_stage"] = f"train@{run.variant}"  # even if another stage, or none, stores it
        place = self.store.experiment.experiment_id, self.sweep.run.run_id
        if decision.contradicts:
            tags |= {"contradicts": decision.contradicts, "went_wrong": backend.CONTRADICTS}
        tags[NOTE] = descriptions.run(run, self.title, *place, self.about)
        begun = milliseconds(self.started.get(run.fingerprint, self.clock()))
        name = self.names.get(run.fingerprint) or descriptions.full_name(run)
        return New(name, begun, {**self.tags, **tags, **extra}, self._params(run), self.datasets)

    def _may_resume(self, run: Run) -> Callable[[StoredRun], bool]:
        # A run that has not ended is not sealed: go on with it only if it is what this process would have begun.
        def may_resume(stored: StoredRun) -> bool:
            try:
                self.store.artifact_uri(stored)
            except FileNotFoundError:  # weights would be written wherever it leads
                return False
            return stored.params.items() <= self._params(run).items()

        return may_resume

    def grow(self, added: Points) -> None:
        """Store new points of the curves of running runs."""
        own = [(self.own[fingerprint], points) for fingerprint, points in added.items() if fingerprint in self.own]
        self.store.write(opened.grow(points, self.clock()) for opened, points in own)

    def finish(self, records: Sequence[Record]) -> None:
        """Store trained runs, or compare them with those already stored."""
        here = machine.numeric_tags()
        with self.store.lock:
            unknown = [record for record in records if record.run.fingerprint not in self.own]
            decided = self._decide(unknown, here)
            self._open([(record.run, one) for record, one in decided])
            self.store.write([confirmed(one) for _, one in decided if one.standing])
            own = [record for record in records if record.run.fingerprint in self.own]  # others: a live process will
            self._end(own, here)
        for record, one in decided:
            if one.contradicts:
                print(CONTRADICTED.format(record.run.name, one.contradicts), file=sys.stderr)
        for _ in records:
            self.report()

    def _decide(
        self, records: Sequence[Record], made_with: Mapping[str, str] = NOTHING
    ) -> list[tuple[Record, Decision]]:
        # made_with: what the bits of records depend on that were trained here, and are compared whole.
        found = self.store.of_many([record.run.fingerprint for record in records])
        curves = self.store.histories(chain(*found.values()), CURVE) if made_with else {}
        points = {one: curve_of(history) for one, history in curves.items()} if made_with else None
        decided = []
        for record in records:
            stored, may_resume = found.get(record.run.fingerprint, ()), self._may_resume(record.run)
            decided.append((record, self.comparison.decide(stored, record, made_with, points, may_resume)))
        return decided

    def _end(self, records: Sequence[Record], made_with: Mapping[str, str] = NOTHING) -> None:
        # made_with: what the bits depend on; unknown for a run restored from its outs.
        left = [record.run for record in records if not self.own[record.run.fingerprint].is_part_of(record)]
        if left:
            given_up = [(run, self.own.pop(run.fingerprint)) for run in left]
            self.store.write([one.give_up(self.clock()) for _, one in given_up])
            again = [(run, Decision(Kind.STORE, contradicts=one.contradicts)) for run, one in given_up]
            self._open(again, NOTHING if made_with else {"restored": values.now()})
        self.store.write(self._ending(record, made_with) for record in records)
        for record in records:
            del self.own[record.run.fingerprint]

    def _ending(self, record: Record, made_with: Mapping[str, str]) -> Change:
        run = self.own[record.run.fingerprint]
        steps, folder = record.steps(self.params.track.points), self.store.artifact_uri(run.run)
        return run.end(record, steps, made_with, self.clock(), folder)

    def measure(self, evaluated: Sequence[Record]) -> None:
        """Store the evaluation's metrics with the runs.

        A run that is not in the store (trained elsewhere, or into another store) is restored from its record. One that
        another machine stored and that is the same within rounding keeps the metrics of its own weights.
        """
        self.evaluated = evaluated
        with self.store.lock:
            decided = self._restored(evaluated)
            self.store.write([change for record, one in decided for change in self._measured(record, one)])
        runs = [one.run for _, one in decided if one.run]
        self.elsewhere = sum(run.tags.get(PARENT) != self.sweep.run.run_id for run in runs)
        self.kept = sum(one.kind is Kind.CLOSE for _, one in decided)
        if self.kept:
            self.news.append(KEPT.format(self.kept, len(evaluated)))
        for _ in evaluated:
            self.report()

    def _restored(self, records: Sequence[Record]) -> list[tuple[Record, Decision]]:
        # Stores the records that the store lacks; returns which run now stands for each.
        decided = self._decide(records)
        lacking = [(record, one) for record, one in decided if one.is_lacking]
        self._open([(record.run, one) for record, one in lacking], {"restored": values.now()})
        self._end([record for record, _ in lacking])
        return [one for one in decided if not one[1].is_lacking] + self._decide([record for record, _ in lacking])

    def _measured(self, record: Record, decision: Decision) -> list[Change]:
        # Returns how to store the metrics of the run that stands for a record.
        run = decision.standing
        if run is None:
            return []
        if decision.kind is Kind.SAME:
            return self.store.measure(run, record.metrics, self.clock())
        lacking = record.metrics.keys() - run.metrics.keys()
        own = self.comparison.own_metrics(run, record) if lacking else {}
        return self.store.measure(run, own, self.clock())

    def conclude(self, artifacts: Sequence[Path], champion: str) -> None:
        """Store the evaluation's files with the runs' sweep, seal it, and register the champion."""
        if not self.kept or not is_evaluated(self.sweep.run):  # else their sweep keeps its own as well
            self.sweep.log({path.name: path.read_bytes() for path in artifacts})
            found = values.sweep_metrics(self.evaluated, champion)
            if champion:
                found |= {f"champion/{key}": value for key, value in outs.final().items()} | outs.nested()
            note = self._note(self.evaluated, artifacts, champion)
            self.sweep.conclude(self.runs, self.specified, champion, found, note, self.clock())
        if done := models.update(self.params, self.evaluated, champion):
            self.news.append(done)

    def _note(self, evaluated: Sequence[Record], artifacts: Sequence[Path], champion: str) -> str:
        place, metric = (self.store.experiment.experiment_id, self.sweep.run.run_id), self.params.evaluate.metric
        pages = {path.stem: links.run_page(*place, path.name) for path in artifacts if path.suffix == ".html"}
        pages |= views.update(self.store, self.label, metric, self.clock())
        note = descriptions.sweep(evaluated, champion, metric, self.about, self.elsewhere, pages)
        if champion and (told := costs(outs.summary())):
            note += f"\n\nNested cross-validation: {told}."
        if champion and (found := outs.final()):
            said = descriptions.final(found, self.sweep.count_measured(found))
            self.news.append(said)
            note += f"\n\n{said}"
        return f"{note}\n\n{descriptions.images([path.name for path in artifacts if path.suffix == '.svg'], place[1])}"

    def close(self, status: str, error: str) -> None:
        """End the stage: runs left open get `status`; the sweep is finished, or waits for its next stage."""
        opened = [one.run for one in self.own.values()]
        if status == FINISHED:
            self.sweep.end(self.clock())
        else:
            at = milliseconds(self.clock())
            self.store.write([backend.stopped(run, status, at, error) for run in (*opened, self.sweep.run)])
        self.store.settle(self.owner, {one.run_id for one in (self.sweep.run, *opened)})


def confirmed(decision: Decision) -> Change:
    """Return how to note on a stored run that a record confirms it."""
    assert decision.run is not None
    run, tag = decision.run, "confirmed" if decision.kind is Kind.SAME else "confirmed_within_rounding"
    tags = {tag: str(int(run.tags.get(tag, "0")) + 1), f"{tag}_at": values.now()}
    return Change(run.run_id, tags=tags | {"seal_confirmed": seals.of_confirmations({**run.tags, **tags})})
