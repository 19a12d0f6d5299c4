"""The store through MLflow's public client: a server, or a database whose schema is not known; and any store's models.

Loading it takes 1 s. Nothing else stores with MLflow.
"""

import json
import logging
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import mlflow
from mlflow import MlflowClient, entities
from mlflow.exceptions import InvalidUrlException, MlflowException, RestException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.db.utils import _get_latest_schema_revision
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request
from mlflow.utils.uri import append_to_uri_path
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

from pipeline.system import repository
from pipeline.tracking.runs import KIND, NOTHING, RUNNING, Dataset, Experiment, Point, StoredRun, known_tags, stored_key
from pipeline.tracking.store import releases
from pipeline.tracking.store.backend import PAGE, Change, Filter, New, Version
from pipeline.tracking.store.location import (
    TOO_LARGE,
    StoreError,
    artifact_root,
    count_rows,
    errors,
    failing,
    is_refusal,
    local_path,
    write_file,
)

logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it logs a traceback before our message

OTHER_SCHEMA = (
    "its tables have schema {}, and MLflow {} has {}; they are left as they are: install the MLflow that made them, "
    "or copy the store and migrate the copy with mlflow db upgrade"
)
UNANSWERED = {"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED"}
FEW = 20  # fingerprints that a server is asked for one by one: a search takes 10 ms, and one for all runs 1 ms for each
AT_ONCE = 10  # runs that a server is asked to write at a time: MLflow keeps as many connections open
POINTS = 900  # of metrics in a request: MLflow takes at most 1000 metrics, params and tags together
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class RegisteredModel:
    """A registered model: the number of each alias's version, and its tags."""

    aliases: Mapping[str, int]
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Logged:
    """A logged model: its id, and where its files go."""

    model_id: str
    location: str


class Client:
    """MLflow's client, in plain values; `Backend` says what each method does.

    Requests to a server are retried every second for up to `patience` seconds; other stores are asked once. A server
    may carry out a retried request twice: every request but create_run then has the same effect.
    """

    def __init__(self, uri: str, patience: float) -> None:
        """Connect to a store, creating the tables of an empty database.

        Raises:
            StoreError: the store fails, or its tables belong to another release of MLflow, which are never migrated.
        """
        self.uri = uri
        self.remote = uri.startswith("http")
        revision = releases.schema(uri) or ""
        self.schema = "" if releases.is_known(revision) else revision
        self._retrying = Retrying(
            retry=retry_if_exception(self._may_come),
            stop=stop_after_delay(patience),
            wait=wait_fixed(1),
            reraise=True,
        )
        with failing(uri):
            if revision and revision != (own := _get_latest_schema_revision()):
                raise MlflowException(OTHER_SCHEMA.format(revision, mlflow.__version__, own))
            try:
                if self.remote and not urlsplit(uri).hostname:
                    raise ValueError("it names no host")
                self.mlflow = MlflowClient(uri)
            except ValueError as error:
                raise MlflowException(f"MLFLOW_TRACKING_URI: {error}") from error

    def ask(self, request: Callable[..., Any], *arguments: Any) -> Any:  # noqa: ANN401
        """Make a request.

        Raises:
            StoreError: it fails.
        """
        with failing(self.uri):
            return self._retrying(request, *arguments)

    def _may_come(self, error: BaseException) -> bool:
        return self.remote and isinstance(error, errors()) and not is_final(error)

    def experiment(self, name: str) -> Experiment | None:
        """Find an experiment by name, even if it was deleted."""
        found = self.ask(self.mlflow.get_experiment_by_name, name)
        if found is None:
            return None
        is_deleted = found.lifecycle_stage != "active"
        return Experiment(name, found.experiment_id, found.artifact_location, is_deleted, found.tags)

    def create_experiment(self, name: str) -> None:
        """Create an experiment; a server decides where its artifacts lie."""
        self.ask(self.mlflow.create_experiment, name, None if self.remote else artifact_root(), KIND)

    def tag_experiment(self, experiment_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of an experiment, one by one."""
        for key, value in tags.items():
            self.ask(self.mlflow.set_experiment_tag, experiment_id, key, value)

    def search(self, experiment_id: str, wanted: Filter, page: int = PAGE) -> Iterator[StoredRun]:
        """Find an experiment's runs, `page` at a time."""
        token = None
        while token != "":
            view = entities.ViewType.ACTIVE_ONLY
            arguments = [experiment_id], condition(wanted), view, page, order(wanted), token
            found = self.ask(self.mlflow.search_runs, *arguments)
            yield from map(plain, found)
            token = found.token or ""

    def with_fingerprints(self, experiment_id: str, fingerprints: Collection[str]) -> Iterable[StoredRun]:
        """Find the runs with any of the fingerprints: a few one by one, more by reading all runs."""
        role = {"role": "run"}
        if len(fingerprints) <= FEW:
            filters = [Filter(role | {"fingerprint": one}, earliest=True) for one in fingerprints]
            return [run for wanted in filters for run in self.search(experiment_id, wanted)]
        everything = self.search(experiment_id, Filter(role, earliest=True))
        return [run for run in everything if run.tags.get("fingerprint") in fingerprints]

    def run(self, run_id: str) -> StoredRun:
        """Read a run."""
        return plain(self.ask(self.mlflow.get_run, run_id))

    def histories(self, ids: Iterable[str], key: str) -> Mapping[str, list[Point]]:
        """Read all values of a metric of runs, one by one."""
        return {run_id: self._history(run_id, key) for run_id in ids}

    def _history(self, run_id: str, key: str) -> list[Point]:
        found = self.ask(self.mlflow.get_metric_history, run_id, key)
        return [Point(one.step, one.value, one.timestamp) for one in found]

    def create(self, experiment: Experiment, runs: Sequence[New]) -> list[StoredRun]:
        """Create runs one by one, and delete those that a repeated request created a second time."""
        made = self._each(partial(self._create, experiment.experiment_id), runs)
        if self.remote and made:
            attempt = Filter({"attempt": runs[0].tags["attempt"]})
            self._delete_all_but(self.search(experiment.experiment_id, attempt), {run.run_id for run in made})
        return made

    def _create(self, experiment_id: str, new: New) -> StoredRun:
        named = {stored_key(key): value for key, value in new.tags.items()}
        run = plain(self.ask(self.mlflow.create_run, experiment_id, new.begun, named, new.title))
        self._carry_out([Change(run.run_id, params=new.params, datasets=new.datasets)])
        return replace(run, params=new.params, datasets=tuple(new.datasets))

    def write(self, changes: Iterable[Change]) -> None:
        """Carry out changes, each run's in their order."""
        by_run: dict[str, list[Change]] = {}
        for change in changes:
            by_run.setdefault(change.run_id, []).append(change)
        self._each(self._carry_out, list(by_run.values()))

    def _each(self, work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        if not self.remote or len(items) < 2:
            return list(map(work, items))
        with ThreadPoolExecutor(AT_ONCE) as threads:
            return list(threads.map(work, items))

    def _carry_out(self, changes: Sequence[Change]) -> None:
        for change in changes:
            run_id, points = change.run_id, change.points
            if change.params:
                self._log(run_id, params=change.params)
            if change.datasets:
                self._log_datasets(run_id, change.datasets)
            for name, content in change.files.items():
                self.ask(upload, change.folder, name, content)
            while len(points) > POINTS:
                self._log(run_id, points[:POINTS])
                points = points[POINTS:]
            if points or change.tags:
                self._log(run_id, points, tags=change.tags)
            for key in change.dropped:
                self.ask(self.mlflow.delete_tag, run_id, key)
            if change.status and change.end is None:
                self.ask(self.mlflow.update_run, run_id, change.status)
            elif change.status:
                self.ask(self.mlflow.set_terminated, run_id, change.status, change.end)

    def _log(
        self,
        run_id: str,
        points: Sequence[tuple[str, Point]] = (),
        params: Mapping[str, str] = NOTHING,
        tags: Mapping[str, str] = NOTHING,
    ) -> None:
        # One request; MLflow stores all tags at once, last.
        metrics = [entities.Metric(key, point.value, point.at, point.step) for key, point in points]
        given = [entities.Param(key, value) for key, value in params.items()]
        named = [entities.RunTag(stored_key(key), value) for key, value in tags.items()]
        self.ask(self.mlflow.log_batch, run_id, metrics, given, named)

    def _log_datasets(self, run_id: str, datasets: Sequence[Dataset]) -> None:
        inputs = [
            entities.DatasetInput(
                entities.Dataset(one.name, one.digest, one.source_type, one.source, one.schema or None, one.profile),
                [entities.InputTag(key, value) for key, value in one.tags.items()],
            )
            for one in datasets
        ]
        self.ask(self.mlflow.log_inputs, run_id, inputs)

    def download(self, folder_uri: str, name: str, most: int | None) -> bytes:
        """Read an artifact that is not on this machine."""
        return download(self.ask, folder_uri, name, most)

    def settle(self, experiment_id: str, owner: Mapping[str, str], known: Collection[str]) -> None:
        """Delete the owner's runs that lost requests created late, and let SQLite estimate its tables' sizes."""
        count_rows(self.uri)
        if self.remote:
            running = self.search(experiment_id, Filter(status=RUNNING))  # few; older runs' tags have no prefix
            self._delete_all_but((run for run in running if owner.items() <= run.tags.items()), known)

    def _delete_all_but(self, found: Iterable[StoredRun], known: Collection[str]) -> None:
        for ghost in [run for run in found if run.run_id not in known]:
            self.ask(self.mlflow.delete_run, ghost.run_id)

    def served(self, name: str, alias: str) -> Version | None:
        """Leave it unknown: the registry itself answers as fast."""
        del name, alias
        return None

    def mlflow_version(self) -> str:
        """Return the version of the server's MLflow, or of MLflow here."""
        if not self.remote:
            return str(mlflow.__version__)
        with failing(self.uri):
            answer = self.ask(http_request, get_default_host_creds(self.uri), "/version", "GET")
            return str(answer.text) if answer.ok else ""

    def model(self, name: str) -> RegisteredModel | None:
        """Read a registered model; None if there is none of that name."""
        found = self.ask(self.mlflow.search_registered_models, f"name = '{name}'")
        if not found:
            return None
        return RegisteredModel({key: int(found[0].aliases[key]) for key in found[0].aliases}, found[0].tags)

    def version(self, name: str, number: int) -> Version:
        """Read a version of a registered model."""
        return plain_version(self.ask(self.mlflow.get_model_version, name, str(number)))

    def versions(self, name: str) -> Iterator[Version]:
        """Read the versions of a registered model, newest first."""
        token = None
        while token != "":
            arguments = f"name = '{name}'", 100, ["version_number DESC"], token
            found = self.ask(self.mlflow.search_model_versions, *arguments)
            yield from map(plain_version, found)
            token = found.token or ""

    def create_model(self, name: str, description: str) -> None:
        """Create a registered model, unless another process was faster."""
        try:
            self.ask(self.mlflow.create_registered_model, name, None, description)
        except StoreError:
            if self.model(name) is None:
                raise

    def create_logged(self, experiment: Experiment, run: StoredRun, name: str) -> Logged:
        """Create a run's logged model, without files yet.

        Raises:
            StoreError: its files would lie outside of the experiment's; a client would follow, with its password, to
                any host.
        """
        arguments = experiment.experiment_id, name, run.run_id, None, dict(run.params)
        made = self.ask(self.mlflow.create_logged_model, *arguments)
        # Left by a process that was killed, or by a request whose answer was lost, which the client repeats.
        own = f"source_run_id = '{run.run_id}'"
        for ghost in self.ask(self.mlflow.search_logged_models, [experiment.experiment_id], own):
            if ghost.status.value == "PENDING" and ghost.model_id != made.model_id:
                self.ask(self.mlflow.delete_logged_model, ghost.model_id)
        expected = append_to_uri_path(experiment.artifact_location, "models", made.model_id, "artifacts")
        if made.artifact_location != expected:
            raise StoreError(
                self.uri, f"it would keep a model at {made.artifact_location!a}, outside of its experiment"
            )
        return Logged(made.model_id, self._here(experiment, expected))

    def _here(self, experiment: Experiment, location: str) -> str:
        # MLflow stores an absolute path, which is another one where the repository has moved.
        folder = local_path(experiment.artifact_location)
        if self.remote or folder is None or folder.exists():
            return location
        return location.replace(experiment.artifact_location, (repository.root() / "mlartifacts").as_uri(), 1)

    def log_files(self, logged: Logged, run: StoredRun, folder: Path, parts: Mapping[str, Any]) -> None:
        """Store a logged model's files, made in an empty folder, and show it on its run's page; parts: see `save`."""
        with failing(self.uri):
            save(folder, logged.model_id, run.run_id, parts)
            self.ask(get_artifact_repository(logged.location).log_artifacts, str(folder))
        self.ask(self.mlflow.finalize_logged_model, logged.model_id, "READY")
        self.ask(self.mlflow.log_outputs, run.run_id, [entities.LoggedModelOutput(logged.model_id, step=0)])

    def log_metrics(self, logged: Logged, run: StoredRun, keys: Sequence[str]) -> None:
        """Show the last values of a run's metrics with its logged model; the run itself stays as it is."""
        points = []
        for key in keys:
            last = max(self._history(run.run_id, key), key=Point.rank)
            points.append(entities.Metric(key, last.value, last.at, last.step, logged.model_id))
        self.ask(self.mlflow.log_batch, run.run_id, points)

    def create_version(
        self, name: str, logged: Logged, run: StoredRun, tags: Mapping[str, str], description: str
    ) -> int:
        """Register a logged model as the next version; return its number."""
        # A location, as MLflow would look for a models:/ URI in the store that its environment names.
        create = partial(self.mlflow.create_model_version, model_id=logged.model_id)
        made = self.ask(create, name, logged.location, run.run_id, dict(tags), None, description)
        if self.remote:
            for ghost in self.versions(name):
                if ghost.source == logged.location and ghost.number != int(made.version):
                    self.ask(self.mlflow.delete_model_version, name, str(ghost.number))
        shown = json.dumps([{"name": name, "version": int(made.version)}])
        self.ask(self.mlflow.set_logged_model_tags, logged.model_id, {"mlflow.modelVersions": shown})
        return int(made.version)

    def set_alias(self, name: str, alias: str, number: int) -> None:
        """Give an alias to a version, and take it from any other."""
        self.ask(self.mlflow.set_registered_model_alias, name, alias, str(number))

    def tag_model(self, name: str, key: str, value: str) -> None:
        """Tag a registered model."""
        self.ask(self.mlflow.set_registered_model_tag, name, key, value)


def condition(wanted: Filter) -> str:
    """Write a filter in MLflow's language."""
    parts = [f"attributes.status = '{wanted.status}'"] if wanted.status else []
    parts += [f"attributes.run_id LIKE '{wanted.id_start}%'"] if wanted.id_start else []
    parts += [f"tags.fingerprint LIKE '{wanted.fingerprint_start}%'"] if wanted.fingerprint_start else []
    parts += [f"tags.`{stored_key(key)}` = '{value}'" for key, value in wanted.tags.items()]
    parts += [f"metrics.`{key}` > -1e308" for key in list(wanted.best)[:1]]
    return " and ".join(parts)


def order(wanted: Filter) -> list[str]:
    """Write a filter's order in MLflow's language."""
    metrics = [f"metrics.`{key}` {'DESC' if more else 'ASC'}" for key, more in wanted.best.items()]
    return [*metrics, f"attributes.start_time {'ASC' if wanted.earliest else 'DESC'}"]


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
    """Store an artifact. MLflow's own log_artifact would ask a server for the run each time."""
    if folder := local_path(folder_uri):
        write_file(folder, name, content)
        return
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / name
        path.write_bytes(content)
        get_artifact_repository(folder_uri).log_artifact(str(path))


def download(ask: Callable[..., Any], folder_uri: str, name: str, most: int | None) -> bytes:
    """Read an artifact of at most `most` bytes; `ask` makes a request.

    Raises:
        OSError: it is larger.
    """
    artifacts = ask(get_artifact_repository, folder_uri)
    if most is not None:
        sizes = {Path(one.path).name: one.file_size or 0 for one in ask(artifacts.list_artifacts)}
        if sizes.get(name, 0) > most:
            raise OSError(TOO_LARGE.format(most))
    with tempfile.TemporaryDirectory() as folder:
        return Path(ask(artifacts.download_artifacts, name, folder)).read_bytes()


def is_final(error: Exception) -> bool:
    """Tell whether a server would give the same answer again."""
    answered = isinstance(error, RestException) and error.error_code not in UNANSWERED
    return answered or isinstance(error, InvalidUrlException) or is_refusal(error)


def plain_version(found: entities.model_registry.ModelVersion) -> Version:
    """Convert one of MLflow's versions to plain values."""
    return Version(int(found.version), found.run_id or "", found.tags, found.source)


def save(folder: Path, model_id: str, run_id: str, parts: Mapping[str, Any]) -> None:
    """Write a model in MLflow's format: plain files, none pickled; `parts` are arguments of MLflow's `save_model`."""
    # Here, as a champion seldom changes.
    from mlflow.models import Model, ModelSignature  # noqa: PLC0415
    from mlflow.pyfunc import save_model  # noqa: PLC0415
    from mlflow.types import ColSpec, Schema  # noqa: PLC0415

    config = parts["model_config"]
    inputs = Schema([ColSpec("double", name) for name in config["features"]])
    signature = ModelSignature(inputs, Schema([ColSpec("float", config["target"])]))
    model = Model(model_id=model_id, model_uuid=model_id, run_id=run_id)
    save_model(folder, signature=signature, mlflow_model=model, **parts)
