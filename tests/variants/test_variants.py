"""The four ways to write the model: the same predictions and gradients; the files that a learner reads."""

import ast
import runpy
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import run
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from pipeline import variants
from pipeline.evaluation.predictions import is_linear
from pipeline.training import loop
from pipeline.training.parameters import shapes
from pipeline.variants import Model, make

LINEAR = [name for name in variants.names() if is_linear(shapes(name, 3))]
every_variant = pytest.mark.parametrize("name", variants.names())
every_model = pytest.mark.parametrize(("name", "k"), list(product(LINEAR, [1, 3, 7])))


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def example(k: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Return X (11, k), y (11, 1) and W and b in one vector, (k + 1,)."""
    return normal(11, k, seed=1, dtype=dtype), normal(11, 1, seed=2, dtype=dtype), normal(k + 1, seed=3, dtype=dtype)


def with_values(name: str, values: Tensor) -> Model:
    model = make(name, len(values) - 1)
    vector_to_parameters(values, model.parameters())
    return model


def test_the_four_variants_are_there_and_the_other_files_are_none() -> None:
    assert set(LINEAR) >= {"handwritten", "linear", "matrix", "module"}
    assert not {"__init__", "autograd", "loop"} & set(variants.names())


@every_model
def test_the_parameters_are_w_and_then_b(name: str, k: int) -> None:
    X, _, values = example(k)
    model = with_values(name, values)
    torch.testing.assert_close(parameters_to_vector(model.parameters()), values, rtol=0, atol=0)
    assert shapes(name, k) == {"W": (k, 1), "b": (1,)}
    y_pred = model(X)
    expected = X.double().numpy() @ values[:k, None].double().numpy() + values[k].item()
    assert y_pred.dtype == torch.float32
    assert y_pred.shape == (11, 1)
    np.testing.assert_allclose(y_pred.detach().numpy(), expected, rtol=1e-5, atol=1e-6)


@every_model
def test_autograd_s_gradient_is_the_formula_s(name: str, k: int) -> None:
    X, y, values = example(k)
    gradient = loop.gradient(make(name, k), values, X, y)
    error = X.double() @ values[:k, None].double() + values[k].double() - y.double()
    np.testing.assert_allclose(gradient[:k, None], 2 / 11 * X.double().mT @ error, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradient[k], 2 / 11 * error.sum(), rtol=1e-5, atol=1e-6)


@every_model
def test_autograd_s_gradient_is_that_of_finite_differences(name: str, k: int) -> None:
    X, y, values = example(k, torch.float64)
    slopes = []
    for one in torch.eye(k + 1, dtype=torch.float64) * 1e-6:
        up, down = (nn.functional.mse_loss(with_values(name, values + step)(X), y) for step in (one, -one))
        slopes.append((up - down).item() / 2e-6)
    np.testing.assert_allclose(loop.gradient(make(name, k), values, X, y), slopes, rtol=1e-6, atol=1e-8)


@every_variant
def test_each_file_is_one_model_that_fits_on_a_page(name: str) -> None:
    source = (Path(variants.__file__).parent / f"{name}.py").read_text(encoding="utf-8")
    defined = [node.name for node in ast.parse(source).body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    assert defined == ["Model"]
    assert len(source.splitlines()) < 30


def test_a_learner_reads_the_folder_in_one_sitting() -> None:
    files = list(Path(variants.__file__).parent.glob("*.py"))
    assert sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files) < 220


def test_autograd_s_first_example_prints_8(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_module("pipeline.variants.autograd", run_name="__main__")
    assert capsys.readouterr().out == "8.0\n"


def test_the_loop_prints_the_post_s_run_and_its_minibatches_after_prepare_alone(clone: Path) -> None:
    missing = run("python", "-m", "pipeline.variants.loop", "matrix", cwd=clone, check=False)
    assert missing.returncode == 1
    assert "dvc repro prepare" in missing.stderr.splitlines()[-1]
    run("dvc", "repro", "prepare", cwd=clone)
    for name in ("handwritten", "linear"):
        lines = run("python", "-m", "pipeline.variants.loop", name, cwd=clone).stdout.splitlines()
        assert len(lines) == 10
        assert lines[-1].startswith("epoch  900/1000 ")
        assert float(lines[-1].split()[-1]) == pytest.approx(1.122429, rel=5e-5)
    told = run("python", "-m", "pipeline.variants.loop", "module", "--batch-size", "2", cwd=clone).stdout.splitlines()
    assert len(told) == 30
    assert "minibatch 3/3" in told[-1]
    wrong = run("python", "-m", "pipeline.variants.loop", "nothing", cwd=clone, check=False)
    assert wrong.returncode == 2
    assert all(name in wrong.stderr for name in variants.names())
