"""Optimizers, schedules, losses and stopping, lifted over stacks: against torch's own, in a plain loop run by run."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sweeps import params, records, results, table
from test_loop import DOUBLE, SCORES, begin, same_bits, train, train_on
from torch import Tensor, nn, optim

from pipeline.evaluation import pictures, report
from pipeline.execution import checkpoints
from pipeline.execution.checkpoints import Checkpoints
from pipeline.runs import rounding
from pipeline.runs.run import Run
from pipeline.runs.sweep import configured, points
from pipeline.table.prepared import Prepared
from pipeline.training import lift, minibatches, optimizers, schedules, stacks
from pipeline.training.stacks import Fitted, Stack

EPOCHS = 60
OPTIMIZERS = ("sgd", "momentum", "nesterov", "adam", "adamw")
ADAM = {"beta1": 0.8, "beta2": 0.99, "eps": 1e-6}
SETTINGS = {"momentum": {"momentum": 0.8}, "nesterov": {"momentum": 0.8}, "adam": ADAM, "adamw": ADAM}


def run(seed: int = 1, lr: float = 1e-5, **own: object) -> Run:
    settings = SETTINGS.get(str(own.get("optimizer")), {}) | own
    values: dict[str, object] = {"batch_size": 2, "epochs": EPOCHS, "init": "default", "device": "cpu", **settings}
    return Run("linear", lr=lr, seed=seed, fingerprint=f"{seed} {lr} {own}", **values)  # type: ignore[arg-type]


def optimizer_of(one: Run, model: nn.Module) -> optim.Optimizer:
    if one.optimizer in {"adam", "adamw"}:
        kind = optim.Adam if one.optimizer == "adam" else optim.AdamW
        betas = (one.beta1 or 0.0, one.beta2 or 0.0)
        return kind(model.parameters(), lr=one.lr, betas=betas, eps=one.eps or 0, weight_decay=one.weight_decay)
    nesterov, momentum = one.optimizer == "nesterov", one.momentum or 0.0
    return optim.SGD(model.parameters(), one.lr, momentum, weight_decay=one.weight_decay, nesterov=nesterov)


def loss_of(one: Run, y_pred: Tensor, y: Tensor) -> Tensor:
    if one.loss == "mae":
        return F.l1_loss(y_pred, y)
    return F.huber_loss(y_pred, y, delta=one.huber_delta or 0.0) if one.loss == "huber" else F.mse_loss(y_pred, y)


def plain_loop(one: Run, split: int, prepared: Prepared = SCORES) -> tuple[list[float], Tensor]:
    """Train by torch's own; return the curve of the squared error and the weights."""
    rows = prepared.train[split]
    X, y, n = torch.from_numpy(prepared.X[rows]), torch.from_numpy(prepared.y[rows]), int(rows.sum())
    torch.manual_seed(one.seed)
    model = nn.Linear(3, 1).to(X.dtype)
    optimizer, curve = optimizer_of(one, model), []
    rates: optim.lr_scheduler.LRScheduler = optim.lr_scheduler.ConstantLR(optimizer, factor=1)
    if one.schedule == "step":
        rates = optim.lr_scheduler.StepLR(optimizer, one.step_every or 0, one.step_factor or 0.0)
    if one.schedule == "cosine":
        rates = optim.lr_scheduler.CosineAnnealingLR(optimizer, one.epochs)
    for epoch in range(one.epochs):
        squares = 0.0
        for batch in minibatches.permutation(one.seed, epoch, n).split(int(one.batch_size)):
            y_pred = model(X[batch])
            squares += float(((y_pred - y[batch]) ** 2).sum().detach())
            optimizer.zero_grad()
            loss_of(one, y_pred, y[batch]).backward()
            optimizer.step()
        rates.step()
        curve.append(squares / n)
    return curve, torch.cat([model.weight[0], model.bias]).detach()


STEP: dict[str, object] = {"schedule": "step", "step_every": 7, "step_factor": 0.7}
HUBER: dict[str, object] = {"loss": "huber", "huber_delta": 30.0}
DECAYS: list[dict[str, object]] = [
    {"optimizer": name, "weight_decay": own} for name in OPTIMIZERS for own in (0.0, 0.3)
]
KINDS: list[dict[str, object]] = [
    *DECAYS,
    {"optimizer": "sgd", **STEP},
    {"optimizer": "adamw", "weight_decay": 0.1, **STEP},
    {"optimizer": "nesterov", "schedule": "cosine"},
    {"optimizer": "adam", "schedule": "cosine", "weight_decay": 0.1},
    {"optimizer": "adamw", "schedule": "cosine", "weight_decay": 0.1},
    {"optimizer": "sgd", **HUBER},
    {"optimizer": "adam", **HUBER},
    {"loss": "mae"},
]


@pytest.mark.parametrize("kind", KINDS, ids=[" ".join(map(str, kind.values())) for kind in KINDS])
def test_every_axis_trains_as_torch_s_own_in_a_plain_loop(kind: dict[str, object]) -> None:
    lr = 1e-2 if str(kind.get("optimizer")).startswith("adam") else 3e-6
    fits = [(run(seed, lr * seed, **kind), split) for seed, split in ((1, 1), (2, 3))]
    for (one, split), fitted in zip(fits, train(fits), strict=True):
        curve, weights = plain_loop(one, split)
        np.testing.assert_allclose(fitted.values, weights, rtol=2e-6, atol=1e-6)
        np.testing.assert_allclose(fitted.curve, curve, rtol=1e-4, atol=2e-5)  # y is around 150
    begun = model, state = begin(fits, DOUBLE)
    if "loss" not in kind:
        train_on(begun, fits, DOUBLE)
        for r, (one, split) in enumerate(fits):
            np.testing.assert_allclose(lift.values(model)[r], plain_loop(one, split, DOUBLE)[1], rtol=1e-10)
            assert state.curve[r].isfinite().all()


def test_adam_s_bits_are_those_of_ieee_arithmetic() -> None:
    """torch's sqrt is wrong in the last bit of one number in six, and of other numbers on another processor."""
    chance, one = torch.Generator().manual_seed(0), run(lr=1e-2, optimizer="adam")
    parameter = torch.randn(1, 1000, generator=chance, requires_grad=True)
    state = optimizers.initial("adam", [parameter])
    adam = optimizers.make([one], [parameter], state, steps=3)
    expected = parameter.detach().numpy().copy()
    mean = square = np.zeros_like(expected)
    adam.begin(0)
    for step in (1, 2, 3):
        parameter.grad = torch.randn(1, 1000, generator=chance)
        gradient = parameter.grad.numpy()
        adam.step()
        mean = mean + (gradient - mean) * np.float32(1 - 0.8)
        square = square * np.float32(0.99) + gradient * gradient * np.float32(1 - 0.99)
        root = 1 / (1 / np.sqrt(square)) / np.float32(np.sqrt(1 - 0.99**step))
        expected -= mean * np.float32(1e-2 / (1 - 0.8**step)) / (root + np.float32(1e-6))
    np.testing.assert_array_equal(parameter.detach().numpy(), expected)


def test_runs_of_other_rates_decays_schedules_and_beginnings_share_a_stack_and_keep_their_bits() -> None:
    for name in OPTIMIZERS:
        own: list[dict[str, object]] = [
            {},
            {"weight_decay": 0.3},
            {"schedule": "cosine"},
            STEP,
            {"init": "zeros"},
            {"lr": 1e-2},
        ]
        runs = [run(seed, **{"optimizer": name, **one}) for seed, one in enumerate(own)]  # type: ignore[arg-type]
        (stack,) = stacks.group(runs, [4], 3)
        together = train([(one, 1) for one, _ in stack.fits])
        for one, fitted in zip(runs, together, strict=True):
            assert same_bits(train([(one, 1)])[0], fitted), (name, one)


def test_optimizer_loss_and_epochs_divide_stacks() -> None:
    runs = [run(optimizer=name, epochs=epochs) for name, epochs in product(OPTIMIZERS, (5, 6))]
    runs += [run(**HUBER), run(loss="mae")]  # type: ignore[arg-type]
    assert len(stacks.group(runs, [4, 4], 3)) == 12


def test_factors_of_schedules_are_those_of_exact_arithmetic() -> None:
    for epochs in (1, 3, 100, 999):
        for epoch in range(0, epochs, max(1, epochs // 50)):
            exact = (1 + np.cos(np.longdouble(np.pi) * epoch / epochs)) / 2
            assert schedules.factor("cosine", epochs, 1, 1.0, epoch) == pytest.approx(float(exact), rel=1e-12)
            assert schedules.factor("step", epochs, 7, 0.7, epoch) == pytest.approx(0.7 ** (epoch // 7), rel=1e-14)
    assert schedules.factor("cosine", 4, 1, 1.0, 2) == 0.5


@pytest.mark.parametrize("name", ["momentum", "adamw"])
def test_training_goes_on_with_the_same_bits_from_a_checkpoint_and_in_another_stack(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = (2, 2, 2) if name == "adamw" else (1, 0, 2)
    rows = tuple(SCORES.train_rows[split] for split in splits)
    rates = ((1, 1e-5), (2, 1e-2), (3, 2e-5))
    fits = tuple((run(seed, lr, optimizer=name), split) for (seed, lr), split in zip(rates, splits, strict=True))
    whole = stacks.train(Stack(fits, rows), SCORES, lambda *_: None)
    half = stacks.train(Stack(fits, rows, until=25), SCORES, lambda *_: None)
    assert {one.epoch for one in half} == {25}
    for some in ((2, 0), (1,)):
        rest = Stack(tuple(fits[r] for r in some), tuple(rows[r] for r in some), tuple(half[r] for r in some))
        ended = stacks.train(rest, SCORES, lambda *_: None)
        assert all(same_bits(one, whole[r]) for one, r in zip(ended, some, strict=True))

    monkeypatch.setattr(checkpoints, "SECONDS", -1.0)

    def stop(_: Stack, __: object, epoch: int) -> None:
        if epoch == 26:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stacks.train(Stack(fits, rows), SCORES, stop, Checkpoints(tmp_path))
    seen: list[int] = []
    resumed = stacks.train(Stack(fits, rows), SCORES, lambda *told: seen.append(told[2]), Checkpoints(tmp_path))
    assert seen[0] == 26
    assert all(same_bits(*pair) for pair in zip(resumed, whole, strict=True))


def stopping(epochs: int = 300) -> list[tuple[Run, int]]:
    own = [(1e-5, 1), (2e-6, 2), (1e-2, 3), (3e-5, 4), (1e-5, 5), (1e-9, 6)]
    return [
        (run(seed, lr, epochs=epochs, patience=5, min_delta=1e-2), split) for (lr, seed), split in product(own, (1, 0))
    ]


def left(curve: Tensor) -> int:
    """Return the epoch after which a curve has not fallen for five epochs by more than 0.01, as a person would tell."""
    best, since = float("inf"), 0
    for epoch, loss in enumerate(curve.tolist()):
        best, since = (loss, 0) if loss < best - 1e-2 else (best, since + 1)
        if since == 5 or not np.isfinite(loss):
            return epoch
    return -1


def test_fits_that_converge_or_diverge_leave_and_the_others_keep_their_bits() -> None:
    fits = stopping()
    ends = train(fits)
    kept = train([(replace(one, patience=None, min_delta=None), split) for one, split in fits])
    reasons: set[str] = set()
    for fit, end, whole in zip(fits, ends, kept, strict=True):
        epoch = left(whole.curve)
        reasons.add(end.left.partition(",")[0])
        if epoch in {-1, 299}:
            assert same_bits(end, whole)
            continue
        assert end.left == f"{'diverged' if whole.diverged >= 0 else 'converged'}, epoch {epoch}"
        last = epoch + (whole.diverged < 0)
        assert torch.equal(end.curve[:last], whole.curve[:last])
        assert end.curve[last:].isnan().all()
        assert same_bits(end, train([fit])[0])  # whenever the others left
        short = replace(fit[0], epochs=epoch + 1, patience=None, min_delta=None)
        assert torch.equal(end.values, train([(short, fit[1])])[0].values)
    assert reasons == {"converged", "diverged"} | ({""} if any(not end.left for end in ends) else set())


def test_what_watches_sees_every_epoch_of_the_whole_stack_while_fits_leave() -> None:
    seen: list[tuple[int, int]] = []
    stack = Stack(tuple(stopping()), (4, 5) * 6)
    ends: list[Fitted] = stacks.train(stack, SCORES, lambda *told: seen.append((len(told[1]), told[2])))
    last = max(int(end.curve.isfinite().nonzero()[-1]) if end.curve.isfinite().any() else 0 for end in ends)
    assert {count for count, _ in seen} == {len(stack.fits)}
    assert [epoch for _, epoch in seen] == sorted({epoch for _, epoch in seen})
    assert seen[-1][1] in {last + 1, 300}


def test_a_sweep_of_every_axis_has_its_pictures_and_its_report() -> None:
    given = {"optimizer": ["sgd", "adam"], "epochs": [30, 40], "loss": ["mse", "mae"], "weight_decay": [0.0, 0.1]}
    settings = params(
        **{f"sweep_{name}": values for name, values in given.items()},
        sweep_schedule=["constant", "cosine"], sweep_lr=[0.01, 0.05], sweep_batch_size=["full"], sweep_seed=[1],
        variants=["matrix", "linear"], train_stop={"patience": 3, "min_delta": 0.1},
    )  # fmt: skip
    made = records(table(), settings)
    assert len({one.run.configuration for one in made}) == len(made) == 2**7
    assert any(one.left for one in made)
    found = results(table(), settings, made)
    page = report.render(found, pictures.draw(found))
    assert "optimizer=adam" in page
    assert {"optimizer", "weight_decay", "epochs"} <= set(found.board.columns)
    assert len(found.best_by_axes) == 2 * len(found.groups)
    assert rounding.unlike_plain(made[0].run) == ""
    assert "momentum" not in page
    assert "beta1 0.9, beta2 0.999" in page


def test_pictures_and_report_tell_what_was_trained_where_all_seeds_have_left_early() -> None:
    settings = params(
        variants=["matrix"], sweep_lr=[0.05], sweep_batch_size=[4, "full"], train_epochs=400,
        train_stop={"patience": 3, "min_delta": 1e-4},
    )  # fmt: skip
    made, rows = records(table(), settings), 12
    last = {
        str(size): max(one.last for one in made if one.run.batch_size == size) for size in settings.sweep.batch_size
    }
    assert len(set(last.values())) == 2
    assert max(last.values()) < 399
    found = results(table(), settings, made)
    drawn = {one.name: one for one in pictures.draw(found)}
    assert drawn["loss"].table.groupby("batch_size")["epoch"].max().to_dict() == last
    ends = drawn["cost"].table.groupby("batch_size").max()
    assert ends["rows"].to_dict() == {size: rows * (end + 1) for size, end in last.items()}
    assert ends["updates"].to_dict() == {"4": 3 * (last["4"] + 1), "full": last["full"] + 1}
    assert f"reading {ends['rows'].min():,} rows," in drawn["cost"].says or (
        f"reading {ends['rows'].max():,} rows," in drawn["cost"].says
    )
    page = report.render(found, list(drawn.values()))
    assert "patience 3, min_delta 0.0001" in page
    assert f"6 (0 diverged, {sum(bool(one.left) for one in made)} with fits that left early)" in page


def test_settings_stand_with_the_runs_that_use_them_alone() -> None:
    settings = params(sweep_optimizer=["sgd", "momentum", "adam"], sweep_schedule=["constant", "step"])
    named = {(one["optimizer"], one["schedule"]): configured(settings, "matrix", one) for one in points(settings)}
    assert {"momentum", "eps", "step_every"}.isdisjoint(named["sgd", "constant"])
    assert named["momentum", "step"].keys() >= {"momentum", "step_every", "step_factor"}
    assert {key for key in named["adam", "constant"] if key in ADAM} == set(ADAM)
