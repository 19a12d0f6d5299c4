"""A sweep of the axes of training through DVC's -S: what people then ask of it, other engines, and a kill."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import copy_checkout, default_store, run
from safetensors.numpy import load_file
from test_pipeline import stored
from test_recovery import start_training

AXES = ("optimizer", "schedule", "loss")
SETTINGS = (
    *("-S", "sweep.optimizer=[sgd,adam,nesterov]", "-S", "sweep.schedule=[constant,cosine]"),
    *("-S", "sweep.loss=[mse,huber]", "-S", "sweep.batch_size=[2]", "-S", "variants=[matrix,linear]"),
    *("-S", "train.epochs=30", "-S", "train.stop.patience=5"),
)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository after the experiment, which is in its workspace."""
    folder = copy_checkout(tmp_path_factory.mktemp("axes"))
    run("dvc", "exp", "run", "--name", "axes", *SETTINGS, cwd=folder)
    return folder


def listed(folder: Path, *command: str) -> Any:  # noqa: ANN401 - JSON
    return json.loads(run("pipeline", *command, "--json", cwd=folder).stdout)


def test_every_combination_is_a_run_whose_name_says_what_sets_it_apart(swept: Path) -> None:
    runs = stored(swept)
    assert len({one.data.tags["fingerprint"] for one in runs}) == len(runs) == 2 * 3 * 2 * 2 * 3
    shown = {row["run"] for row in listed(swept, "runs")}
    assert len(shown) == len(runs)
    assert "matrix bs=2 lr=1e-05 epochs=30 seed=1" in shown
    assert "linear bs=2 lr=1e-05 optimizer=adam schedule=cosine loss=huber epochs=30 seed=3" in shown
    assert {tuple(one.data.params[axis] for axis in AXES) for one in runs} == {
        (optimizer, schedule, loss)
        for optimizer in ("sgd", "adam", "nesterov")
        for schedule in ("constant", "cosine")
        for loss in ("mse", "huber")
    }
    settings = {one.data.params["optimizer"]: one.data.params.keys() & {"momentum", "beta1", "eps"} for one in runs}
    assert settings == {"sgd": set(), "nesterov": {"momentum"}, "adam": {"beta1", "eps"}}


def test_its_leaderboard_groups_importance_and_plan_know_the_axes(swept: Path) -> None:
    board = listed(swept, "leaderboard")
    assert len(board) == 24
    assert all(row.keys() >= {*AXES, "epochs", "cv/mse se"} for row in board)
    assert [row["cv/mse mean"] for row in board] == sorted(row["cv/mse mean"] for row in board)
    groups = {row["optimizer"]: row for row in listed(swept, "top", "--group", "optimizer")}
    for optimizer in ("sgd", "adam", "nesterov"):
        own = [row["cv/mse mean"] for row in board if row["optimizer"] == optimizer]
        assert groups[optimizer]["runs"] == 24
        assert groups[optimizer]["cv/mse mean"] == pytest.approx(sum(own) / len(own))
    assert {row["axis"] for row in listed(swept, "importance")} == {"variant", "seed", *AXES}
    assert run("pipeline", "plan", cwd=swept).stdout.endswith("to train  nothing\n")
    pairs = listed(swept, "compare", "workspace", "workspace")
    assert len(pairs) == 24
    assert {row["difference"] for row in pairs} == {0.0}


def test_runs_of_adam_and_nesterov_are_made_again_with_the_same_bits(swept: Path) -> None:
    condition = "and params.seed = '2' and params.optimizer != 'sgd'"  # plain descent is made again elsewhere
    chosen = {one.data.params["optimizer"]: one.info.run_id for one in stored(swept, condition=condition)}
    assert len(chosen) == 2
    told = run("pipeline", "reproduce", *chosen.values(), cwd=swept).stdout
    assert [line for line in told.splitlines() if line.endswith(": identical")] == [
        f"{run_id}: identical" for run_id in chosen.values()
    ]
    shown = run("pipeline", "show", chosen["adam"], cwd=swept).stdout
    assert all(f"\n{setting}" in shown for setting in ("beta1 ", "beta2 ", "eps "))


def outs(folder: Path) -> dict[str, bytes]:
    """Take the outs away."""
    found = {path.name: path.read_bytes() for path in (folder / "data/trained/matrix").iterdir()}
    shutil.rmtree(folder / "data/trained/matrix")
    return found


def train(folder: Path, **extra: str) -> dict[str, bytes]:
    run("python", "-m", "pipeline.train", "matrix", cwd=folder, extra=extra)
    return outs(folder)


def test_other_engines_and_a_killed_adam_that_resumes_make_the_same_bytes(swept: Path, tmp_path: Path) -> None:
    own = outs(swept)
    assert train(swept, PIPELINE_ENGINE="here") == own
    assert train(swept, PIPELINE_ENGINE="workers", PIPELINE_WORKERS="3") == own

    params, checkpoints = swept / "params.yaml", swept / ".dvc/tmp/checkpoints"
    text = params.read_text(encoding="utf-8")
    longer = {"epochs: 30\n": "epochs: 1500\n", "patience: 5\n": "patience: 1000\n"}
    fewer = {"  - sgd\n  - adam\n  - nesterov\n": "  - adam\n", "  - mse\n  - huber\n": "  - huber\n"}
    for old, new in (longer | fewer).items():
        assert old in params.read_text(encoding="utf-8")
        params.write_text(params.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    undisturbed = train(swept, PIPELINE_ENGINE="here")
    shutil.copy(swept / "mlflow.db", tmp_path)
    process = start_training(swept, tmp_path, "from pipeline.execution import checkpoints\ncheckpoints.SECONDS = 0.1")
    while process.poll() is None and not list(checkpoints.glob("[!.]*")):
        time.sleep(0.01)
    assert process.poll() is None, "it ended before it was killed"
    process.kill()
    process.wait()
    saved = load_file(next(checkpoints.glob("[!.]*")))
    assert {"optimizer 0", "optimizer 3"} <= saved.keys()  # two moments of W and b
    assert 0 < int(saved["epoch"]) < 1500
    assert train(swept, MLFLOW_TRACKING_URI=default_store(tmp_path)) == undisturbed
    assert list(checkpoints.iterdir()) == []
    params.write_text(text, encoding="utf-8")
