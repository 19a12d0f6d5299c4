"""The process that a stage's Tracker speaks to: finds or creates each run by its fingerprint and fills it in.

Run as `python -m pipeline.tracking.recorder`; reads pickled messages from its standard input, writes MLflow's store.
"""

import json
import math
import pickle
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from safetensors.numpy import load_file, save

from pipeline import lifetime, machine, outs, repository
from pipeline.evaluation import rounding
from pipeline.params import InputError, Params
from pipeline.records import CURVE, FORMAT, Record
from pipeline.sweep import Run, curve_steps, sweep_id
from pipeline.tracking import parents, repeats, seals
from pipeline.tracking.store import (
    NO_TAGS,
    PATIENCE_SECONDS,
    STORE_ERRORS,
    WEIGHTS,
    Store,
    StoredRun,
    contents,
    datasets,
    failure,
    identity,
    is_at_work,
    is_complete,
    milliseconds,
    now,
    text,
    weights_md5,
)
from pipeline.tracking.tracker import INPUT_WRONG, STORE_LOST


@dataclass(frozen=True)
class Opened:
    """A run that this process fills in, and what the store holds of it: params, datasets, points of the curve."""

    run: StoredRun
    params: Mapping[str, str]
    datasets: frozenset[tuple[str, ...]]
    points: dict[int, float]


class Recorder:
    """A stage's hold on its sweep's runs in MLflow.

    A run goes through `start`, `follow` and `finish`, and after the evaluation `complete`. Each finds the run by its
    fingerprint and stores only what is missing, so that repeating the same work stores nothing twice.
    """

    def __init__(self, params: Params, runs: Sequence[Run], pid: int, restored: str = "", begun: float = 0.0) -> None:
        """Begin a stage's work on a sweep.

        Args:
            params: params.yaml.
            runs: the sweep's.
            pid: of the stage.
            restored: when, if the stage only restores runs.
            begun: when the stage began, in seconds since 1970; now, if not given.
        """
        self.params = params
        self.sweep = sweep_id(runs)
        self.steps = curve_steps(params.train.epochs, params.track.points)
        self.runs = runs
        self.own: dict[str, Opened] = {}  # by fingerprint, runs that this process opened and has not ended
        self.told_at = begun or time.time()  # when the stage told what is being stored, in seconds since 1970
        self.started: dict[str, float] = {}  # by fingerprint, when the stage began a run
        self.store = Store.open(params.track.experiment, PATIENCE_SECONDS)
        self.owner = lifetime.process_tags(pid)
        self.patch = repository.changes()
        summary = json.loads(outs.SUMMARY.read_text(encoding="utf-8"))
        self.tags = repository.code_tags() | self.owner | {"sweep": self.sweep}
        self.tags |= {"data_md5": outs.md5(outs.PREPARED), "source_md5": summary["source_md5"]}  # as dvc.lock has them
        if self.patch:
            self.tags["git_changes"] = f"{sha256(self.patch).hexdigest()}.patch"
        self.datasets = datasets(summary, self.tags)
        self.files: dict[str, str] = {}  # the parent's artifacts, name -> sha256
        self.parent = self._open_parent({"restored": restored} if restored else {})
        threading.Thread(target=self._beat, daemon=True).start()

    def _open_parent(self, extra: Mapping[str, str]) -> StoredRun:
        name = f"{self.tags.get('dvc_experiment', 'sweep')} {self.sweep}"
        tags = {**self.tags, "role": "sweep", **extra}
        with self.store.lock:
            found = parents.find(self.store, self.sweep)
            parent = found or self.store.create(name, tags, self.told_at)
            if found:
                self._take(parent)
            if "champion" in parent.data.tags:
                known = parents.contents(self.store, parent)
                self.files |= known.files if known else {}
            else:  # new, or left by a process that may have been killed in between
                self.store.log_params(parent, as_texts(flat(self.params.model_dump())))
                self.store.client.log_inputs(parent.info.run_id, self.datasets)
                for path in (Path("params.yaml"), outs.SUMMARY):
                    self._log_file(parent, path.name, path.read_bytes())
        if self.patch:
            self._log_file(parent, self.tags["git_changes"], self.patch)
        return parent

    def _log_file(self, parent: StoredRun, name: str, content: bytes) -> None:
        self.store.log_artifact(parent, name, content)
        self.files[name] = sha256(content).hexdigest()

    def _take(self, run: StoredRun) -> None:
        self.store.client.update_run(run.info.run_id, "RUNNING")
        self.store.log_tags(run, self.owner | {"heartbeat": f"{time.time():.0f}"})
        if "error" in run.data.tags:
            self.store.client.delete_tag(run.info.run_id, "error")

    def _beat(self) -> None:
        while True:
            time.sleep(lifetime.HEARTBEAT_SECONDS)
            for run in [self.parent, *(opened.run for opened in list(self.own.values()))]:
                with suppress(*STORE_ERRORS):  # who stores next meets the same error
                    self.store.log_tags(run, {"heartbeat": f"{time.time():.0f}"})

    def start(self, runs: Sequence[Run]) -> None:
        """Open the runs that the store lacks, or holds from an attempt that did not end well."""
        for run in runs:
            self.started.setdefault(run.fingerprint, self.told_at)
            if run.fingerprint not in self.own:
                with self.store.lock:
                    self._open(run, self.store.find(run.fingerprint))

    def _open(self, run: Run, found: Sequence[StoredRun], **extra: str) -> None:
        params = as_texts(run_params(run, self.params))
        # What did not end is not sealed: it is gone on with where it is what this process would have begun.
        stored = [one for one in found if is_complete(one) or self._may_go_on(one, params)]
        if not stored:
            tags = {"role": "run", "fingerprint": run.fingerprint, "mlflow.parentRunId": self.parent.info.run_id}
            tags["record_format"] = str(FORMAT)
            tags["dvc_stage"] = f"train@{run.variant}"  # also where another stage, or none, stores it
            started = self.started.get(run.fingerprint, self.told_at)
            opened = self.store.create(run.name, {**self.tags, **tags, **extra}, started)
        elif is_complete(stored[0]) or is_at_work(stored[0]):
            return
        else:
            opened = stored[0]
            self._take(opened)
        self.store.log_params(opened, params)
        self.store.client.log_inputs(opened.info.run_id, self.datasets)
        inputs = [*self.datasets, *(opened.inputs.dataset_inputs if stored and opened.inputs else [])]
        history = self.store.client.get_metric_history(opened.info.run_id, CURVE) if stored else []
        points = {metric.step: metric.value for metric in history}
        self.own[run.fingerprint] = Opened(opened, params, frozenset(identity(one) for one in inputs), points)

    def _may_go_on(self, stored: StoredRun, params: Mapping[str, str]) -> bool:
        try:
            self.store.artifact_uri(stored)
        except FileNotFoundError:  # weights would be written wherever that leads
            return False
        return bool(stored.data.params.items() <= params.items())

    def follow(self, grown: Mapping[str, Mapping[int, float]]) -> None:
        """Store new points, step -> value, of the curves of running runs, by fingerprint."""
        for fingerprint, points in grown.items():
            if fingerprint in self.own:
                self._log_points(self.own[fingerprint], points)

    def _log_points(self, opened: Opened, points: Mapping[int, float], tags: Mapping[str, str] = NO_TAGS) -> None:
        new = {step: value for step, value in points.items() if step not in opened.points}
        self.store.log_points(opened.run, new, self.told_at, tags)
        opened.points.update(new)

    def finish(self, record: Record) -> None:
        """Store a trained run, or compare it with the one that is stored."""
        with self.store.lock:
            fingerprint = record.run.fingerprint
            if fingerprint not in self.own:
                stored = self.store.find(fingerprint)
                if stored and is_complete(stored[0]):
                    self._confirm(stored, record)
                    return
                self._open(record.run, stored)
            if fingerprint in self.own:  # else another process, alive, is about to store it
                self._end(record, machine.numeric_tags())

    def _end(self, record: Record, made_with: Mapping[str, str] = NO_TAGS) -> None:
        # made_with: what the bits depend on; unknown of a run that is restored from its outs.
        fingerprint, status = record.run.fingerprint, "FAILED" if record.diverged else "FINISHED"
        points = self.own[fingerprint].points  # of an attempt that was killed, maybe told to store others
        steps = {*self.steps, *(step for step in points if 0 <= step < len(record.curve))}
        curve = {step: float(record.curve[step]) for step in sorted(steps)}
        if any(math.isfinite(value) and value != curve.get(step) for step, value in points.items()):
            self._give_up(fingerprint)
            self._open(record.run, [], **({} if made_with else {"restored": now()}))
        opened, content = self.own[fingerprint], save(dict(record.tensors))
        self.store.log_artifact(opened.run, WEIGHTS, content)
        tags = {**made_with, "weights_md5": weights_md5(content), "seal_files": seals.of_files(curve.items(), content)}
        tags |= {"diverged": text(record.diverged)} if record.diverged else {}
        self._log_points(opened, curve, tags | {"seal": self._seal(opened, status, tags, curve)})
        self._terminate(opened.run, status)  # after the seal: what is whole is sealed
        del self.own[fingerprint]

    def _seal(self, opened: Opened, status: str, tags: Mapping[str, str], curve: Mapping[int, float]) -> str:
        stored = contents(opened.run)
        end = self._end_time(opened.run)
        stored = replace(stored, status=status, end=stored.end if end is None else end)
        stored = replace(stored, params=opened.params, datasets=opened.datasets)
        finite = [step for step, value in curve.items() if math.isfinite(value)]
        return stored.with_(tags, {CURVE: curve[max(finite)]} if finite else {}).seal()

    def _give_up(self, fingerprint: str) -> None:
        # What another attempt, elsewhere, stored of the curve is not what this one trained.
        run = self.own.pop(fingerprint).run
        error = "its curve is not that of the attempt which finished; see the run beside it"
        self.store.log_tags(run, {"error": error})
        self.store.client.set_terminated(run.info.run_id, "KILLED", milliseconds(self.told_at))

    def _end_time(self, run: StoredRun) -> int | None:
        # Nobody measured when a restored run ended.
        return None if "restored" in run.data.tags else milliseconds(self.told_at)

    def _terminate(self, run: StoredRun, status: str) -> None:
        end = self._end_time(run)
        if status == "SCHEDULED" or end is None:  # not at its end, or at one unknown
            self.store.client.update_run(run.info.run_id, status)
        else:
            self.store.client.set_terminated(run.info.run_id, status, end)

    def _confirm(self, stored: Sequence[StoredRun], record: Record) -> None:
        here, device = machine.numeric_tags(), record.run.device
        elsewhere = [run for run in stored if machine.may_differ(run.data.tags, here, device)]
        same = next((run for run in stored if repeats.is_same(self.store, run, record)), None)
        close = same or next((run for run in elsewhere if repeats.agrees(self.store, run, record, self.table)), None)
        if close:
            tag = "confirmed" if same else "confirmed_within_rounding"
            times = int(close.data.tags.get(tag, "0")) + 1
            tags = {tag: str(times), f"{tag}_at": now()}
            seal = seals.of_confirmations({**close.data.tags, **tags})
            self.store.log_tags(close, tags | {"seal_confirmed": seal})
            return
        first = stored[0].info.run_id
        print(
            f"WARNING: {record.run.name} was repeated with the same code, data and params, and came out differently "
            f"from MLflow run {first}. It is stored beside it, tagged contradicts={first}. "
            f"To see what differs: pipeline reproduce {first}",
            file=sys.stderr,
        )
        self._open(record.run, [], contradicts=first)
        self._end(record, machine.numeric_tags())

    @cached_property
    def table(self) -> rounding.Table:
        """What the bounds of rounding take of the sweep's data."""
        return rounding.table(load_file(outs.PREPARED))

    def complete(self, evaluated: Sequence[Record], artifacts: Sequence[Path], champion: str) -> None:
        """Store the evaluation's figures on the runs and its files on the parent, and end the sweep.

        A run that is not in the store (trained elsewhere, or into another store) is restored from its record. One that
        another machine stored, and that is the same within rounding, keeps the figures of its own weights.
        """
        restored, kept = now(), 0
        for record in evaluated:
            with self.store.lock:
                stored = self.store.find(record.run.fingerprint)
                self._open(record.run, stored, restored=restored)
                if record.run.fingerprint in self.own:
                    self._end(record)
                    stored = self.store.find(record.run.fingerprint)
                own = next((run for run in stored if repeats.has_weights(run, record)), None)
                if own:
                    self.store.log_figures(own, record.metrics, record.run.epochs - 1, self.told_at)
                elif all(map(is_complete, stored)):
                    kept += self._complete_other(stored, record, restored)
        if kept:
            print(
                f"{kept} of {len(evaluated)} runs were stored from another machine, which rounds otherwise; they are "
                "the same within rounding, and keep their own figures in MLflow"
            )
            if "champion" in self.parent.data.tags:  # so does their sweep
                return
        for path in artifacts:
            self._log_file(self.parent, path.name, path.read_bytes())
        self._seal_parent(champion)

    def _seal_parent(self, champion: str) -> None:
        runs = {run.fingerprint: run.name for run in self.runs}
        listing = parents.Contents(runs=runs, files=self.files).model_dump_json(indent=2).encode()
        self.store.log_artifact(self.parent, parents.CONTENTS, listing)
        tags = {"champion": champion, "seal_files": sha256(listing).hexdigest()}
        stored = contents(self.store.client.get_run(self.parent.info.run_id))
        self.store.log_tags(self.parent, tags | {"seal": stored.with_(tags).seal()})

    def _complete_other(self, stored: Sequence[StoredRun], record: Record, restored: str) -> bool:
        # Tells whether a stored run is the record's but for rounding; else the record is stored beside them.
        close = next((run for run in stored if repeats.agrees(self.store, run, record, self.table)), None)
        if close is None:
            self._open(record.run, [], contradicts=stored[0].info.run_id, restored=restored)
            self._end(record)
            own = next(run for run in self.store.find(record.run.fingerprint) if repeats.has_weights(run, record))
            self.store.log_figures(own, record.metrics, record.run.epochs - 1, self.told_at)
        elif record.metrics.keys() - close.data.metrics.keys():
            figures = repeats.figures(self.store, close, record)
            self.store.log_figures(close, figures, record.run.epochs - 1, self.told_at)
        return close is not None

    def _delete_ghosts(self) -> None:
        # A request to create a run whose answer never came may have been carried out late.
        owner = " and ".join(f"tags.{key} = '{value}'" for key, value in self.owner.items())
        known = {self.parent.info.run_id, *(opened.run.info.run_id for opened in self.own.values())}
        for run in list(self.store.search(f"attributes.status = 'RUNNING' and {owner}")):
            if run.info.run_id not in known:
                self.store.client.delete_run(run.info.run_id)

    def end(self, status: str, error: str) -> None:
        """End the stage: what it left open gets `status`; the sweep is done, or waits for its next stage."""
        if self.store.client.remote:
            self._delete_ghosts()
        if status == "FINISHED":
            with self.store.lock:
                evaluated = "champion" in self.store.client.get_run(self.parent.info.run_id).data.tags
                self._terminate(self.parent, "FINISHED" if evaluated else "SCHEDULED")
            return
        for run in [*(opened.run for opened in self.own.values()), self.parent]:
            self.store.log_tags(run, {"error": error})
            self.store.client.set_terminated(run.info.run_id, status, milliseconds(self.told_at))


def serve(messages: BinaryIO) -> int:
    """Do what a stage's Tracker says, a pickled (time, method, arguments) at a time, until it says `end`.

    When the messages stop without it, the stage was killed, and so are its runs.

    Returns:
        0, STORE_LOST where the store does not answer, or INPUT_WRONG.
    """
    try:
        begun, method, (params, runs, pid) = pickle.load(messages)  # noqa: S301 - from our own parent process
        recorder = Recorder(params, runs, pid, begun=begun)
        while method != "end":
            try:
                recorder.told_at, method, arguments = pickle.load(messages)  # noqa: S301
            except (EOFError, pickle.UnpicklingError):
                recorder.told_at, method, arguments = time.time(), "end", ("KILLED", "the stage's process was killed")
            getattr(recorder, method)(*arguments)
    except STORE_ERRORS as error:
        print(failure(error), file=sys.stderr)
        return STORE_LOST
    except InputError as error:
        print(error, file=sys.stderr)
        return INPUT_WRONG
    return 0


def as_texts(params: Mapping[str, object]) -> dict[str, str]:
    """Write params as they are stored."""
    return {key: text(value) for key, value in params.items()}


def run_params(run: Run, params: Params) -> dict[str, object]:
    """List all that configures a run, under the names of params.yaml where the sweep does not choose them."""
    own = {name: value for name, value in asdict(run).items() if name != "fingerprint"}
    return own | flat({"data": params.data.model_dump()})


def flat(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Join the keys of nested mappings with dots."""
    joined: dict[str, object] = {}
    for key, value in values.items():
        joined |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return joined


if __name__ == "__main__":
    sys.exit(serve(sys.stdin.buffer))
