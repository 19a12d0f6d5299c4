"""`pipeline show`: a run's formula, figures, curve and origin."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import default_store, enter, environment, run, search
from safetensors.numpy import load_file
from torch import Tensor, nn

from pipeline.__main__ import main
from pipeline.commands import show
from pipeline.config import params
from pipeline.errors import InputError
from pipeline.runs import outs, records
from pipeline.runs.records import Record
from pipeline.training import parameters

BARE = show.Shown("", "", {}, {}, "", {}, None, {}, {}, {})


def shown(capsys: pytest.CaptureFixture[str], *named: str) -> str:
    main(["show", *named])
    return capsys.readouterr().out


def best() -> Record:
    evaluated = records.read_evaluated(params.load().variants)
    return min(evaluated, key=lambda one: one.metrics["cv/mse"])


def test_the_champion_is_shown_without_mlflow_and_torch(small: Path) -> None:
    code = (
        "import sys; from pipeline.__main__ import main; main(['show'])\n"
        "print(sorted({'mlflow', 'torch', 'pandas', 'dvc'} & sys.modules.keys()))"
    )
    command = [sys.executable, "-c", code]
    said = subprocess.run(command, cwd=small, env=environment(), capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[0] == "matrix bs=full lr=1e-05 epochs=20 seed=1: trained"
    assert said.splitlines()[-1] == "[]"


def test_the_formula_predicts_what_the_metrics_were_computed_from(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    enter(small, monkeypatch)
    told = json.loads(shown(capsys, "--json"))
    weights, bias = np.array(list(told["weights"].values())), told["bias"]
    assert list(told["weights"]) == ["quiz1", "quiz2", "quiz3"]
    rows = load_file(outs.PREPARED)
    error = rows["X"] @ weights + bias - rows["y"][:, 0]
    fit = np.linalg.lstsq(np.hstack([rows["X"], np.ones_like(rows["y"])]), rows["y"][:, 0])[0]
    least = np.mean((np.hstack([rows["X"], np.ones_like(rows["y"])]) @ fit - rows["y"][:, 0]) ** 2)
    assert np.mean(error**2) - least == pytest.approx(told["metrics"]["excess_mse"], rel=1e-5)
    written = shown(capsys).splitlines()[2]
    signs = {"=": 1, "+": 1, "−": -1}
    numbers = [signs[sign] * float(digits) for sign, digits in re.findall(r"([=+−]) ([\d.e-]+)", written)]
    assert written.startswith("final = ")
    assert numbers == pytest.approx([*weights, bias], rel=1e-3)


def test_weights_are_in_the_tables_units_also_if_features_were_standardized() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(50, [3, 20], size=(30, 2))
    mean, scale = X.mean(axis=0), X.std(axis=0)
    W, b = np.array([[2.0], [-7.0]]), np.array([4.0])
    tensors = {
        name: value[None].astype(np.float32) for name, value in {"W": W, "b": b, "mean": mean, "scale": scale}.items()
    }
    about = show.with_weights(BARE, tensors, {"features": ["a", "b"], "target": "y"})
    assert about.bias is not None
    y = X @ np.array(list(about.weights.values())) + about.bias
    assert y == pytest.approx(((X - mean) / scale @ W + b)[:, 0], rel=1e-5)
    assert re.fullmatch(r"y = [\d.]+·a − [\d.]+·b [+−] [\d.]+", show.formula(about))


def test_a_model_with_parameters_called_w_and_b_that_is_not_linear_gets_no_formula(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Exponential(nn.Module):
        def __init__(self, k: int) -> None:
            super().__init__()
            self.W, self.b = nn.Parameter(torch.ones(k, 1)), nn.Parameter(torch.ones(1))

        def forward(self, X: Tensor) -> Tensor:
            return (X @ self.W + self.b).exp()

    def shown_of(variant: str) -> show.Shown:
        named = parameters.named(torch.tensor([[0.5, 0.1]]), parameters.shapes(variant, 1))
        given = {name: tensor.numpy() for name, tensor in named.items()}
        given |= {"mean": np.zeros((1, 1), np.float32), "scale": np.ones((1, 1), np.float32)}
        return show.with_weights(BARE, given, {"features": ["x"], "target": "y"})

    monkeypatch.setitem(sys.modules, "pipeline.variants.exponential", SimpleNamespace(Model=Exponential))
    assert shown_of("matrix").weights == {"x": 0.5}
    told = shown_of("exponential")
    assert (told.weights, list(told.shapes.values())) == ({}, [(1, 1), (1,)])


def test_a_run_is_the_same_whether_named_by_id_fingerprint_or_prefix(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    enter(small, monkeypatch)
    fingerprint = best().run.fingerprint
    [one] = [one for one in search(default_store(small)) if one.data.tags["fingerprint"] == fingerprint]
    here = json.loads(shown(capsys, fingerprint, "--json"))
    assert json.loads(shown(capsys, fingerprint[:8], "--json")) == here
    stored = json.loads(shown(capsys, one.info.run_id[:8], "--json"))
    assert stored["origin"]["from"] == f"MLflow run {one.info.run_id} (sealed)"
    assert stored["origin"]["fingerprint"] == fingerprint
    assert one.info.run_id in stored["origin"]["page"]
    for same in ("weights", "bias", "metrics", "curve", "name"):
        assert stored[same] == here[same]


@pytest.mark.parametrize("named", ["1234", "xyz", "0" * 8, "0" * 32])
def test_what_names_no_run_is_refused(small: Path, monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    enter(small, monkeypatch)
    with pytest.raises(InputError, match=named):
        main(["show", named])


def test_a_run_of_another_experiment_is_read_from_its_record(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    enter(small, monkeypatch)
    other = next(one for one in search(default_store(small)) if one.data.tags.get("dvc_experiment") == "other")
    told = shown(capsys, other.data.tags["fingerprint"])
    assert re.search(r"^DVC experiment +other$", told, re.MULTILINE)
    assert f"pipeline reproduce {other.data.tags['fingerprint']}" in told


def test_reproduce_takes_a_prefix_of_a_fingerprint(small: Path) -> None:
    fingerprint = search(default_store(small))[0].data.tags["fingerprint"]
    said = run("pipeline", "reproduce", fingerprint[:8], cwd=small / "data").stdout
    assert re.fullmatch(r"[0-9a-f]{32}: identical\n", said)


def test_a_curve_is_drawn_from_its_highest_to_its_lowest_loss() -> None:
    curve = {epoch: 1000 * 10 ** (-epoch / 100) for epoch in range(301)}
    lines = show.plot(curve, 60)
    assert all(len(line) <= 60 for line in lines)
    assert (lines[0].split()[0], lines[-2].split()[0]) == ("1000", "1")
    heights = [
        sum(" ▁▂▃▄▅▆▇█".index(line[column]) for line in lines[:-1] if column < len(line)) for column in range(5, 60)
    ]
    assert heights == sorted(heights, reverse=True)
    assert heights[len(heights) // 2] == pytest.approx(32, abs=2)  # a straight line on a logarithmic scale
    assert lines[-1].split() == ["epoch", "0", "300"]
    assert show.plot({0: 5.0}, 40)  # a single epoch
    assert show.plot({0: 0.0, 1: 0.0}, 40)  # nothing to take a logarithm of
