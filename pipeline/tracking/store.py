"""MLflow: the only file that knows it.

Store: MLFLOW_TRACKING_URI if set, else <repository>/mlflow.db with <repository>/mlartifacts beside it.
"""

import json
import logging
import math
import os
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from hashlib import md5, sha256
from pathlib import Path
from traceback import walk_tb
from types import MappingProxyType
from typing import Any, Self
from urllib.parse import urlsplit

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, Experiment, InputTag, Metric, Param, RunTag
from mlflow.entities import Run as StoredRun
from mlflow.exceptions import InvalidUrlException, MlflowException, RestException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.uri import append_to_uri_path
from sqlalchemy.exc import SQLAlchemyError

from pipeline import lifetime, outs, repository
from pipeline.params import InputError
from pipeline.records import CURVE
from pipeline.tracking import seals

logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # a traceback before our message

WEIGHTS = "weights.safetensors"
PATIENCE_SECONDS = float(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"])  # a stage waits for a server
WAIT_SECONDS = 5.0  # a person does
KIND = {"mlflow.experimentKind": "custom_model_development"}  # MLflow's pages then show training, not traces
BATCH = 1000  # most metrics that MLflow takes at once
VALUE_LENGTH = 6000  # MLflow cuts longer values without a word
SCHEMA_LENGTH = 1_000_000  # MLflow takes no longer one
NO_TAGS: Mapping[str, str] = MappingProxyType({})
OWNED = [f"tags.{key} LIKE '%'" for key in ("host", "pid", "pid_started", "heartbeat")]
UNANSWERED = {"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED"}
REFUSED = {"UNAUTHENTICATED", "PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED", "401", "403"}
STORE_ERRORS = (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ImportError)


class Patient:
    """An MlflowClient that asks a server again, every second, for as long as `patience` seconds.

    What is asked twice may be done twice: every request here has the same effect then, but for create_run.
    """

    def __init__(self, uri: str, patience: float) -> None:
        self.patience = patience
        self.remote = uri.startswith("http")
        try:
            if self.remote and not urlsplit(uri).hostname:
                raise ValueError("it names no host")
            self.client = MlflowClient(uri)
        except ValueError as error:
            raise MlflowException(f"MLFLOW_TRACKING_URI: {error}") from error

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return partial(self.ask, getattr(self.client, name))

    def ask(self, request: Callable[..., Any], *arguments: Any, **named: Any) -> Any:  # noqa: ANN401
        """Make a request, again and again while no answer comes."""
        give_up = time.monotonic() + self.patience
        while True:
            try:
                return request(*arguments, **named)
            except (MlflowException, OSError) as error:
                answered = isinstance(error, RestException) and error.error_code not in UNANSWERED
                if (
                    answered
                    or isinstance(error, InvalidUrlException)
                    or is_refusal(error)
                    or not self.remote
                    or time.monotonic() > give_up
                ):
                    raise
            time.sleep(1)


@dataclass(frozen=True)
class Store:
    """An MLflow experiment in a tracking store, and the lock that its writers on this machine share."""

    client: Patient
    experiment: Experiment
    uri: str
    lock: FileLock

    @classmethod
    def open(cls, name: str, patience: float = WAIT_SECONDS) -> Self:
        """Connect, and end the runs of the dead."""
        store = cls.connect(name, patience)
        store.end_the_dead()
        return store

    @classmethod
    def connect(cls, name: str, patience: float = WAIT_SECONDS) -> Self:
        """Connect to the store, creating it and its experiment where they are missing.

        Raises:
            InputError: the experiment was deleted.
        """
        root = repository.root()
        uri = repository.store_uri()
        if uri.startswith("sqlite") and (":memory:" in uri or "mode=memory" in uri or not urlsplit(uri).path):
            raise MlflowException("MLFLOW_TRACKING_URI: it names a store in memory, which is lost with this process")
        file = repository.sqlite_file(uri)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
        unique = sha256(uri.encode()).hexdigest()[:16]
        lock = FileLock(f"{file}.lock" if file else Path(tempfile.gettempdir()) / f"pipeline-{unique}.lock")
        with lock:
            if file is not None:
                create_sqlite(file)
            client = Patient(uri, patience)
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                location = None if uri.startswith("http") else (root / "mlartifacts").as_uri()
                try:
                    experiment = client.get_experiment(client.create_experiment(name, location, KIND))
                except MlflowException:  # another host was faster, or the answer to our own first try was lost
                    experiment = client.get_experiment_by_name(name)
                    if experiment is None:
                        raise
        place, server = urlsplit(experiment.artifact_location), urlsplit(uri)
        if place.scheme in {"http", "https"} and place.netloc != server.netloc:
            raise InputError(
                f"MLflow's experiment {name!r} keeps its artifacts at {place.hostname}, which is not the tracking "
                "server, and would be sent its password; choose another track.experiment"
            )
        if experiment.lifecycle_stage != "active":
            raise InputError(
                f"params.yaml: track.experiment: {name!r} was deleted in MLflow; choose another name or bring it back: "
                f"mlflow experiments restore --experiment-id {experiment.experiment_id}"
            )
        return cls(client, experiment, uri, lock)

    def end_the_dead(self) -> list[StoredRun]:
        """End runs that say RUNNING though their process is gone: KILLED, at its last sign of life."""
        dead = []
        for run in list(self.search(f"attributes.status = 'RUNNING' and {' and '.join(OWNED)}")):
            with self.lock:
                run = self.client.get_run(run.info.run_id)  # noqa: PLW2901 - it may have ended since
                if run.info.status != "RUNNING" or lifetime.is_alive(run.data.tags, time.time()):
                    continue
                points = self.client.get_metric_history(run.info.run_id, CURVE)
                signs = [run.info.start_time, milliseconds(float(run.data.tags["heartbeat"]))]
                signs += [point.timestamp for point in points]
                owner = f"process {run.data.tags['pid']} on {run.data.tags['host']}"
                self.client.set_tag(run.info.run_id, "error", f"{owner} is gone, and did not end this run")
                self.client.set_terminated(run.info.run_id, "KILLED", max(signs))
                dead.append(run)
        return dead

    def search(self, condition: str, order_by: Sequence[str] = (), page_size: int = 1000) -> Iterator[StoredRun]:
        """Find the experiment's runs, page by page."""
        ids, token = [self.experiment.experiment_id], None
        while token != "":
            page = self.client.search_runs(
                ids, condition, max_results=page_size, order_by=list(order_by), page_token=token
            )
            yield from page
            token = page.token or ""

    def find(self, fingerprint: str) -> list[StoredRun]:
        """Find the runs with a fingerprint, whole ones first: one, and after it those that contradict it.

        What was altered since it ended is none of them: it is as if it were not there.
        """
        sound = [run for run in self.of(fingerprint) if seal_state(run) != seals.ALTERED]
        return sorted(sound, key=lambda run: (not is_complete(run), "contradicts" in run.data.tags))

    def of(self, fingerprint: str) -> list[StoredRun]:
        """Find the runs with a fingerprint, altered ones too, in the order in which they began."""
        condition = f"tags.fingerprint = '{fingerprint}' and tags.role = 'run'"
        return list(self.search(condition, ["attributes.start_time"]))

    def create(self, name: str, tags: Mapping[str, str], begun: float) -> StoredRun:
        """Create a run that says RUNNING, since `begun`, in seconds since 1970."""
        attempt = uuid.uuid4().hex
        own = {"attempt": attempt, "heartbeat": f"{time.time():.0f}"}
        tags = {**tags, **own}
        run = self.client.create_run(self.experiment.experiment_id, milliseconds(begun), tags, name)
        if self.client.remote:
            # The client repeats a request whose answer was lost, and the server then creates a run for each.
            for ghost in list(self.search(f"tags.attempt = '{attempt}'")):
                if ghost.info.run_id != run.info.run_id:
                    self.client.delete_run(ghost.info.run_id)
        return run

    def log_params(self, run: StoredRun, params: Mapping[str, str]) -> None:
        """Store what configures a run, as far as it is not stored: MLflow refuses to change a param."""
        new = [Param(key, value) for key, value in params.items() if key not in run.data.params]
        if new:
            self.client.log_batch(run.info.run_id, params=new)

    def log_points(
        self, run: StoredRun, points: Mapping[int, float], at: float, tags: Mapping[str, str] = NO_TAGS
    ) -> None:
        """Store points of a curve, step -> value, with the time `at`, in seconds since 1970, and then tags.

        What is not finite is left out, as MLflow would change it.
        """
        stamp = milliseconds(at)
        metrics = [Metric(CURVE, value, stamp, step) for step, value in points.items() if math.isfinite(value)]
        while len(metrics) > BATCH:
            self.client.log_batch(run.info.run_id, metrics=metrics[:BATCH])
            metrics = metrics[BATCH:]
        self.log_tags(run, tags, metrics)

    def log_tags(self, run: StoredRun, tags: Mapping[str, str], metrics: Sequence[Metric] = ()) -> None:
        """Store metrics and then tags, in one request; MLflow stores tags together, but not with the metrics."""
        if tags or metrics:
            items = [RunTag(key, text(value)) for key, value in tags.items()]
            self.client.log_batch(run.info.run_id, metrics=metrics, tags=items)

    def log_figures(self, run: StoredRun, metrics: Mapping[str, float], step: int, at: float) -> None:
        """Store figures that the run does not have yet, or has with another value, and seal them."""
        new = {
            key: value for key, value in metrics.items() if math.isfinite(value) and run.data.metrics.get(key) != value
        }
        if not new:
            return
        before = contents(run)
        if "seal" in run.data.tags:  # either fits where a kill comes between the requests
            self.log_tags(run, {"seal": f"{before.with_({}, new).seal()} {before.seal()}"})
        stamp = milliseconds(at)
        self.log_tags(run, {}, [Metric(key, value, stamp, step) for key, value in new.items()])

    def log_artifact(self, run: StoredRun, name: str, content: bytes) -> None:
        """Store a file with the run."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(content)
            # The client's own log_artifact asks the server for the run again, every time.
            self.client.ask(get_artifact_repository(self.artifact_uri(run)).log_artifact, str(path))

    def artifact(self, run: StoredRun, name: str, most: int | None = None) -> bytes:
        """Read a file of the run, of at most so many bytes.

        Raises:
            FileNotFoundError: there is none; or it is larger, or not a file but a device or a pipe.
        """
        uri = ""
        with tempfile.TemporaryDirectory() as folder:
            try:
                uri = self.artifact_uri(run)
                repository = get_artifact_repository(uri)
                if most is not None:
                    sizes = {Path(one.path).name: one.file_size for one in self.client.ask(repository.list_artifacts)}
                    place = Path(local_file_uri_to_path(uri)) / name if uri.startswith("file:") else None
                    if (sizes.get(name) or 0) > most or (place and not place.is_file()):
                        raise OSError(f"is no file of at most {most} bytes")
                return Path(self.client.ask(repository.download_artifacts, name, folder)).read_bytes()
            except (MlflowException, OSError) as error:
                raise FileNotFoundError(f"{run.info.run_name}: {uri}/{name}: {error}") from error

    def artifact_uri(self, run: StoredRun) -> str:
        """Locate a run's artifacts, also after the repository moved: MLflow stores the location as an absolute path.

        Raises:
            FileNotFoundError: they lie elsewhere than MLflow would have put them; a client would follow, with its
                password, to any host.
        """
        uri = str(run.info.artifact_uri)
        if uri != append_to_uri_path(self.experiment.artifact_location, run.info.run_id, "artifacts"):
            raise FileNotFoundError(f"its artifacts' location {uri!a} is not below its experiment's")
        moved = repository.root() / "mlartifacts" / run.info.run_id
        if uri.startswith("file:") and not Path(uri.removeprefix("file://")).exists() and moved.exists():
            uri = (moved / "artifacts").as_uri()
        return uri


def contents(run: StoredRun) -> seals.Contents:
    """Return what `seal` covers of a run as it is stored."""
    params, tags = run.data.params, run.data.tags
    inputs = run.inputs.dataset_inputs if run.inputs else []
    if tags.get("role") == "sweep":
        return seals.Contents(params, tags, frozenset(described(one) for one in inputs))
    status, begun, ended = run.info.status, run.info.start_time, run.info.end_time
    named = frozenset(identity(one) for one in inputs)  # the rest is shared by all runs, and sealed with the sweep
    return seals.Contents(params, tags, named, status, begun, ended, run.data.metrics)


def identity(one: DatasetInput) -> tuple[str, ...]:
    """Name a dataset, and what it is for."""
    return one.dataset.name, one.dataset.digest, *sorted(f"{tag.key}={tag.value}" for tag in one.tags)


def described(one: DatasetInput) -> tuple[str, ...]:
    """Describe a dataset in all that MLflow holds of it."""
    dataset = one.dataset
    return *identity(one), dataset.source_type, dataset.source, dataset.schema or "", dataset.profile or ""


def seal_state(run: StoredRun) -> str:
    """Say whether a run is sealed, unsealed (as those are that have not ended, or are older than seals) or altered."""
    sealed = run.data.tags.get("role") == "sweep" or is_complete(run)
    return contents(run).state() if sealed else seals.UNSEALED


def is_complete(run: StoredRun) -> bool:
    """Tell whether a run's training is stored whole: it finished, or it diverged."""
    return run.info.status == "FINISHED" or (run.info.status == "FAILED" and "diverged" in run.data.tags)


def is_at_work(run: StoredRun) -> bool:
    """Tell whether a run says RUNNING and its process lives."""
    return run.info.status == "RUNNING" and lifetime.is_alive(run.data.tags, time.time())


def create_sqlite(file: Path) -> None:
    """Create a SQLite store with its tables where it is missing, whole or not at all; under the lock.

    Several processes that let MLflow create the tables race and fail, and one that is killed leaves half of them.
    """
    if not file.exists():
        with outs.replacing(file) as temporary:
            MlflowClient(f"sqlite:///{temporary}")
    connection = sqlite3.connect(file)
    if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
        connection.execute("PRAGMA journal_mode=WAL")  # stays with the file; readers no longer block the writer
    connection.close()


def datasets(summary: Mapping[str, Any], tags: Mapping[str, str]) -> list[DatasetInput]:
    """Describe, in MLflow's terms, the raw table and the prepared tensors with their folds; the digests are DVC's."""
    columns = [*summary["features"], summary["target"]]
    schema = json.dumps({"mlflow_colspec": [{"name": name, "type": "double", "required": True} for name in columns]})
    profile = json.dumps({"num_rows": summary["rows"], "num_elements": summary["rows"] * len(columns)})
    name, method = Path(summary["source"]).stem, summary["split"]["method"]
    tested = "cross-validation" if method == "kfold" else "holdout"
    found = []
    for title, source, digest, context in (
        (name, summary["source"], tags["source_md5"], "training"),
        (f"{name} {tested}", str(outs.PREPARED), tags["data_md5"], tested),
    ):
        kept = schema if len(schema) < SCHEMA_LENGTH else None
        dataset = Dataset(title, digest, "local", json.dumps({"uri": source}), kept, profile)
        found.append(DatasetInput(dataset, [InputTag("mlflow.data.context", context)]))
    return found


def text(value: object) -> str:
    """Write a param's or tag's value; what MLflow would cut ends in its length and hash."""
    written = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if len(written) <= VALUE_LENGTH:
        return written
    whole = sha256(written.encode()).hexdigest()
    return f"{written[: VALUE_LENGTH - 100]}… {len(written)} characters, sha256 {whole}"


def weights_md5(content: bytes) -> str:
    """Hash a weights file's content."""
    return md5(content, usedforsecurity=False).hexdigest()


def milliseconds(seconds: float) -> int:
    """Write a time as MLflow does."""
    return int(seconds * 1000)


def now() -> str:
    """Write the present time."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def answering() -> Iterator[None]:
    """Say it in one message when the store does not answer.

    Raises:
        InputError: it does not.
    """
    try:
        yield
    except STORE_ERRORS as error:
        raise InputError(failure(error)) from error


def is_refusal(error: Exception) -> bool:
    """Tell whether a server answered 401 or 403, with MLflow's error code, another's or none."""
    return str(getattr(error, "error_code", "")) in REFUSED or http_status(error) in {401, 403}


def http_status(error: Exception) -> int:
    """Find the HTTP status that a request failed with, 0 for none: of an answer in JSON, MLflow keeps only the text."""
    places = [vars(error), *(frame.f_locals for frame, _ in walk_tb(error.__traceback__))]
    statuses = (getattr(place.get("response"), "status_code", None) for place in places)
    return next((status for status in statuses if isinstance(status, int)), 0)


def failure(error: Exception) -> str:
    """Say that the store fails, and why, without the password that its URI may hold."""
    said = f"MLflow's store {repository.store_uri()} fails: {error}"
    if is_refusal(error):
        said = (
            f"MLflow's store {repository.store_uri()} refuses access; set MLFLOW_TRACKING_USERNAME and "
            f"MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN: {error}"
        )
    elif isinstance(error, ImportError):
        said += "; install the package that this kind of store needs"
    return repository.without_password(said)
