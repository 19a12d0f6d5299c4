"""Writes runs through MLflow's public client, run by run: to a server, or to tables that are not known."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from pipeline.tracking.changes import Change, New
from pipeline.tracking.runs import StoredRun

if TYPE_CHECKING:  # it imports MLflow
    from pipeline.tracking.client import Client

AT_ONCE = 10  # runs that a server is asked to write at a time: MLflow keeps as many connections open
POINTS = 900  # of metrics in a request: MLflow takes at most 1000 metrics, params and tags together
Item = TypeVar("Item")
Result = TypeVar("Result")


class Requests:
    """Writes runs with a client."""

    def __init__(self, client: "Client") -> None:
        """Write with a client."""
        self.client = client

    def create(self, experiment_id: str, location: str, runs: Sequence[New]) -> list[StoredRun]:
        """Create runs of an experiment; MLflow itself locates their artifacts."""
        del location
        return self._each(partial(self._create, experiment_id), runs)

    def _create(self, experiment_id: str, new: New) -> StoredRun:
        run = self.client.create_run(experiment_id, new.begun, new.tags, new.title)
        self._carry_out([Change(run.run_id, params=new.params, datasets=new.datasets)])
        return replace(run, params=new.params, datasets=tuple(new.datasets))

    def write(self, changes: Iterable[Change]) -> None:
        """Carry out changes, each run's in their order."""
        by_run: dict[str, list[Change]] = {}
        for change in changes:
            by_run.setdefault(change.run_id, []).append(change)
        self._each(self._carry_out, list(by_run.values()))

    def _each(self, work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        if not self.client.remote or len(items) < 2:
            return list(map(work, items))
        with ThreadPoolExecutor(AT_ONCE) as threads:
            return list(threads.map(work, items))

    def _carry_out(self, changes: Sequence[Change]) -> None:
        for change in changes:
            run_id, points = change.run_id, change.points
            if change.params:
                self.client.log(run_id, params=change.params)
            if change.datasets:
                self.client.log_datasets(run_id, change.datasets)
            for name, content in change.files.items():
                self.client.upload(change.folder, name, content)
            while len(points) > POINTS:
                self.client.log(run_id, points[:POINTS])
                points = points[POINTS:]
            if points or change.tags:
                self.client.log(run_id, points, tags=change.tags)
            for key in change.dropped:
                self.client.delete_tag(run_id, key)
            if change.status:
                self.client.set_status(run_id, change.status, change.end)
