"""Which version of a table's registered model is served, who chose it, and what it is made of."""

import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from conftest import copy_store, default_store, enter, run, search
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from pipeline.__main__ import main
from pipeline.config import params
from pipeline.errors import InputError
from pipeline.runs import outs, records
from pipeline.system.files import file_md5, read_csv
from pipeline.tracking import models
from pipeline.tracking.store.client import plain

NAME = "regression-scores"


@pytest.fixture
def uri(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A copy of a small repository's store, in this process; the models that a test makes are removed."""
    enter(small, monkeypatch)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", copied := copy_store(small, tmp_path / "mlflow.db"))
    before = set((small / "mlartifacts/models").iterdir())
    yield copied
    for folder in set((small / "mlartifacts/models").iterdir()) - before:
        shutil.rmtree(folder)


def versions(uri: str) -> list[ModelVersion]:
    return sorted(MlflowClient(uri).search_model_versions(f"name = '{NAME}'"), key=lambda one: int(one.version))


def champion(uri: str) -> ModelVersion:
    return MlflowClient(uri).get_model_version_by_alias(NAME, "champion")


def update(insist: bool = False) -> str:
    settings = params.load()
    return models.update(settings, records.read_evaluated(settings.variants), outs.champion(), insist)


def other_run(uri: str) -> str:
    """Find a run of the workspace's that is not the champion's."""
    runs = search(uri, f"tags.role = 'run' and tags.data_md5 = '{file_md5(outs.PREPARED)}'")
    return next(str(one.info.run_id) for one in runs if one.info.run_id != champion(uri).run_id)


def test_evaluate_registers_the_champion_s_best_run_and_an_experiment_nothing(small: Path, uri: str) -> None:
    [version] = versions(default_store(small))  # the queued experiment `other` has evaluated, too
    best = MlflowClient(uri).get_run(version.run_id)
    board = read_csv(small / outs.LEADERBOARD)
    assert plain(best).name.startswith(f"{board[0]['configuration']} seed=")
    told = {key: best.data.tags[key] for key in ("fingerprint", "data_md5", "source_md5", "weights_md5")}
    value = str(best.data.metrics["cv/mse"])
    told |= {"run_id": best.info.run_id, "configuration": plain(best).name, "metric": "cv/mse", "value": value}
    assert version.tags == told
    assert champion(default_store(small)).version == version.version
    [output] = best.outputs.model_outputs
    logged = MlflowClient(uri).get_logged_model(output.model_id)
    assert (logged.source_run_id, logged.status.value) == (best.info.run_id, "READY")
    assert {one.key: one.value for one in logged.metrics} == best.data.metrics
    assert version.source == logged.artifact_location
    assert Path(version.source.removeprefix("file://")).is_relative_to(small / "mlartifacts")


def test_registering_leaves_the_run_s_metrics_and_seals_as_they_were(uri: str) -> None:
    main(["doctor", "--deep"])  # exits with 1 if a seal does not fit
    assert len(MlflowClient(uri).get_metric_history(champion(uri).run_id, "cv/mse")) == 1


def test_an_unchanged_champion_makes_no_version(uri: str) -> None:
    assert update() == ""
    assert len(versions(uri)) == 1


def test_sync_registers_what_a_server_lacks_and_says_so_once(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    MlflowClient(uri).delete_registered_model(NAME)
    main(["sync"])
    assert f"{NAME}: version 1 is the champion" in capsys.readouterr().out
    main(["sync"])
    assert "version" not in capsys.readouterr().out


def test_what_a_person_promoted_stays_until_he_gives_the_choice_back(
    uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = other_run(uri)
    main(["promote", MlflowClient(uri).get_run(chosen).data.tags["fingerprint"][:8]])
    assert f"{NAME}: version 2 is the champion" in capsys.readouterr().out
    assert champion(uri).run_id == chosen
    assert "version 2 was promoted by hand and stays" in update()
    assert champion(uri).run_id == chosen
    main(["promote"])
    assert "version 1 is the champion" in capsys.readouterr().out
    assert update() == ""
    MlflowClient(uri).set_registered_model_alias(NAME, "champion", "2")  # on MLflow's pages
    assert "version 2 was promoted by hand and stays" in update()
    main(["promote", chosen])
    assert len(versions(uri)) == 2


def test_a_changed_champion_takes_the_alias_over(uri: str) -> None:
    settings = params.load()
    evaluated = records.read_evaluated(settings.variants)
    other = plain(MlflowClient(uri).get_run(other_run(uri))).name.rpartition(" seed=")[0]
    assert "version 2 is the champion" in models.update(settings, evaluated, other)
    assert champion(uri).tags["configuration"].startswith(other)


def test_a_version_whose_files_are_gone_is_made_again(uri: str) -> None:
    source = Path(champion(uri).source.removeprefix("file://"))
    source.rename(source.with_name("away"))
    try:
        assert "version 2 is the champion" in update()
    finally:
        source.with_name("away").rename(source)


def test_a_run_that_diverged_was_altered_or_is_unknown_is_refused(uri: str) -> None:
    client, run_id = MlflowClient(uri), other_run(uri)
    client.set_tag(run_id, "data_md5", "0" * 32)
    with pytest.raises(InputError, match="was altered after it ended"):
        models.promote(params.load(), run_id)
    client.set_tag(run_id, "diverged", "fold 1, epoch 3")
    with pytest.raises(InputError, match="diverged in fold 1, epoch 3"):
        models.promote(params.load(), run_id)
    for unknown in ("0" * 32, "0" * 8, "x", "../../x"):
        with pytest.raises(InputError, match=r"not found|starts so|is not a run id"):
            models.promote(params.load(), unknown)
    assert len(versions(uri)) == 1


def test_what_a_killed_process_left_is_removed_and_no_run_of_the_shell_s_is_touched(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, run_id = MlflowClient(uri), champion(uri).run_id
    experiment = client.get_run(run_id).info.experiment_id
    ghost = client.create_logged_model(experiment, NAME, run_id).model_id
    client.delete_registered_model(NAME)
    before = {one.info.run_id: one.data.to_dictionary() for one in search(uri, "")}
    monkeypatch.setenv("MLFLOW_RUN_ID", other_run_id := next(iter(before)))
    assert "version 1 is the champion" in update()
    assert os.environ["MLFLOW_RUN_ID"] == other_run_id
    assert {one.info.run_id: one.data.to_dictionary() for one in search(uri, "")} == before
    logged = client.search_logged_models([experiment], f"source_run_id = '{run_id}'")
    assert ghost not in {one.model_id for one in logged}
    assert {one.status.value for one in logged} == {"READY"}


def test_in_a_moved_repository_a_model_s_files_go_where_the_repository_is(
    uri: str, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = small.with_name("moved")
    small.rename(there)
    monkeypatch.chdir(there)
    try:
        assert "version 2 is the champion" in update()  # the first one's files are no longer where MLflow looks
        source = Path(champion(uri).source.removeprefix("file://"))
        assert source.is_relative_to(there / "mlartifacts/models")
        assert mlflow.pyfunc.load_model(str(source))
        assert not small.exists()
    finally:
        there.rename(small)


def test_a_registry_that_fails_costs_a_warning(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as table:
        table.execute("DROP TABLE registered_model_aliases")
    assert update() == ""
    assert capsys.readouterr().err.startswith("WARNING: the champion is not registered: MLflow's store ")


def test_nothing_of_a_model_is_pickled_and_it_carries_all_that_it_runs(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    source = Path(champion(uri).source.removeprefix("file://"))
    names = {path.name for path in source.rglob("*") if path.is_file()}
    assert not {name for name in names if name.endswith((".pkl", ".pickle", ".pt", ".pth"))}
    code = "import sys, mlflow, pipeline; mlflow.pyfunc.load_model(sys.argv[1]); print(pipeline.__file__)"
    elsewhere = code.replace("mlflow, pipeline;", "mlflow;").replace("print(", "import pipeline; print(")
    said = run(
        "python", "-c", elsewhere, str(source), cwd=source, extra={"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    )
    assert Path(said.stdout.strip()) == source / "code/pipeline/__init__.py"
    loaded = mlflow.pyfunc.load_model(str(source))
    settings = params.load()
    table = pd.read_csv(settings.data.source).astype(float)  # MLflow takes no whole numbers for doubles here
    own = models.predictor(settings.track.experiment, champion(uri).run_id)
    y_pred = loaded.predict(table)  # the target is another column
    assert list(y_pred.columns) == [settings.data.target]
    expected = own.predict(table[settings.data.features].to_numpy(np.float64))
    assert y_pred.to_numpy().tobytes() == expected.tobytes()
    assert [one.name for one in loaded.metadata.signature.inputs] == settings.data.features
    assert "torch" not in (source / "requirements.txt").read_text()
