"""A run's bits do not depend on the runs that train with it, for tables of any width and for every model."""

from itertools import product

import pytest
import torch
from sweeps import unscaled
from test_lift import Normalized, Perceptron, normal

from pipeline import variants
from pipeline.config.axes import BatchSize
from pipeline.runs.run import Run
from pipeline.table.prepared import Prepared
from pipeline.training import stacks
from pipeline.training.stacks import Fitted, Stack

WIDTHS = (1, 3, 20, 100, 1000)
MODELS = ["handwritten", "matrix", "linear", "module", "Perceptron", "Normalized"]  # the last is mapped, not broadcast
WIDEST = {"handwritten": 3, "module": 2}  # how many widths: nobody writes 100 weights; `module` calls nn.Linear, too
ROWS = 70


def table(k: int) -> Prepared:
    X, y = normal(ROWS, k, seed=k), normal(ROWS, 1, seed=k + 1)
    return unscaled(X, y, torch.stack([torch.arange(ROWS) >= left_out for left_out in (0, 5)]))


def train(fits: tuple[tuple[Run, int], ...], prepared: Prepared) -> list[Fitted]:
    return stacks.train(Stack(fits, tuple(prepared.train_rows[split] for _, split in fits)), prepared, lambda *_: None)


@pytest.mark.parametrize("name", MODELS)
def test_a_run_trains_to_the_same_bits_in_a_stack_of_any_size(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"Perceptron": Perceptron, "Normalized": Normalized}
    make = variants.make
    monkeypatch.setattr(variants, "make", lambda name, k: own[name](k) if name in own else make(name, k))
    sizes: tuple[BatchSize, ...] = (1, 2, 33, 64, "full")
    for k, batch_size in product(WIDTHS[: WIDEST.get(name)], sizes):
        prepared = table(k)
        epochs = 1 if batch_size in {1, 2} else 3
        runs = [Run(name, batch_size, 1e-3 * (1 + r % 3), r, epochs, "default", "cpu", f"{r}") for r in range(64)]
        fits = tuple((run, 0 if batch_size == "full" else r % 3 % 2) for r, run in enumerate(runs))
        together = train(fits, prepared)
        for size in (1, 2, 3, 7):
            for some, one in zip(train(fits[5 : 5 + size], prepared), together[5 : 5 + size], strict=True):
                assert torch.equal(some.values, one.values), (k, batch_size, size)
                assert torch.equal(some.curve, one.curve), (k, batch_size, size)
