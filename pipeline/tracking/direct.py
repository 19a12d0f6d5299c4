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

from pipeline import lifetime, machine, outs, repository
from pipeline.params import Params
from pipeline.records import FORMAT, Array, Record
from pipeline.sweep import Run, sweep_id
from pipeline.tracking import datasets, finals, grids, leftovers, values
from pipeline.tracking.failures import PATIENCE_SECONDS, StoreError
from pipeline.tracking.models import champions
from pipeline.tracking.opened import Opened
from pipeline.tracking.pages import descriptions, figures, links, names, views
from pipeline.tracking.parents import Parent, is_evaluated
from pipeline.tracking.protocol import Growth, Points
from pipeline.tracking.repeats import Repeats, has_weights
from pipeline.tracking.runs import FINISHED, NOTE, NOTHING, PARENT, StoredRun
from pipeline.tracking.store import Store, answering

KEPT = (
    "{} of {} runs were stored by another machine, which rounds differently; they are the same within rounding, and "
    "keep their own metrics in MLflow"
)


class Direct:
    """Stores the runs of one stage.

    Each call finds the run by its fingerprint and stores only what is missing, so that repeated work stores nothing
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
        self.growth = Growth(params.train.epochs, params.track.points)
        self.own: dict[str, Opened] = {}  # fingerprint -> run that this process has opened and not ended
        self.said: list[str] = []  # what a person should know when the stage has ended
        self.elsewhere = 0  # runs of the sweep that an earlier sweep's run lists
        self.started: dict[str, float] = {}  # fingerprint -> when the stage began the run
        self.store = Store.open(params.track.experiment, PATIENCE_SECONDS)
        leftovers.end_dead_runs(self.store)
        self.repeats = Repeats(self.store)
        self.owner = lifetime.process_tags(pid)
        self.tags = {**values.source_tags(), **self.owner, "sweep": sweep_id(runs)}
        self.tags |= {"dvc_grid": joined} if (joined := grids.grid()) else {}
        summary = json.loads(outs.SUMMARY.read_text(encoding="utf-8"))
        self.tags |= {"data_md5": outs.md5(outs.PREPARED), "source_md5": summary["source_md5"]}  # as dvc.lock has them
        self.summary, self.label, date = summary, values.data_label(summary), names.date_of(summary)
        self.about = descriptions.data(summary, self.label, date)
        self.title = names.sweep_name(runs, values.table_name(summary), date, self.tags.get("dvc_experiment", ""))
        self.names = names.run_names(runs)
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
            time.sleep(lifetime.HEARTBEAT_SECONDS)
            for run in [self.parent.run, *(opened.run for opened in list(self.own.values()))]:
                with suppress(StoreError):  # the next call that stores meets the same error
                    self.store.log_tags(run, {"heartbeat": f"{time.time():.0f}"})

    def start(self, runs: Sequence[Run]) -> None:
        """Open the runs that the store lacks, or holds from an unfinished attempt."""
        for run in runs:
            self.started.setdefault(run.fingerprint, self.clock())
            if run.fingerprint not in self.own:
                with self.store.lock:
                    self._open(run, self.store.find(run.fingerprint))

    def _open(self, run: Run, found: Sequence[StoredRun], **extra: str) -> None:
        params = values.run_params(run, self.params, self.summary)
        # A run that has not ended is not sealed: continue it only if it is what this process would have begun.
        stored = next((one for one in found if one.is_complete or self._may_continue(one, params)), None)
        if stored is None:
            opened = self._create(run, extra)
        elif stored.is_complete or stored.is_at_work:
            return
        else:
            opened = stored
            self.store.take(opened, self.owner)
        self.own[run.fingerprint] = Opened(self.store, opened, params, self.datasets, is_new=stored is None)

    def _create(self, run: Run, extra: Mapping[str, str]) -> StoredRun:
        tags = {"role": "run", "fingerprint": run.fingerprint, PARENT: self.parent.run.run_id}
        tags["record_format"] = str(FORMAT)
        tags["dvc_stage"] = f"train@{run.variant}"  # even if another stage, or none, stores it
        place = self.store.experiment.experiment_id, self.parent.run.run_id
        if "contradicts" in extra:
            tags["went_wrong"] = "contradicts another run"
        tags[NOTE] = descriptions.run(run, self.title, *place, self.about)
        begun = self.started.get(run.fingerprint, self.clock())
        return self.store.create(self.names[run.fingerprint], {**self.tags, **tags, **extra}, begun)

    def _may_continue(self, stored: StoredRun, params: Mapping[str, str]) -> bool:
        try:
            self.store.artifact_uri(stored)
        except FileNotFoundError:  # weights would be written wherever it leads
            return False
        return stored.params.items() <= params.items()

    def follow(self, places: Mapping[str, int], curves: Array, epoch: int) -> None:
        """Store, every few seconds, the new points of running runs' curves."""
        self.store_points(self.growth.new(places, curves, epoch))

    def store_points(self, grown: Points) -> None:
        """Store new points of the curves of running runs."""
        for fingerprint, points in grown.items():
            if fingerprint in self.own:
                self.own[fingerprint].log_points(points, self.clock())

    def finish(self, record: Record) -> None:
        """Store a trained run, or compare it with the one already stored."""
        self._finish(record)
        self.report()

    def _finish(self, record: Record) -> None:
        with self.store.lock:
            fingerprint = record.run.fingerprint
            if fingerprint not in self.own:
                stored = self.store.find(fingerprint)
                if stored and stored[0].is_complete:
                    self._compare(stored, record)
                    return
                self._open(record.run, stored)
            if fingerprint in self.own:  # else another live process will store it
                self._end(record, machine.numeric_tags())

    def _compare(self, stored: Sequence[StoredRun], record: Record) -> None:
        if self.repeats.confirm(stored, record):
            return
        first = stored[0].run_id
        print(
            f"WARNING: {record.run.name} was repeated with the same code, data and params, but differs from MLflow run "
            f"{first}. The repeat is stored beside it, tagged contradicts={first}. "
            f"To see what differs: pipeline reproduce {first}",
            file=sys.stderr,
        )
        self._open(record.run, [], contradicts=first)
        self._end(record, machine.numeric_tags())

    def _end(self, record: Record, made_with: Mapping[str, str] = NOTHING) -> None:
        # made_with: what the bits depend on; unknown for a run restored from its outs.
        fingerprint = record.run.fingerprint
        if not self.own[fingerprint].is_part_of(record):
            self.own.pop(fingerprint).give_up(self.clock())
            self._open(record.run, [], **({} if made_with else {"restored": values.now()}))
        self.own[fingerprint].end(record, self.growth.steps, made_with, self.clock())
        del self.own[fingerprint]

    def complete(self, evaluated: Sequence[Record], artifacts: Sequence[Path], champion: str) -> None:
        """Store the evaluation's metrics with the runs and its files with their sweep's run, and seal the latter.

        A run that is not in the store (trained elsewhere, or into another store) is restored from its record. One that
        another machine stored and that is the same within rounding keeps the metrics of its own weights.
        """
        restored = values.now()
        kept = 0
        for record in evaluated:
            kept += self._complete_run(record, restored)
            self.report()
        if kept:
            self.said.append(KEPT.format(kept, len(evaluated)))
        if not kept or not is_evaluated(self.parent.run):  # else their sweep keeps its own as well
            for path in artifacts:
                self.parent.log_file(path.name, path.read_bytes())
            found = figures.compute(evaluated, champion)
            found |= {f"champion/{key}": value for key, value in outs.final().items()} if champion else {}
            self.parent.complete(self.runs, champion, found, self._note(evaluated, artifacts, champion), self.clock())
        if done := champions.update(self.params, evaluated, champion):
            self.said.append(done)

    def _note(self, evaluated: Sequence[Record], artifacts: Sequence[Path], champion: str) -> str:
        place, metric = (self.store.experiment.experiment_id, self.parent.run.run_id), self.params.evaluate.metric
        pages = {path.stem: links.run_page(*place, path.name) for path in artifacts if path.suffix == ".html"}
        pages |= views.update(self.store, self.label, metric, self.clock())
        note = descriptions.sweep(evaluated, champion, metric, self.about, self.elsewhere, pages)
        if champion and (found := outs.final()):
            said = descriptions.final(found, finals.measured(self.store, self.parent.run, champion, found))
            self.said.append(said)
            note += f"\n\n{said}"
        return f"{note}\n\n{descriptions.images([path.name for path in artifacts if path.suffix == '.png'], place[1])}"

    def _complete_run(self, record: Record, restored: str) -> bool:
        # Returns whether the stored run is another machine's.
        with self.store.lock:
            stored = self.store.find(record.run.fingerprint)
            self._open(record.run, stored, restored=restored)
            if record.run.fingerprint in self.own:
                self._end(record)
                stored = self.store.find(record.run.fingerprint)
            self.elsewhere += all(run.tags.get(PARENT) != self.parent.run.run_id for run in stored)
            if own := next((run for run in stored if has_weights(run, record)), None):
                self._log_metrics(own, record.metrics)
                return False
            return all(run.is_complete for run in stored) and self._complete_other(stored, record, restored)

    def _complete_other(self, stored: Sequence[StoredRun], record: Record, restored: str) -> bool:
        # Returns whether a stored run equals the record within rounding; if none does, stores the record beside them.
        close = self.repeats.one_that_agrees(stored, record)
        if close is None:
            self._open(record.run, [], contradicts=stored[0].run_id, restored=restored)
            self._end(record)
            own = next(run for run in self.store.find(record.run.fingerprint) if has_weights(run, record))
            self._log_metrics(own, record.metrics)
        elif record.metrics.keys() - close.metrics.keys():
            self._log_metrics(close, self.repeats.own_metrics(close, record))
        return close is not None

    def _log_metrics(self, run: StoredRun, metrics: Mapping[str, float]) -> None:
        self.store.log_metrics(run, metrics, self.clock())

    def end(self, status: str, error: str) -> None:
        """End the stage: runs left open get `status`; the sweep is finished, or waits for its next stage."""
        opened = [one.run for one in self.own.values()]
        if self.store.client.remote:
            leftovers.delete_ghosts(self.store, self.owner, {one.run_id for one in (self.parent.run, *opened)})
        if status == FINISHED:
            self.parent.end(self.clock())
            return
        for run in [*opened, self.parent.run]:
            self.store.stop(run, status, values.milliseconds(self.clock()), error)


@answering()
def restore(params: Params, evaluated: Sequence[Record], artifacts: Sequence[Path], champion: str) -> None:
    """Store what the store lacks of an evaluated sweep.

    Raises:
        InputError: the store fails.
    """
    direct = Direct(params, [record.run for record in evaluated], os.getpid(), values.now())
    direct.complete(evaluated, artifacts, champion)
    direct.end(FINISHED, "")
    print("\n".join(direct.said))
