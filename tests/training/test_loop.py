"""Training: the post's figures, ties, bits, and what a diverging run does to others."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sweeps import unscaled
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.utils.data import DataLoader, Sampler, TensorDataset

from pipeline import variants
from pipeline.config.axes import BatchSize
from pipeline.errors import InputError
from pipeline.evaluation.predictions import is_linear
from pipeline.execution import checkpoints
from pipeline.execution.checkpoints import Checkpoints
from pipeline.execution.cost import check_memory
from pipeline.runs.run import Run, curve_steps
from pipeline.table.prepared import Prepared
from pipeline.training import lift, loop, minibatches, optimizers, parameters, stacks
from pipeline.training.loop import State
from pipeline.training.minibatches import MinibatchOrder, TrainingRows
from pipeline.training.stacks import Fitted, Stack
from pipeline.variants import Model, make
from pipeline.variants import loop as tutorial

RAW = Path(__file__).parents[2] / "data/raw"
BATCH_SIZES: list[BatchSize] = [1, 2, 4, "full"]
POST = {
    0: 29661.80, 100: 1.563628, 200: 1.497595, 300: 1.435044, 400: 1.375726, 500: 1.319507,
    600: 1.266222, 700: 1.215703, 800: 1.167810, 900: 1.122429, 999: 1.079796,
}  # fmt: skip
POST_W, POST_B = [0.717880, 0.612586, 0.680132], 0.009230
LINEAR = [name for name in variants.names() if is_linear(parameters.shapes(name, 3))]
every_variant = pytest.mark.parametrize("name", LINEAR)
every_size = pytest.mark.parametrize("batch_size", BATCH_SIZES)


def table(name: str) -> Prepared:
    """Return a file of data/raw, its last column the target, on all rows and on all but each one."""
    cells = torch.from_numpy(np.loadtxt(RAW / name, delimiter=",", skiprows=1, dtype=np.float32))
    X, y = cells[:, :-1], cells[:, -1:]
    train = torch.cat([torch.ones(1, len(X)), 1 - torch.eye(len(X))]).bool()
    return unscaled(X, y, train)


SCORES = table("scores.csv")
DOUBLE = Prepared(SCORES.X.astype(float), SCORES.y.astype(float), SCORES.train, SCORES.mean, SCORES.scale)


def run(
    name: str, batch_size: BatchSize = "full", lr: float = 1e-5, seed: int = 1, epochs: int = 1000, init: str = "zeros"
) -> Run:
    return Run(name, batch_size, lr, seed, epochs, init, "cpu", fingerprint=f"{name} {batch_size} {lr} {seed}")


def train(fits: Sequence[tuple[Run, int]], prepared: Prepared = SCORES) -> list[Fitted]:
    """Train (run, split)s as one stack."""
    stack = Stack(tuple(fits), tuple(prepared.train_rows[split] for _, split in fits))
    return stacks.train(stack, prepared, lambda *_: None)


def begin(fits: Sequence[tuple[Run, int]], prepared: Prepared = SCORES) -> tuple[Model, State]:
    """Return a lifted model and its state."""
    one, k = fits[0][0], prepared.X.shape[1]
    inits, seeds = [one.init for one, _ in fits], [one.seed for one, _ in fits]
    values = parameters.initial(one.variant, k, inits, seeds).to(torch.from_numpy(prepared.X).dtype)
    model = lift.lift(make(one.variant, k), values, k)
    state = State.initial(model, one.epochs, len(followed(fits)))
    state.optimizer = optimizers.initial(one.optimizer, state.parameters)
    return model, state


def followed(fits: Sequence[tuple[Run, int]]) -> range:
    """The runs whose path is kept: all but the first."""
    return range(1, len(fits))


def train_on(
    begun: tuple[Model, State],
    fits: Sequence[tuple[Run, int]],
    prepared: Prepared = SCORES,
    after_epoch: Callable[[State], None] = lambda _: None,
) -> State:
    """Train a stack from wherever it stands."""
    model, state = begun
    rows = TrainingRows(prepared, [split for _, split in fits])
    size = fits[0][0].minibatch(len(rows))
    order = MinibatchOrder([one.seed for one, _ in fits], len(rows), size, range(state.epoch, fits[0][0].epochs))
    optimizer = optimizers.make([one for one, _ in fits], state.parameters, state.optimizer, order.steps)
    part = loop.Part(slice(None), model, state.parameters, optimizer)
    whole = torch.tensor(len(rows))
    steps = [part] * order.steps
    return loop.fit(fits[0][0], state, minibatches.minibatches(rows, order), steps, whole, after_epoch, followed(fits))


def tensors(state: State) -> list[NDArray[Any]]:
    return [tensor.detach().numpy() for tensor in (*state.parameters, state.curve, state.diverged, state.path)]


def same_bits(one: Fitted, other: Fitted) -> bool:
    tensors = [(one.values, other.values), (one.curve, other.curve)]
    same = [a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes() for a, b in tensors]
    return all(same) and one.diverged == other.diverged


class Order(Sampler[int]):
    """A run's order of rows, epoch after epoch, as a DataLoader takes it."""

    def __init__(self, seed: int, n: int, shuffled: bool) -> None:
        self.seed, self.n, self.shuffled, self.epoch = seed, n, shuffled, 0

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[int]:
        order = minibatches.permutation(self.seed, self.epoch, self.n) if self.shuffled else torch.arange(self.n)
        self.epoch += 1
        yield from order.tolist()


def plain_loop(one: Run, split: int, prepared: Prepared = SCORES) -> tuple[list[float], Tensor, int]:
    """Train by the tutorial's loop; return losses, weights and the epoch in which it diverged and stopped, or -1."""
    rows, k = prepared.train[split], prepared.X.shape[1]
    X, y = torch.from_numpy(prepared.X[rows]), torch.from_numpy(prepared.y[rows])
    size = len(X) if one.batch_size == "full" else one.batch_size
    model = make(one.variant, k)
    vector_to_parameters(parameters.initial(one.variant, k, [one.init], [one.seed])[0].to(X.dtype), model.parameters())
    sampler = Order(one.seed, len(X), size < len(X))
    loader: tutorial.Loader = DataLoader(TensorDataset(X, y), size, sampler=sampler)
    losses, before = np.zeros(one.epochs), vector(model)
    for epoch, i, loss in tutorial.train(model, loader, one.lr, one.epochs):
        if not np.isfinite(loss):
            return losses[:epoch].tolist(), before, epoch
        losses[epoch] += loss * min(size, len(X) - i * size) / len(X)
        before = vector(model)
    return losses.tolist(), before, -1


def vector(model: Model) -> Tensor:
    return parameters_to_vector(model.parameters()).detach().clone()


@every_variant
def test_the_post_s_losses_and_weights_come_out(name: str) -> None:
    (fitted,) = train([(run(name), 0)])
    np.testing.assert_allclose(fitted.curve[list(POST)], list(POST.values()), rtol=1e-4)
    np.testing.assert_allclose(fitted.values, [*POST_W, POST_B], rtol=1e-4)


def test_nn_linear_on_the_post_s_three_points_ends_where_the_post_s_does() -> None:
    line = table("line.csv")
    (fitted,) = train([(run("linear", lr=1e-2, epochs=2000, init="default"), 0)], line)
    np.testing.assert_allclose(fitted.values, [1.999366, 0.001442], atol=1e-6)
    np.testing.assert_allclose(fitted.curve[-1], 2.9956e-07, rtol=1e-3)


@every_variant
def test_default_initial_values_are_those_that_nn_linear_draws_from_the_run_s_seed(name: str) -> None:
    for seed, fitted in enumerate(
        train([(run(name, lr=1e-30, seed=seed, epochs=1, init="default"), 0) for seed in (0, 1)])
    ):
        torch.manual_seed(seed)
        layer = nn.Linear(3, 1)
        assert torch.equal(fitted.values, torch.cat([layer.weight[0], layer.bias]))


@every_size
def test_all_variants_tie_whatever_the_seed(batch_size: BatchSize) -> None:
    ends = {}
    for name in LINEAR:
        fitted = train([(run(name, batch_size, seed=seed, epochs=400), 0) for seed in (1, 2, 3)])
        ends[name] = torch.stack([torch.cat([one.values, one.curve[[0, 200, -1]]]) for one in fitted])
    for name in LINEAR:
        torch.testing.assert_close(ends[name], ends["handwritten"], rtol=1e-4, atol=0)


@pytest.mark.parametrize(("name", "batch_size"), list(product(LINEAR, BATCH_SIZES)))
def test_a_run_in_a_stack_equals_the_same_run_alone_bit_for_bit(name: str, batch_size: BatchSize) -> None:
    settings = product((1e-5, 3e-6, 2e-5), (1, 2, 3), range(6))
    fits = [(run(name, batch_size, lr, seed, epochs=40), split) for lr, seed, split in settings]
    for rows in [{4, 5}] if batch_size in {1, 2, 4} else [{4}, {5}]:
        stacked = [one for one in fits if SCORES.train_rows[one[1]] in rows]
        together = train(stacked)
        for place in range(0, len(stacked), 7):
            assert same_bits(train([stacked[place]])[0], together[place]), stacked[place]


@every_variant
def test_the_stacks_of_a_sweep_change_no_bit_of_a_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [run(name, 2, seed=seed, epochs=40) for seed in (1, 2)]
    ends = []
    for floats in (2**20, 2**4, 1):
        monkeypatch.setattr(stacks, "STACK_FLOATS", floats)
        grouped = stacks.group(runs, SCORES.train_rows, 3)
        ends.append({key: one for stack in grouped for key, one in zip(stack.fits, train(stack.fits), strict=True)})
    assert len(ends[0]) == 12
    assert all(same_bits(end[key], ends[0][key]) for end in ends[1:] for key in ends[0])


@every_size
def test_every_variant_s_run_equals_a_plain_pytorch_loop(batch_size: BatchSize) -> None:
    for name, init in product(LINEAR, ("zeros", "default")):
        fits = [(run(name, batch_size, seed=seed, epochs=100, init=init), split) for seed, split in ((4, 1), (5, 3))]
        for fitted, (losses, end, diverged) in zip(train(fits), [plain_loop(*one) for one in fits], strict=True):
            np.testing.assert_allclose(fitted.values, end, rtol=1e-5)
            np.testing.assert_allclose(fitted.curve, losses, rtol=1e-4)  # float32's rounding alone is 3e-5
            assert fitted.diverged == diverged == -1


@every_size
def test_but_for_float32_s_rounding_every_variant_is_the_plain_pytorch_loop(batch_size: BatchSize) -> None:
    for name in LINEAR:
        fits = [(run(name, batch_size, seed=seed, epochs=50), split) for seed, split in ((1, 2), (2, 3))]
        model, state = begin(fits, DOUBLE)
        train_on((model, state), fits, DOUBLE)
        for r, (one, split) in enumerate(fits):
            losses, end, _ = plain_loop(one, split, DOUBLE)
            np.testing.assert_allclose(lift.values(model)[r], end, rtol=1e-11)
            np.testing.assert_allclose(state.curve[r], losses, rtol=1e-6)  # a curve is float32


@pytest.mark.parametrize(("name", "batch_size"), list(product(LINEAR, [2, "full"])))
def test_a_diverging_run_is_held_and_touches_no_neighbour(name: str, batch_size: BatchSize) -> None:
    good = [(run(name, batch_size, seed=seed, epochs=60), 0) for seed in (1, 2)]
    bad = run(name, batch_size, lr=1e-2, epochs=60)
    first, diverged, second = train([good[0], (bad, 0), good[1]])
    assert all(same_bits(*pair) for pair in zip((first, second), train(good), strict=True))

    losses, end, epoch = plain_loop(bad, 0)
    assert diverged.diverged == epoch > 0
    np.testing.assert_allclose(diverged.curve[:epoch], losses, rtol=1e-3)
    assert diverged.curve[epoch:].isnan().all()
    np.testing.assert_allclose(diverged.values, end, rtol=1e-3)
    (stopped,) = train([(replace(bad, epochs=epoch + 1), 0)])
    assert torch.equal(diverged.values, stopped.values)


@every_variant
def test_a_diverged_run_stays_held_whatever_minibatches_follow_and_when_resumed(name: str) -> None:
    X = torch.tensor([[1.0], [1e25], [2], [3]])  # one row's loss is beyond float32, the others' are not
    odd = unscaled(X, torch.ones(4, 1), torch.ones(1, 4).bool())
    fits = [(run(name, 1, lr=1e-2, seed=seed, epochs=20, init="default"), 0) for seed in (1, 2, 3)]
    undisturbed, stopped = begin(fits, odd), begin([(replace(one, epochs=1), 0) for one, _ in fits], odd)
    train_on(undisturbed, fits, odd)
    state = train_on(stopped, [(replace(one, epochs=1), 0) for one, _ in fits], odd)
    state.curve = torch.cat([state.curve, torch.full((3, 19), torch.nan)], dim=1)
    state.path = torch.cat([state.path, torch.full((2, 19, 2), torch.nan)], dim=1)
    train_on(stopped, fits, odd)
    for r, (one, _) in enumerate(fits):
        _, end, _ = plain_loop(one, 0, odd)
        for model, ended in (undisturbed, stopped):
            np.testing.assert_allclose(lift.values(model)[r], end, rtol=1e-5)
            assert ended.diverged[r] == 0
            assert ended.curve[r].isnan().all()


def test_losses_whose_sum_is_too_large_for_float32_are_no_divergence() -> None:
    y = torch.full((3, 1), 1e19)  # a loss of 1e38 each; the stack's sum is beyond 3.4e38
    huge = unscaled(torch.zeros(3, 1), y, torch.ones(1, 3).bool())
    fits = [(run("matrix", lr=1e-30, seed=seed, epochs=2), 0) for seed in range(5)]
    for fitted in train(fits, huge):
        assert fitted.diverged == -1
        np.testing.assert_allclose(fitted.curve, 1e38, rtol=1e-6)


@every_size
def test_an_epoch_s_loss_is_the_mean_over_rows_however_short_the_last_minibatch(batch_size: BatchSize) -> None:
    (fitted,) = train([(run("matrix", batch_size, lr=1e-30, epochs=3), 0)])
    np.testing.assert_allclose(fitted.curve, float((SCORES.y.astype(float) ** 2).mean()), rtol=1e-6)


@pytest.mark.parametrize(("y_pred", "y"), [((1, 5, 1), (1, 5)), ((1, 5, 1), (5,)), ((2, 5, 1), (1, 5, 1))])
def test_a_target_that_would_be_broadcast_is_refused(y_pred: tuple[int, ...], y: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"y_pred has shape .* y has"):
        loop.mse(torch.zeros(y_pred), torch.zeros(y))


@pytest.mark.parametrize(("name", "batch_size"), list(product(LINEAR, [2, "full"])))
@pytest.mark.parametrize("pause", [1, 3, 25])
def test_training_resumed_half_way_ends_with_the_bits_of_undisturbed_training(
    name: str, batch_size: BatchSize, pause: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [run(name, batch_size, lr, seed, 40, "default") for lr, seed in ((1e-5, 1), (1e-2, 2), (1e-5, 3))]
    fits = [(one, split) for one, split in zip(runs, (1, 2, 3), strict=True)]
    monkeypatch.setattr(checkpoints, "SECONDS", -1.0)
    kept, found = Checkpoints(tmp_path), Checkpoints(tmp_path)

    def keep(state: State) -> None:
        if state.epoch == pause:
            kept.keep("stack", state)

    undisturbed_model, state = begin(fits)
    undisturbed = train_on((undisturbed_model, state), fits, after_epoch=keep)
    half_way = begin(fits)
    found.resume("stack", half_way[1])
    assert half_way[1].epoch == pause
    assert half_way[1].curve[:, pause:].isnan().all()
    resumed = train_on(half_way, fits)
    for one, other in zip(tensors(undisturbed), tensors(resumed), strict=True):
        assert one.tobytes() == other.tobytes()
    assert undisturbed.path.shape == (2, 40, 4)
    assert undisturbed.path.isfinite().all()
    assert torch.equal(undisturbed.path[:, -1], lift.values(undisturbed_model)[1:])
    assert (undisturbed.diverged >= 0).tolist() == [False, True, False]


@pytest.mark.parametrize("name", ["matrix", "handwritten"])
def test_the_path_is_that_of_a_plain_loop_at_the_curve_s_epochs_for_the_asked_seed(name: str) -> None:
    stack = Stack(tuple(product([run(name, 2, seed=seed, epochs=250) for seed in (1, 2)], [0])), (5, 5))
    other, fitted = stacks.train(stack, SCORES, lambda *_: None, seed=2)
    assert other.path is None
    assert fitted.path is not None
    steps = curve_steps(250, 101)
    assert len(steps) < 101
    assert fitted.path.shape == (len(steps), 4)
    assert torch.equal(fitted.path[-1], fitted.values)
    for place, step in list(enumerate(steps))[::12]:
        _, end, _ = plain_loop(replace(stack.fits[1][0], epochs=step + 1), 0)
        np.testing.assert_allclose(fitted.path[place], end, rtol=1e-5)


def test_only_fits_on_all_training_rows_have_a_path() -> None:
    fits = [(run("matrix", 2, seed=1, epochs=3), split) for split in (1, 2)]
    assert all(one.path is None for one in stacks.train(Stack(tuple(fits), (4, 4)), SCORES, lambda *_: None, seed=1))


def test_what_watches_training_is_called_after_every_epoch() -> None:
    fits = [(run("matrix", 2, epochs=7), 0)]
    seen: list[tuple[int, int]] = []

    def watch(state: State) -> None:
        seen.append((state.epoch, int(state.curve.isfinite().sum())))

    train_on(begin(fits), fits, after_epoch=watch)
    assert seen == [(epoch, epoch) for epoch in range(1, 8)]


def test_more_epochs_than_memory_holds_curves_of_are_refused_with_the_most_that_it_does() -> None:
    check_memory(runs=12, fits=6, epochs=1000, available=12 * 8 * 1000 * 4)
    with pytest.raises(
        InputError, match=r"train\.epochs: got 1000000000, .* 358 GiB, of 7\.45 GiB .* at most 20833333 here"
    ):
        check_memory(runs=12, fits=6, epochs=10**9, available=8 * 10**9)
    check_memory(runs=12, fits=6, epochs=20833333, available=8 * 10**9)
