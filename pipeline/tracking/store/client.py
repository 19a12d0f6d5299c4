"""The only file that imports MLflow: a client that takes and returns plain values, and retries a server."""

import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import mlflow
from mlflow import MlflowClient, entities
from mlflow.exceptions import InvalidUrlException, MlflowException, RestException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

from pipeline.tracking.datasets import Dataset
from pipeline.tracking.runs import KIND, NOTHING, Experiment, Point, StoredRun, known_tags, stored_key
from pipeline.tracking.store.backend import Change, Filter, New
from pipeline.tracking.store.location import errors, failing, is_refusal, local_path, write_file

logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it logs a traceback before our message

UNANSWERED = {"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED"}


class Client:
    """Retries a server's requests every second for up to `patience` seconds; asks every other kind of store once.

    A server may carry out a retried request twice: every request but create_run then has the same effect.
    """

    def __init__(self, uri: str, patience: float) -> None:
        self.uri = uri
        self.remote = uri.startswith("http")
        self._retrying = Retrying(
            retry=retry_if_exception(self._may_come),
            stop=stop_after_delay(patience),
            wait=wait_fixed(1),
            reraise=True,
        )
        with failing(uri):
            try:
                if self.remote and not urlsplit(uri).hostname:
                    raise ValueError("it names no host")
                self._client = MlflowClient(uri)
            except ValueError as error:
                raise MlflowException(f"MLFLOW_TRACKING_URI: {error}") from error

    def _ask(self, request: Callable[..., Any], *arguments: Any) -> Any:  # noqa: ANN401
        with failing(self.uri):
            return self._retrying(request, *arguments)

    def _may_come(self, error: BaseException) -> bool:
        return self.remote and isinstance(error, errors()) and not is_final(error)

    def experiment(self, name: str) -> Experiment | None:
        """Find an experiment by name, even if it was deleted."""
        found = self._ask(self._client.get_experiment_by_name, name)
        if found is None:
            return None
        is_deleted = found.lifecycle_stage != "active"
        return Experiment(name, found.experiment_id, found.artifact_location, is_deleted, found.tags)

    def create_experiment(self, name: str, location: str | None) -> None:
        """Create an experiment; `location` is where its artifacts lie, None for the server's choice."""
        self._ask(self._client.create_experiment, name, location, KIND)

    def tag_experiment(self, experiment_id: str, key: str, value: str) -> None:
        """Set a tag of an experiment."""
        self._ask(self._client.set_experiment_tag, experiment_id, key, value)

    def mlflow_version(self) -> str:
        """Return the version of the MLflow that shows the store: the server's, else the one here; empty if unknown."""
        if not self.remote:
            return str(mlflow.__version__)
        with failing(self.uri):
            answer = self._ask(http_request, get_default_host_creds(self.uri), "/version", "GET")
            return str(answer.text) if answer.ok else ""

    def run(self, run_id: str) -> StoredRun:
        """Read a run."""
        return plain(self._ask(self._client.get_run, run_id))

    def search(self, experiment_id: str, wanted: Filter, page: int) -> Iterator[StoredRun]:
        """Find an experiment's runs, `page` at a time."""
        token = None
        while token != "":
            view = entities.ViewType.ACTIVE_ONLY
            arguments = [experiment_id], wanted.condition, view, page, wanted.order, token
            found = self._ask(self._client.search_runs, *arguments)
            yield from map(plain, found)
            token = found.token or ""

    def history(self, run_id: str, key: str) -> list[Point]:
        """Read all values of a metric."""
        found = self._ask(self._client.get_metric_history, run_id, key)
        return [Point(one.step, one.value, one.timestamp) for one in found]

    def create_run(self, experiment_id: str, begun: int, tags: Mapping[str, str], name: str) -> StoredRun:
        """Create a run that says RUNNING; `begun` is in milliseconds since 1970."""
        named = {stored_key(key): value for key, value in tags.items()}
        return plain(self._ask(self._client.create_run, experiment_id, begun, named, name))

    def delete_run(self, run_id: str) -> None:
        """Delete a run, so that no search finds it."""
        self._ask(self._client.delete_run, run_id)

    def log(
        self,
        run_id: str,
        points: Sequence[tuple[str, Point]] = (),
        params: Mapping[str, str] = NOTHING,
        tags: Mapping[str, str] = NOTHING,
    ) -> None:
        """Store points of metrics, params and tags in one request; MLflow stores all tags at once, last."""
        metrics = [entities.Metric(key, point.value, point.at, point.step) for key, point in points]
        given = [entities.Param(key, value) for key, value in params.items()]
        named = [entities.RunTag(stored_key(key), value) for key, value in tags.items()]
        self._ask(self._client.log_batch, run_id, metrics, given, named)

    def delete_tag(self, run_id: str, key: str) -> None:
        """Delete a tag."""
        self._ask(self._client.delete_tag, run_id, key)

    def log_datasets(self, run_id: str, datasets: Sequence[Dataset]) -> None:
        """Store which datasets a run uses."""
        inputs = [
            entities.DatasetInput(
                entities.Dataset(one.name, one.digest, one.source_type, one.source, one.schema or None, one.profile),
                [entities.InputTag(key, value) for key, value in one.tags.items()],
            )
            for one in datasets
        ]
        self._ask(self._client.log_inputs, run_id, inputs)

    def set_status(self, run_id: str, status: str, end: int | None = None) -> None:
        """Set a run's status, and its end, if it has one, in milliseconds since 1970."""
        if end is None:
            self._ask(self._client.update_run, run_id, status)
        else:
            self._ask(self._client.set_terminated, run_id, status, end)

    def upload(self, folder_uri: str, name: str, content: bytes) -> None:
        """Store an artifact. The client's own log_artifact asks the server for the run each time."""
        self._ask(upload, folder_uri, name, content)

    def download(self, folder_uri: str, name: str, folder: Path) -> Path:
        """Download an artifact into a folder."""
        with failing(self.uri):
            return Path(self._ask(get_artifact_repository(folder_uri).download_artifacts, name, str(folder)))

    def sizes(self, folder_uri: str) -> dict[str, int]:
        """List artifacts, name -> size in bytes."""
        with failing(self.uri):
            listed = self._ask(get_artifact_repository(folder_uri).list_artifacts)
        return {Path(one.path).name: one.file_size or 0 for one in listed}


def plain(run: entities.Run) -> StoredRun:
    """Convert one of MLflow's runs to plain values."""
    datasets = [
        Dataset(
            one.dataset.name,
            one.dataset.digest,
            one.dataset.source_type,
            one.dataset.source,
            one.dataset.schema or "",
            one.dataset.profile or "",
            {tag.key: tag.value for tag in one.tags},
        )
        for one in (run.inputs.dataset_inputs if run.inputs else [])
    ]
    info, data = run.info, run.data
    name, artifact_uri = str(info.run_name), str(info.artifact_uri)
    fields = info.run_id, name, info.status, info.start_time, info.end_time, artifact_uri
    return StoredRun(*fields, known_tags(data.tags), data.params, data.metrics, tuple(datasets))


def upload(folder_uri: str, name: str, content: bytes) -> None:
    """Store an artifact: straight into its folder on this machine, elsewhere through MLflow."""
    if folder := local_path(folder_uri):
        write_file(folder, name, content)
        return
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / name
        path.write_bytes(content)
        get_artifact_repository(folder_uri).log_artifact(str(path))


def is_final(error: Exception) -> bool:
    """Tell whether a server would give the same answer again."""
    answered = isinstance(error, RestException) and error.error_code not in UNANSWERED
    return answered or isinstance(error, InvalidUrlException) or is_refusal(error)


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
