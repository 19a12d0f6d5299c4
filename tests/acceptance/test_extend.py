"""A metric, an optimizer and an axis of one's own, added in a clone as docs/architecture.md says, and swept."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import default_store, run, search, shorten
from numpy.typing import NDArray
from safetensors.numpy import load_file

Float64 = NDArray[np.float64]
Step = Callable[[Float64], Float64]  # gradient -> what is subtracted from the weights
LR = 1e-6
FULL = ("-S", "sweep.batch_size=[full]", "-S", f"sweep.lr=[{LR}]", "-S", "variants=[matrix]")


def extended(folder: Path, heading: str) -> Path:
    """Apply the code blocks of a section of docs/architecture.md in a clone with short runs, and commit."""
    section = (folder / "docs/architecture.md").read_text(encoding="utf-8").partition(f"## {heading}\n")[2]
    [diff] = re.findall(r"```diff\n(.*?)```", section.partition("\n## ")[0], re.DOTALL)
    (folder / "own.diff").write_text(diff, encoding="utf-8")
    run("git", "apply", "own.diff", cwd=folder)
    (folder / "own.diff").unlink()
    run("ruff", "check", "pipeline", cwd=folder)
    run("ruff", "format", "--check", "pipeline", cwd=folder)
    return shorten(folder)


def swept(folder: Path, *settings: str) -> dict[str, dict[str, str]]:
    """Run an experiment in the workspace; return the leaderboard's lines by configuration."""
    run("dvc", "exp", "run", *settings, cwd=folder)
    with (folder / "leaderboard.csv").open(encoding="utf-8") as file:
        return {line["configuration"]: line for line in csv.DictReader(file)}


def listed(folder: Path, *command: str) -> list[dict[str, object]]:
    """Return what a command of the clone's own pipeline prints as JSON."""
    found: list[dict[str, object]] = json.loads(run("python", "-m", "pipeline", *command, "--json", cwd=folder).stdout)
    return found


def trained(folder: Path) -> dict[str, Float64]:
    """Return each run's weights on all training rows, W and then b (k + 1,), by its name."""
    outs = folder / "data/trained/matrix"
    tensors = load_file(outs / "weights.safetensors")
    with (outs / "runs.csv").open(encoding="utf-8") as file:
        names = [row["name"] for row in csv.DictReader(file)]
    weights = np.concatenate([tensors["W"][:, 0, :, 0], tensors["b"][:, 0]], axis=1).astype(np.float64)
    return dict(zip(names, weights, strict=True))


def descended(folder: Path, epochs: int, step: Step) -> Float64:
    """Descend from zeros on all rows, in float64."""
    table = load_file(folder / "data/prepared/tensors.safetensors")
    x = np.hstack([table["X"].astype(np.float64), np.ones((len(table["X"]), 1))])
    y, w = table["y"].astype(np.float64)[:, 0], np.zeros(x.shape[1])
    for _ in range(epochs):
        w = w - LR * step(2 / len(y) * x.T @ (x @ w - y))
    return w


def test_a_metric_is_everywhere_from_its_entry_alone(clone: Path) -> None:
    key, folder = "cv/max_error", extended(clone, "Add a metric")
    refused = run("dvc", "exp", "run", "--temp", "-S", "evaluate.metric=cv/most", cwd=folder, check=False)
    assert refused.returncode != 0
    assert (
        "takes one of cv/mse, cv/mae, cv/r2, train/mse, excess_mse, cv/max_error\n" in refused.stdout + refused.stderr
    )
    board = swept(folder, "-S", f"evaluate.metric={key}", "-S", "train.nested=true")

    table, tensors = (
        load_file(folder / f"data/{name}.safetensors") for name in ("prepared/tensors", "trained/matrix/weights")
    )
    tested = [(split, rows) for split, rows in enumerate(~table["train"]) if rows.any()]
    with (folder / "data/trained/matrix/runs.csv").open(encoding="utf-8") as file:
        names = [row["name"].partition(" seed=")[0] for row in csv.DictReader(file)]
    assert len(names) == 2
    for name, W, b in zip(names, tensors["W"].astype(float), tensors["b"].astype(float), strict=True):
        errors = [table["X"][rows] @ W[split] + b[split] - table["y"][rows] for split, rows in tested]
        expected = max(float(np.abs(own).max()) for own in errors)
        assert float(board[name][f"{key} mean"]) == pytest.approx(expected, rel=1e-8)
    ranked = [float(line[f"{key} mean"]) for line in board.values()]
    assert ranked == sorted(ranked)
    assert f"{key} se" not in next(iter(board.values()))

    summary = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert summary["champion"][key] == pytest.approx(ranked[0], rel=1e-8)
    assert summary["nested"]["nested/max_error"] > 0
    top = listed(folder, "top", "--by", key)
    assert [row[key] for row in top] == pytest.approx(ranked, rel=1e-8)
    stored = search(default_store(folder))
    assert sorted(one.data.metrics[key] for one in stored) == pytest.approx(ranked, rel=1e-8)
    answer = run("python", "-m", "pipeline", "reproduce", "--allow-patch", stored[0].info.run_id, cwd=folder).stdout
    assert answer.strip() == f"{stored[0].info.run_id}: identical"


def test_an_optimizer_of_three_lines_trains(clone: Path) -> None:
    folder = extended(clone, "Add an optimizer")
    board = swept(folder, *FULL, "-S", "sweep.optimizer=[sgd,sign]")
    assert {line["optimizer"] for line in board.values()} == {"sgd", "sign"}
    found = trained(folder)
    assert len(found) == 2
    for name, weights in found.items():
        step: Step = np.sign if "optimizer=sign" in name else lambda gradient: gradient
        np.testing.assert_allclose(weights, descended(folder, 20, step), rtol=1e-4)


def test_momentum_becomes_an_axis(clone: Path) -> None:
    folder = extended(clone, "Add an axis")
    refused = run("dvc", "exp", "run", "--temp", "-S", "sweep.momentum=[1.0]", cwd=folder, check=False)
    assert "sweep.momentum[0]: got 1.0, takes a list of numbers between 0 and 1" in refused.stdout + refused.stderr
    settings = ("-S", "train.optimizer=momentum", "-S", "sweep.momentum=[0.5,0.9]", "-S", "sweep.lr=[1e-6,2e-6]")
    board = swept(folder, *FULL, *settings)
    assert {(float(line["lr"]), float(line["momentum"])) for line in board.values()} == {
        (lr, momentum) for lr in (1e-6, 2e-6) for momentum in (0.5, 0.9)
    }
    found = trained(folder)
    for name, momentum in ((" momentum=0.5", 0.5), ("", 0.9)):
        velocity = np.zeros(4)

        def step(gradient: Float64, momentum: float = momentum, velocity: Float64 = velocity) -> Float64:
            velocity[:] = momentum * velocity + gradient
            return velocity

        own = found[f"matrix bs=full lr=1e-06 optimizer=momentum{name} epochs=20 seed=1"]
        np.testing.assert_allclose(own, descended(folder, 20, step), rtol=1e-4)
    assert {row["axis"] for row in listed(folder, "importance")} == {"lr", "momentum"}
    assert {row["momentum"] for row in listed(folder, "top", "--group", "momentum")} == {0.5, 0.9}
    params = {one.data.params["momentum"] for one in search(default_store(folder))}
    assert params == {"0.5", "0.9"}
