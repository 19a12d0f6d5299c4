"""MLflow's logged and registered models, in plain values.

Imports MLflow, as client.py does, which holds what every stage needs: a stage registers nothing unless its champion
changed.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pandas as pd
from mlflow import entities
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.uri import append_to_uri_path

from pipeline.system import repository
from pipeline.tracking.runs import Experiment, StoredRun
from pipeline.tracking.store.backend import Version
from pipeline.tracking.store.client import Client
from pipeline.tracking.store.location import WAIT_SECONDS, StoreError, failing, local_path


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


@dataclass(frozen=True)
class ModelParts:
    """What MLflow needs to load a model.

    script: the file that defines it. code: folders of modules that it imports. weights: a safetensors file. variant,
    features, target: what the script is told. example: rows of features. requirements: packages. metadata: for people.
    """

    script: Path
    code: Sequence[Path]
    weights: Path
    variant: str
    features: Sequence[str]
    target: str
    example: Sequence[Mapping[str, float]]
    requirements: Sequence[str]
    metadata: Mapping[str, str]


class Registry:
    """The registry that belongs to a tracking store."""

    def __init__(self, uri: str) -> None:
        """Wait for a server only as long as a command does: no run depends on it."""
        self.client = Client(uri, WAIT_SECONDS)

    def model(self, name: str) -> RegisteredModel | None:
        """Read a registered model; None if there is none of that name."""
        found = self.client.ask(self.client.mlflow.search_registered_models, f"name = '{name}'")
        return (
            RegisteredModel({key: int(found[0].aliases[key]) for key in found[0].aliases}, found[0].tags)
            if found
            else None
        )

    def version(self, name: str, number: int) -> Version:
        """Read a version of a registered model."""
        return plain_version(self.client.ask(self.client.mlflow.get_model_version, name, str(number)))

    def versions(self, name: str) -> Iterator[Version]:
        """Read the versions of a registered model, newest first."""
        token = None
        while token != "":
            arguments = f"name = '{name}'", 100, ["version_number DESC"], token
            found = self.client.ask(self.client.mlflow.search_model_versions, *arguments)
            yield from map(plain_version, found)
            token = found.token or ""

    def create_model(self, name: str, description: str) -> None:
        """Create a registered model, unless another process was faster."""
        try:
            self.client.ask(self.client.mlflow.create_registered_model, name, None, description)
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
        made = self.client.ask(self.client.mlflow.create_logged_model, *arguments)
        # Left by a process that was killed, or by a request whose answer was lost, which the client repeats.
        own = f"source_run_id = '{run.run_id}'"
        for ghost in self.client.ask(self.client.mlflow.search_logged_models, [experiment.experiment_id], own):
            if ghost.status.value == "PENDING" and ghost.model_id != made.model_id:
                self.client.ask(self.client.mlflow.delete_logged_model, ghost.model_id)
        expected = append_to_uri_path(experiment.artifact_location, "models", made.model_id, "artifacts")
        if made.artifact_location != expected:
            raise StoreError(
                self.client.uri, f"it would keep a model at {made.artifact_location!a}, outside of its experiment"
            )
        return Logged(made.model_id, self._here(experiment, expected))

    def _here(self, experiment: Experiment, location: str) -> str:
        # MLflow stores an absolute path, which is another one where the repository has moved.
        folder = local_path(experiment.artifact_location)
        if self.client.remote or folder is None or folder.exists():
            return location
        return location.replace(experiment.artifact_location, (repository.root() / "mlartifacts").as_uri(), 1)

    def log_files(self, logged: Logged, run: StoredRun, folder: Path, served: ModelParts) -> None:
        """Store a logged model's files, made in an empty folder, and show it on its run's page."""
        with failing(self.client.uri):
            save(folder, logged.model_id, run.run_id, served)
            self.client.ask(get_artifact_repository(logged.location).log_artifacts, str(folder))
        self.client.ask(self.client.mlflow.finalize_logged_model, logged.model_id, "READY")
        self.client.ask(
            self.client.mlflow.log_outputs, run.run_id, [entities.LoggedModelOutput(logged.model_id, step=0)]
        )

    def log_metrics(self, logged: Logged, run: StoredRun, keys: Sequence[str]) -> None:
        """Show the last values of a run's metrics with its logged model; the run itself stays as it is."""
        points = []
        for key in keys:
            history = self.client.ask(self.client.mlflow.get_metric_history, run.run_id, key)
            last = max(history, key=lambda one: (one.step, one.timestamp, one.value))
            points.append(entities.Metric(key, last.value, last.timestamp, last.step, logged.model_id))
        self.client.ask(self.client.mlflow.log_batch, run.run_id, points)

    def create_version(
        self, name: str, logged: Logged, run: StoredRun, tags: Mapping[str, str], description: str
    ) -> int:
        """Register a logged model as the next version; return its number."""
        # A location, as MLflow would look for a models:/ URI in the store that its environment names.
        create = partial(self.client.mlflow.create_model_version, model_id=logged.model_id)
        made = self.client.ask(create, name, logged.location, run.run_id, dict(tags), None, description)
        if self.client.remote:
            for ghost in self.versions(name):
                if ghost.source == logged.location and ghost.number != int(made.version):
                    self.client.ask(self.client.mlflow.delete_model_version, name, str(ghost.number))
        shown = json.dumps([{"name": name, "version": int(made.version)}])
        self.client.ask(self.client.mlflow.set_logged_model_tags, logged.model_id, {"mlflow.modelVersions": shown})
        return int(made.version)

    def set_alias(self, name: str, alias: str, number: int) -> None:
        """Give an alias to a version, and take it from any other."""
        self.client.ask(self.client.mlflow.set_registered_model_alias, name, alias, str(number))

    def tag_model(self, name: str, key: str, value: str) -> None:
        """Tag a registered model."""
        self.client.ask(self.client.mlflow.set_registered_model_tag, name, key, value)


def plain_version(found: entities.model_registry.ModelVersion) -> Version:
    """Convert one of MLflow's versions to plain values."""
    return Version(int(found.version), found.run_id or "", found.tags, found.source)


def save(folder: Path, model_id: str, run_id: str, served: ModelParts) -> None:
    """Write a model in MLflow's format: plain files, none pickled."""
    # Here, as a champion seldom changes.
    from mlflow.models import Model, ModelSignature  # noqa: PLC0415
    from mlflow.pyfunc import save_model  # noqa: PLC0415
    from mlflow.types import ColSpec, Schema  # noqa: PLC0415

    pins = [f"{name}=={version(name).partition('+')[0]}" for name in served.requirements]  # PyPI has no 2.13.0+cpu
    inputs = Schema([ColSpec("double", name) for name in served.features])
    save_model(
        folder,
        python_model=str(served.script),
        code_paths=[str(path) for path in served.code],
        artifacts={"weights": str(served.weights)},
        model_config={"variant": served.variant, "features": list(served.features), "target": served.target},
        signature=ModelSignature(inputs, Schema([ColSpec("float", served.target)])),
        input_example=pd.DataFrame(served.example, columns=list(served.features)) if served.example else None,
        pip_requirements=pins,
        metadata=dict(served.metadata),
        mlflow_model=Model(model_id=model_id, model_uuid=model_id, run_id=run_id),
    )
