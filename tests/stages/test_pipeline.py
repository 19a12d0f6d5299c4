"""The whole pipeline, run as a user runs it."""

import csv
import json
import re
from pathlib import Path

import pytest
from conftest import REPOSITORY, run
from mlflow import MlflowClient
from mlflow.entities import Run
from safetensors.numpy import load_file

from pipeline.evaluation.plots import drawing
from pipeline.system import kernels
from pipeline.tracking.store.client import plain

METRICS = {"train/mse", "cv/mse", "cv/mae", "cv/r2", "excess_mse", "grad_error"}
QUICK = ("-S", "train.epochs=20", "-S", "sweep.seed=[1]", "-S", "variants=[matrix,linear]")


def stored(repository: Path, role: str = "run", condition: str = "") -> list[Run]:
    client = MlflowClient(f"sqlite:///{repository / 'mlflow.db'}")
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    runs: list[Run] = client.search_runs(ids, f"tags.role = '{role}' {condition}", max_results=5000)
    return runs


def curve(repository: Path, one: Run) -> dict[int, float]:
    client = MlflowClient(f"sqlite:///{repository / 'mlflow.db'}")
    return {point.step: point.value for point in client.get_metric_history(one.info.run_id, "train/mse")}


def tree(repository: Path) -> str:
    return run("git", "status", "--porcelain", cwd=repository).stdout


@pytest.mark.skipif(kernels.KERNELS != "avx2", reason="dvc.lock is that of x86-64 with AVX2")
def test_a_fresh_clone_reproduces_dvc_lock(default_run: Path) -> None:
    assert tree(default_run) == ""
    assert (default_run / "dvc.lock").read_bytes() == (REPOSITORY / "dvc.lock").read_bytes()


def test_a_second_repro_runs_nothing_and_changes_nothing(default_run: Path) -> None:
    before = (default_run / "dvc.lock").read_bytes(), tree(default_run)
    again = run("dvc", "repro", cwd=default_run).stdout
    assert "Running stage" not in again
    assert ((default_run / "dvc.lock").read_bytes(), tree(default_run)) == before


def test_every_run_is_stored_whole_and_finished(default_run: Path) -> None:
    children, parents = stored(default_run), stored(default_run, "sweep")
    assert (len(children), len(parents)) == (48, 1)
    assert {one.info.status for one in children + parents} == {"FINISHED"}
    assert len({one.data.tags["fingerprint"] for one in children}) == 48
    commit = run("git", "rev-parse", "HEAD", cwd=default_run).stdout.strip()
    lock = (default_run / "dvc.lock").read_text()
    for one in children:
        tags, params = one.data.tags, one.data.params
        assert tags["mlflow.parentRunId"] == parents[0].info.run_id
        assert (tags["git_commit"], tags["git_dirty"]) == (commit, "false")
        assert tags["dvc_stage"] == f"train@{params['variant']}"
        assert f"md5: {tags['data_md5']}" in lock
        assert f"md5: {tags['source_md5']}" in lock
        name = f"{params['variant']} bs={params['batch_size']} lr=1e-05 seed={params['seed']}"
        assert plain(one).name == name
        assert params["data.features"] == '["quiz1", "quiz2", "quiz3"]'
        assert set(one.data.metrics) == METRICS
        assert set(curve(default_run, one)) == {*range(0, 1000, 10), 999}
        weights = load_file(Path(one.info.artifact_uri.removeprefix("file://")) / "weights.safetensors")
        assert weights["W"].shape == (6, 3, 1)
    artifacts = Path(parents[0].info.artifact_uri.removeprefix("file://"))
    assert {"leaderboard.csv", "metrics.json", "params.yaml", "loss.png", "report.html"} <= {
        path.name for path in artifacts.iterdir()
    }


def test_full_batch_runs_have_the_posts_figures(default_run: Path) -> None:
    full = stored(default_run, condition="and params.batch_size = 'full'")
    assert {one.data.params["variant"] for one in full} == {"handwritten", "matrix", "linear", "module"}
    for one in full:
        points = curve(default_run, one)
        expected = {0: 29661.80, 100: 1.563628, 500: 1.319507, 900: 1.122429, 999: 1.079796}
        assert {step: points[step] for step in expected} == pytest.approx(expected, rel=1e-4)
        assert one.data.metrics["train/mse"] == points[999]
        weights = load_file(Path(one.info.artifact_uri.removeprefix("file://")) / "weights.safetensors")
        assert weights["W"][0].flatten() == pytest.approx([0.717880, 0.612586, 0.680132], rel=1e-4)
        assert weights["b"][0] == pytest.approx([0.009230], rel=1e-4)
        assert one.data.metrics["excess_mse"] == pytest.approx(1.079796 - 0.104326, rel=1e-3)
        assert one.data.metrics["grad_error"] < 1e-6


def test_dvc_shows_metrics_and_plots(default_run: Path) -> None:
    shown = json.loads(run("dvc", "metrics", "show", "--json", cwd=default_run).stdout)
    figures = shown[""]["data"]["metrics.json"]["data"]
    assert figures["runs"] == 48
    assert figures["champion"]["cv/mse"] == pytest.approx(
        min(float(row["cv/mse mean"]) for row in csv.DictReader((default_run / "leaderboard.csv").open()))
    )
    plots = json.loads(run("dvc", "plots", "show", "--json", "-o", "dvc_plots", cwd=default_run).stdout)["data"]
    assert set(plots) == {"loss", "cost", "lr", "heatmap", "path", "predicted"}
    empty = {name for name, shown in plots.items() if not any(one["content"] for one in shown)}
    assert empty == {"lr", "heatmap"}  # one learning rate
    content = plots["loss"][0]["content"]
    assert {(row["variant"], row["batch_size"]) for row in content["data"]["values"]} == {
        ("handwritten = matrix = linear = module", size) for size in ("1", "2", "4", "full")
    }
    assert len(plots["predicted"][0]["content"]["data"]["values"]) == 5
    for name in plots.keys() - empty:
        [one] = plots[name]
        drawn = (default_run / f"plots/{name}.svg").read_text(encoding="utf-8")
        assert drawing.on_white(drawing.compiled(one["content"])) == drawn
    images = {path.stem for path in (default_run / "plots").glob("*.png")}
    assert images == {path.stem for path in (default_run / "plots").glob("*.svg")}
    assert images == {"loss", "cost", "path", "predicted"}


def test_top_prints_the_best_runs_with_their_ids(default_run: Path) -> None:
    lines = run("pipeline", "top", "-n", "3", cwd=default_run).stdout.splitlines()
    assert len(lines) == 4
    best = min(stored(default_run), key=lambda one: float(one.data.metrics["cv/mse"]))
    assert f"{best.data.metrics['cv/mse']:.6g}" in lines[1]
    known = {one.info.run_id: plain(one).name for one in stored(default_run)}
    assert all(known[line.split()[-1]] in line for line in lines[1:])
    by_r2 = run("pipeline", "top", "-n", "1", "--by", "cv/r2", cwd=default_run).stdout.splitlines()[1]
    assert max(one.data.metrics["cv/r2"] for one in stored(default_run)) == pytest.approx(float(by_r2.split()[4]))
    wrong = run("pipeline", "top", "--by", "accuracy", cwd=default_run, check=False)
    assert wrong.returncode != 0
    assert "accuracy" in wrong.stderr


def test_make_help_names_every_target() -> None:
    targets = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert {"test", "acceptance", "chaos"} <= set(targets)
    assert re.findall(r"^\S+", run("make", "help", cwd=REPOSITORY).stdout, re.MULTILINE) == targets
