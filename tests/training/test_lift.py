"""Models that are written for one run train many: as each would alone, or not at all."""

from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from pipeline import variants
from pipeline.errors import InputError
from pipeline.training.lift import Mapped, lift, values
from pipeline.variants import Model, make


class Perceptron(nn.Module):
    """One hidden layer."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(k, 5), nn.ReLU(), nn.Linear(5, 1, bias=False))

    def forward(self, X: Tensor) -> Tensor:
        y_pred: Tensor = self.layers(X)
        return y_pred


class Transposed:
    """Linear, in a way that takes two axes only."""

    def __init__(self, k: int) -> None:
        self.W, self.b = torch.zeros(1, k, requires_grad=True), torch.zeros(1, requires_grad=True)

    def parameters(self) -> list[Tensor]:
        return [self.W, self.b]

    def __call__(self, X: Tensor) -> Tensor:
        return (self.W @ X.T).flatten().unsqueeze(1) + self.b


class Normalized(nn.Module):
    """With a module that knows nothing of stacks."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(k), nn.Linear(k, 1)

    def forward(self, X: Tensor) -> Tensor:
        y_pred: Tensor = self.linear(self.norm(X))
        return y_pred


class Random(nn.Module):
    """With chance in it."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.linear = nn.Linear(k, 1)

    def forward(self, X: Tensor) -> Tensor:
        y_pred: Tensor = nn.functional.dropout(self.linear(X))
        return y_pred


class Flat:
    """Predicts (m,), which broadcasting would take for something else."""

    def __init__(self, k: int) -> None:
        self.w = torch.zeros(k, requires_grad=True)

    def parameters(self) -> list[Tensor]:
        return [self.w]

    def __call__(self, X: Tensor) -> Tensor:
        return X @ self.w


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def check(model: Callable[[], Model], k: int) -> Model:
    """Compare prediction and gradient of four runs in a stack with those of each model alone."""
    count = parameters_to_vector(model().parameters()).numel()
    begin, X, y = normal(4, count, seed=1), normal(4, 6, k, seed=2), normal(4, 6, 1, seed=3)
    lifted = lift(model(), begin, k)
    torch.testing.assert_close(values(lifted), begin, rtol=0, atol=0)
    y_pred = lifted(X)
    assert y_pred.shape == (4, 6, 1)
    ((y_pred - y) ** 2).mean(dim=(1, 2)).sum().backward()
    gradient = torch.cat([p.grad.flatten(1) for p in lifted.parameters() if p.grad is not None], dim=1)
    for r in range(4):
        alone = model()
        vector_to_parameters(begin[r], alone.parameters())
        torch.testing.assert_close(y_pred[r], alone(X[r]), rtol=1e-5, atol=1e-5)
        found = torch.autograd.grad(nn.functional.mse_loss(alone(X[r]), y[r]), list(alone.parameters()))
        torch.testing.assert_close(gradient[r], parameters_to_vector(found), rtol=1e-4, atol=1e-5)
    return lifted


@pytest.mark.parametrize(("name", "k"), list(product(variants.names(), [1, 3, 7])))
def test_a_variant_in_a_stack_is_each_run_s_model_alone(name: str, k: int) -> None:
    assert not isinstance(check(lambda: make(name, k), k), Mapped)


@pytest.mark.parametrize("k", [1, 4])
def test_a_perceptron_broadcasts_and_what_does_not_is_mapped(k: int) -> None:
    assert not isinstance(check(lambda: Perceptron(k), k), Mapped)
    assert isinstance(check(lambda: Transposed(k), k), Mapped)
    assert isinstance(check(lambda: Normalized(k), k), Mapped)


def test_a_model_that_cannot_be_lifted_is_refused_with_the_reasons() -> None:
    torch.manual_seed(0)  # one seed in 64 drops the same numbers in the stack as alone
    with pytest.raises(InputError, match=r"by broadcasting: .*; by torch\.func\.vmap: .*andom"):
        lift(Random(3), torch.zeros(2, 4), 3)
    with pytest.raises(InputError, match=r"its y_pred is \(3,\) for 3 rows, not \(3, 1\)"):
        lift(Flat(3), torch.zeros(2, 3), 3)


def test_lifting_leaves_the_model_and_the_random_numbers_as_they_were() -> None:
    model = make("module", 3)
    before, state = parameters_to_vector(model.parameters()).clone(), torch.get_rng_state()
    lift(model, torch.zeros(5, 4), 3)
    assert torch.equal(parameters_to_vector(model.parameters()), before)
    assert torch.equal(torch.get_rng_state(), state)
