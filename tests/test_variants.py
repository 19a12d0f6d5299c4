"""The four ways to write the model: the same predictions, gradients and shapes; the same functions in each file."""

import ast
import inspect
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline import variants
from pipeline.params import variant_names
from pipeline.training import fit
from pipeline.variants import Variant, variant

FUNCTIONS = ["init", "forward", "weights"]
every_variant = pytest.mark.parametrize("name", variant_names())
every_model = pytest.mark.parametrize(("name", "k"), list(product(variant_names(), [1, 3, 7])))


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def example(k: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return X (11, k), y (11, 1), W (k, 1), b (1,)."""
    return (
        normal(11, k, seed=1, dtype=dtype),
        normal(11, 1, seed=2, dtype=dtype),
        normal(k, 1, seed=3, dtype=dtype),
        normal(1, seed=4, dtype=dtype),
    )


def source(name: str) -> str:
    return (Path(variants.__file__).parent / f"{name}.py").read_text(encoding="utf-8")


def test_the_four_variants_are_there() -> None:
    assert {"handwritten", "matrix", "linear", "module"} <= set(variant_names())


@every_model
def test_weights_gives_back_what_init_took(name: str, k: int) -> None:
    _, _, W, b = example(k)
    W_back, b_back = variant(name).weights(variant(name).init(W, b))
    torch.testing.assert_close(W_back, W, rtol=0, atol=0)
    torch.testing.assert_close(b_back, b, rtol=0, atol=0)


@every_model
def test_the_prediction_is_x_w_plus_b(name: str, k: int) -> None:
    X, _, W, b = example(k)
    y_pred = variant(name).forward(variant(name).init(W, b), X)
    expected = X.double().numpy() @ W.double().numpy() + b.double().numpy()
    assert y_pred.dtype == torch.float32
    assert y_pred.shape == (11, 1)
    np.testing.assert_allclose(y_pred.numpy(), expected, rtol=1e-5, atol=1e-6)


@every_model
def test_autograd_s_gradient_is_the_formula_s(name: str, k: int) -> None:
    X, y, W, b = example(k)
    written = variant(name)
    gradient = fit.gradient(written.forward, written.init(W, b), X, y)
    assert {key: value.shape for key, value in gradient.items()} == {
        key: value.shape for key, value in written.init(W, b).items()
    }
    grad_W, grad_b = written.weights(gradient)
    error = X.double() @ W.double() + b.double() - y.double()
    np.testing.assert_allclose(grad_W, 2 / 11 * X.double().mT @ error, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(grad_b, [2 / 11 * error.sum()], rtol=1e-5, atol=1e-6)


@every_model
def test_autograd_s_gradient_is_that_of_finite_differences(name: str, k: int) -> None:
    X, y, W, b = example(k, torch.float64)
    written = variant(name)
    grad_W, grad_b = written.weights(fit.gradient(written.forward, written.init(W, b), X, y))

    def slope(dW: Tensor, db: Tensor) -> float:
        up, down = (written.forward(written.init(W + sign * dW, b + sign * db), X) for sign in (1e-6, -1e-6))
        return float((((up - y) ** 2).mean() - ((down - y) ** 2).mean()) / 2e-6)

    basis = torch.eye(k, dtype=torch.float64).unsqueeze(2)  # (k, k, 1)
    np.testing.assert_allclose(grad_W[:, 0], [slope(one, torch.zeros(1)) for one in basis], rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(grad_b, [slope(torch.zeros(k, 1), torch.ones(1))], rtol=1e-6, atol=1e-8)


@every_model
def test_a_stack_predicts_for_each_run_what_it_predicts_alone(name: str, k: int) -> None:
    written, runs, m = variant(name), 4, 5
    inits = [written.init(normal(k, 1, seed=r), normal(1, seed=10 + r)) for r in range(runs)]
    X, y = normal(runs, m, k, seed=20), normal(runs, m, 1, seed=21)
    seen = []

    def forward(parameters: fit.Parameters, X: Tensor) -> Tensor:
        y_pred = written.forward(parameters, X)
        seen.append(y_pred.detach())
        return y_pred

    minibatches: Iterator[tuple[Tensor, Tensor]] = iter([(X, y)])
    state = fit.State.initial(fit.stack(inits), 1)
    fit.fit(forward, state, minibatches, 1, torch.zeros(runs), lambda _: None)
    assert seen[0].shape == (runs, m, 1)
    for r in range(runs):
        torch.testing.assert_close(seen[0][r], written.forward(inits[r], X[r]), rtol=1e-5, atol=1e-6)


@every_variant
def test_stacked_parameters_come_apart_unchanged(name: str) -> None:
    inits = [variant(name).init(normal(3, 1, seed=r), normal(1, seed=10 + r)) for r in range(4)]
    for before, after in zip(inits, fit.unstack(fit.stack(inits), inits[0]), strict=True):
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)


@every_variant
def test_each_file_has_the_same_functions_in_the_same_order_with_the_same_arguments(name: str) -> None:
    functions = [node.name for node in ast.parse(source(name)).body if isinstance(node, ast.FunctionDef)]
    assert [function for function in functions if function in FUNCTIONS] == FUNCTIONS
    for function in FUNCTIONS:
        assert inspect.signature(getattr(variant(name), function)) == inspect.signature(getattr(Variant, function))


@every_variant
def test_each_file_fits_on_a_page(name: str) -> None:
    assert len(source(name).splitlines()) < 45


def test_autograd_s_first_example_gives_8() -> None:
    w = torch.tensor(2.0, requires_grad=True)
    z = 2 * w**2 + 5
    z.backward()
    assert w.grad is not None
    assert w.grad.item() == 8.0
