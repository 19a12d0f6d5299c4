"""What a Ray worker does, without Ray: it trains with the same bits, or says why it may not."""

import sys

import pytest
import torch
from sweeps import table

from pipeline.errors import InputError
from pipeline.execution import choice, ray_worker
from pipeline.runs.run import Run
from pipeline.system import machine
from pipeline.training import stacks
from pipeline.training.stacks import Fitted, Stack

RUNS = [Run("linear", 2, 1e-2, seed, 30, "default", "cpu", f"{seed}") for seed in range(40)]
STACK = Stack(tuple((run, 0) for run in RUNS), (12,) * len(RUNS))


def items(tags: dict[str, str]) -> list[object]:
    arrays = {name: array for name, array in vars(table()).items() if array is not None}
    for array in arrays.values():
        array.flags.writeable = False  # as those in Ray's memory
    return list(ray_worker.train(ray_worker.pack(STACK), arrays, 1, tags))


def test_a_worker_streams_its_curves_and_trains_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_worker, "GROWN_SECONDS", 0.0)
    _, *parts, last = items(machine.numeric_tags())
    assert isinstance(last, ray_worker.Trained)
    fitted: list[Fitted] = ray_worker.unpack(last.fitted)
    expected = stacks.train(STACK, table(), lambda *_: None, seed=1)
    for one, other in zip(fitted, expected, strict=True):
        assert torch.equal(one.values, other.values)
        assert torch.equal(one.curve, other.curve)
        assert (one.path is None) == (other.path is None)
    grown = [part.curves for part in parts if isinstance(part, ray_worker.Grown)]
    assert torch.equal(
        torch.cat([torch.from_numpy(part) for part in grown], 1), torch.stack([f.curve for f in expected])
    )
    assert len(last.fitted) < 2 * sum(one.curve.nbytes + one.values.nbytes + 500 for one in expected)


def test_a_worker_whose_bits_may_differ_trains_nothing() -> None:
    [started] = items({**machine.numeric_tags(), "torch": "1.0"})
    assert started == ray_worker.Started(started.host, machine.numeric_tags())  # type: ignore[attr-defined]


def test_without_ray_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "pipeline.execution.ray_cluster", raising=False)
    with pytest.raises(InputError, match=r"Ray is not installed here; run: make ray && \. \.venv-ray/bin/activate$"):
        choice.cluster("", 2, table())
