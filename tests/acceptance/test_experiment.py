"""Experiments as DVC runs them, in the workspace and beside it, and stages that run again."""

import re
from collections import Counter
from pathlib import Path

import pytest
from conftest import default_store, run, search, shorten
from mlflow import MlflowClient
from safetensors.numpy import load_file
from test_params_file import changed
from test_pipeline import QUICK, curve, stored, tree

from pipeline.tracking.store.client import plain


def test_only_the_lines_of_its_values_change(clone: Path) -> None:
    shorten(clone)
    before = (clone / "params.yaml").read_text(encoding="utf-8")
    run("dvc", "exp", "run", "-S", "variants=[linear]", "-S", "sweep.lr=[2e-6]", "-S", "train.epochs=21", cwd=clone)
    after = (clone / "params.yaml").read_text(encoding="utf-8")
    assert changed(before, after) == ["-- matrix", "-  epochs: 20", "+  epochs: 21", "-  - 1e-5", "+  - 2e-06"]


def test_a_temporary_experiment_lands_in_the_repositorys_store(clone: Path) -> None:
    settings = {
        "data.source": "data/raw/line.csv",
        "data.features": "[x]",
        "data.target": "y",
        "data.split.folds": "3",
        "train.init": "default",
        "train.epochs": "2000",
        "sweep.lr": "[0.01]",
        "sweep.seed": "[1]",
        "sweep.batch_size": "[full]",
        "variants": "[linear]",
    }
    options = [part for key, value in settings.items() for part in ("-S", f"{key}={value}")]
    run("dvc", "exp", "run", "--temp", "--name", "line", *options, cwd=clone)
    assert not (clone / "data/trained").exists()
    children = {one.data.params["variant"]: one for one in stored(clone)}
    assert set(children) == {"linear"}
    tags = children["linear"].data.tags
    assert (tags["dvc_experiment"], tags["git_dirty"]) == ("line", "false")
    assert tags["dvc_baseline"] == run("git", "rev-parse", "HEAD", cwd=clone).stdout.strip()
    weights = load_file(Path(children["linear"].info.artifact_uri.removeprefix("file://")) / "weights.safetensors")
    assert weights["W"][0].item() == pytest.approx(1.999366, rel=1e-5)
    assert weights["b"][0].item() == pytest.approx(0.001442, rel=1e-3)
    assert children["linear"].data.metrics["train/mse"] == pytest.approx(2.9956e-07, rel=2e-2)
    assert tree(clone) == ""


def test_editing_one_variant_reruns_that_one_and_repeating_stores_nothing_twice(clone: Path) -> None:
    run("dvc", "exp", "run", *QUICK, cwd=clone)
    before = {one.info.run_id: one.data.metrics for one in stored(clone)}
    assert len(before) == 8
    repeated = run("dvc", "repro", "--force", cwd=clone, extra={"PIPELINE_RETRAIN": "1"}).stdout
    assert repeated.count("Running stage") == 4
    assert {one.info.run_id: one.data.metrics for one in stored(clone)} == before
    assert {len(curve(clone, one)) for one in stored(clone)} == {20}
    with (clone / "pipeline/variants/linear.py").open("a") as file:
        file.write("# a comment\n")
    commented = run("dvc", "repro", cwd=clone).stdout
    assert re.findall("Running stage '(.*)'", commented) == [
        "train@linear"
    ]  # the same bytes: evaluate has nothing to do
    assert "4 runs known, none trained" in commented
    assert {one.info.run_id: one.data.metrics for one in stored(clone)} == before
    confirmed = Counter((one.data.params["variant"], one.data.tags["confirmed"]) for one in stored(clone))
    assert confirmed == {("matrix", "1"): 4, ("linear", "1"): 4}
    with (clone / "pipeline/variants/linear.py").open("a") as file:
        file.write("EDITED = True\n")
    edited = run("dvc", "repro", cwd=clone).stdout
    assert re.findall("Running stage '(.*)'", edited) == ["train@linear", "evaluate"]
    assert len(stored(clone)) == 12
    assert {one.info.status for one in stored(clone) + stored(clone, "sweep")} == {"FINISHED"}
    new = [one for one in stored(clone) if one.info.run_id not in before]
    assert {(one.data.params["variant"], one.data.tags["git_dirty"]) for one in new} == {("linear", "true")}


def test_a_value_added_to_an_axis_trains_the_new_runs_alone(clone: Path) -> None:
    shorten(clone)
    run("dvc", "repro", cwd=clone)
    first = stored(clone)
    # In a copy of the workspace, whose dvc.lock and cache are the repository's.
    wider = run("dvc", "exp", "run", "--temp", "--name", "wider", "-S", "sweep.seed=[1,2]", cwd=clone).stdout
    assert wider.count("2 runs trained") == wider.count(", 2 known") == 2
    # Of an experiment that this baseline's dvc.lock does not name.
    widest = run("dvc", "exp", "run", "--temp", "--name", "widest", "-S", "sweep.seed=[1,2,3]", cwd=clone).stdout
    assert widest.count("2 runs trained") == widest.count(", 4 known") == 2
    assert len(stored(clone)) == len(first) + 8
    assert not [one for one in stored(clone) if "confirmed" in one.data.tags]
    settings = ("-S", "sweep.seed=[1,2,3]", "--name", "again", "--force")
    run("dvc", "exp", "run", "--temp", *settings, cwd=clone, extra={"PIPELINE_RETRAIN": "1"})
    refs = run("git", "for-each-ref", "--format=%(refname)", "refs/exps", cwd=clone).stdout.split()
    own = [ref for name in ("widest", "again") for ref in refs if ref.endswith(f"/{name}")]
    mixed, trained = (run("git", "show", f"{ref}:dvc.lock", cwd=clone).stdout for ref in own)
    assert mixed == trained


def test_runs_that_diverge_fail_alone(default_run: Path, tmp_path: Path) -> None:
    store = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}"}
    run(
        "dvc",
        "exp",
        "run",
        "--temp",
        "-S",
        "sweep.lr=[1e-5,1e-2]",
        "-S",
        "variants=[matrix]",
        cwd=default_run,
        extra=store,
    )
    undisturbed = {plain(one).name: one for one in stored(default_run)}
    runs = stored(tmp_path)
    assert len(runs) == 24
    for one in runs:
        if one.data.params["lr"] == "0.01":
            assert one.info.status == "FAILED"
            assert "epoch" in one.data.tags["diverged"]
            assert set(one.data.metrics) <= {"train/mse"}
            assert all(abs(value) < 1e38 for value in curve(tmp_path, one).values())
        else:
            assert one.info.status == "FINISHED"
            assert one.data.metrics == undisturbed[plain(one).name].data.metrics
            assert curve(tmp_path, one) == curve(default_run, undisturbed[plain(one).name])
    shown = run("pipeline", "top", "--all", "-n", "96", cwd=default_run, extra=store).stdout
    assert "lr=0.01" not in shown
    assert len(shown.splitlines()) == 13


def test_an_experiment_stores_in_the_repository_and_in_no_run_that_the_environment_names(small: Path) -> None:
    uri = f"sqlite:///{small / 'other.db'}"
    before = {one.info.run_id for one in search(default_store(small), "")}
    try:
        victim = MlflowClient(uri).create_run("0").info.run_id
        settings = ("-S", "variants=[matrix]", "-S", "sweep.batch_size=[full]", "-S", "sweep.lr=[3e-6]")
        extra = {"MLFLOW_TRACKING_URI": "sqlite:///other.db", "MLFLOW_RUN_ID": victim}
        run("dvc", "exp", "run", "--temp", "--name", "relative", *settings, cwd=small, extra=extra)
        [stored] = search(uri)
        assert (stored.info.status, stored.data.params["lr"]) == ("FINISHED", "3e-06")
        hijacked = MlflowClient(uri).get_run(victim)
        assert (hijacked.info.status, hijacked.data.metrics, hijacked.data.params) == ("RUNNING", {}, {})
        assert {one.info.run_id for one in search(default_store(small), "")} == before
    finally:
        for path in small.glob("other.db*"):
            path.unlink()
