"""Predictions for a table's rows: Python's own arithmetic, whatever the number of rows, the kernels or the process."""

import json
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, environment
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.evaluation import predictions
from pipeline.training import parameters

Tensors = dict[str, NDArray[np.float32]]


def drawn(k: int, splits: int = 3, seed: int = 0) -> tuple[Tensors, NDArray[np.float64]]:
    """Draw a linear record whose columns are of very different size, and 1,000 rows for it."""
    chance = np.random.default_rng(seed)
    unit = 10.0 ** chance.integers(-3, 4, k)
    tensors = {
        "W": chance.normal(size=(splits, k, 1)),
        "b": chance.normal(size=(splits, 1)),
        "mean": unit * chance.normal(size=(splits, k)),
        "scale": unit * chance.uniform(0.5, 2, size=(splits, k)),
    }
    return {name: value.astype(np.float32) for name, value in tensors.items()}, unit * chance.normal(size=(1000, k))


def by_hand(tensors: Tensors, row: NDArray[np.float64]) -> tuple[np.float32, Fraction]:
    """Predict a row as Python's own float64 sums, and exactly, from the first split."""
    total, exact = 0.0, Fraction(0)
    for value, mean, scale, w in zip(row, tensors["mean"][0], tensors["scale"][0], tensors["W"][0, :, 0], strict=True):
        x = (np.float32(value) - mean) / scale
        assert isinstance(x, np.float32)
        total += float(x) * float(w)
        exact += Fraction(float(x)) * Fraction(float(w))
    b = float(tensors["b"][0, 0])
    return np.float32(total + b), exact + Fraction(b)


@pytest.mark.parametrize("k", [1, 3, 20])
def test_a_linear_prediction_is_python_s_own_sum_and_the_exact_one_to_a_float32(k: int) -> None:
    tensors, X = drawn(k)
    y_pred = predictions.predict("linear", tensors, X)
    assert y_pred.shape == (1000, 1)
    assert y_pred.dtype == np.float32
    for row, found in zip(X, y_pred[:, 0], strict=True):
        expected, exact = by_hand(tensors, row)
        assert found == expected
        assert abs(Fraction(float(found)) - exact) <= Fraction(float(np.spacing(abs(found)))) * Fraction(501, 1000)


@pytest.mark.parametrize("rows", [1, 7, 64, 999])
def test_a_row_s_bits_do_not_depend_on_how_many_rows_are_asked_for(rows: int) -> None:
    tensors, X = drawn(20)
    whole = predictions.predict("linear", tensors, X)
    parts = [predictions.predict("linear", tensors, X[at : at + rows]) for at in range(0, 1000, rows)]
    assert np.concatenate(parts).tobytes() == whole.tobytes()
    columns_first = predictions.predict("linear", tensors, np.asfortranarray(X))
    assert columns_first.tobytes() == whole.tobytes()


OTHERS = {
    "no AVX": {"NPY_DISABLE_CPU_FEATURES": "X86_V4 X86_V3 AVX512F AVX512CD AVX512_SKX AVX2 FMA3"},
    "other kernels": {"OPENBLAS_CORETYPE": "Nehalem", "ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "AVX512"},
    "threads": {"OMP_NUM_THREADS": "3", "OPENBLAS_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"},
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_a_process_that_computes_in_another_way_gives_the_same_bits(other: dict[str, str], tmp_path: Path) -> None:
    tensors, X = drawn(20)
    np.savez(tmp_path / "drawn.npz", allow_pickle=False, X=X, **tensors)
    code = (
        "import sys, numpy\n"  # before the pins, as MLflow's server does
        "from pipeline.evaluation.predictions import predict\n"
        "drawn = numpy.load(sys.argv[1])\n"
        "sys.stdout.buffer.write(predict('linear', drawn, drawn['X']).tobytes())"
    )
    native = environment(PYTHONPATH=str(REPOSITORY), PIPELINE_KERNELS="native", **other)
    command = [sys.executable, "-c", code, str(tmp_path / "drawn.npz")]
    said = subprocess.run(command, env=native, capture_output=True, check=True)
    assert said.stdout == predictions.predict("linear", tensors, X).tobytes()


def test_numbers_and_predictions_beyond_float32_are_not_finite() -> None:
    tensors, X = drawn(3, seed=1)
    X[0, 0], X[1, 1] = 1e39, np.nan
    X[2] = 3e38
    y_pred = predictions.predict("linear", tensors | {"W": np.full((1, 3, 1), 3e38, np.float32)}, X)
    assert not np.isfinite(y_pred[:3]).any()


class Bent(nn.Module):
    """Not linear, though its parameters have a linear model's names and shapes."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.full((k, 1), 0.5))
        self.b = nn.Parameter(torch.ones(1))

    def forward(self, X: Tensor) -> Tensor:
        """Predict y_pred (m, 1) from X (m, k)."""
        y_pred: Tensor = (X @ self.W + self.b).relu()
        return y_pred


@pytest.fixture
def bent(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    module = ModuleType("bent")
    module.Model = Bent  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pipeline.variants.bent", module)
    yield "bent"
    parameters.shapes.cache_clear()


def test_a_model_that_is_not_linear_predicts_by_its_own_code_and_is_not_taken_for_linear(bent: str) -> None:
    linear, X = drawn(3)
    shapes = parameters.shapes(bent, 3)
    assert not {"W", "b"} & shapes.keys()
    tensors = linear | {f"parameter_{name}": linear.pop(name) for name in ("W", "b")}
    assert set(shapes) < set(tensors)
    y_pred = predictions.predict(bent, tensors, X)
    for row, found in zip(X, y_pred[:, 0], strict=True):
        straight, _ = by_hand(linear | {"W": tensors["parameter_W"], "b": tensors["parameter_b"]}, row)
        assert found == pytest.approx(max(0, straight), rel=1e-6)
    assert (y_pred == 0).any()
    np.testing.assert_allclose(predictions.predict(bent, tensors, X[:7]), y_pred[:7], rtol=1e-6)


def test_a_linear_prediction_does_not_load_torch() -> None:
    code = (
        "import json, sys, pipeline.evaluation.predictions\n"
        "print(json.dumps(sorted({'torch', 'mlflow'} & sys.modules.keys())))"
    )
    extra = environment(PYTHONPATH=str(REPOSITORY))
    said = subprocess.run([sys.executable, "-c", code], env=extra, capture_output=True, text=True, check=True)
    assert json.loads(said.stdout) == []
