"""What a Ray worker does, without Ray: it trains with the same bits, or says why it may not."""

import sys
from typing import Any

import pytest
import torch
from sweeps import table

from pipeline.errors import InputError
from pipeline.execution import choice, ray_worker
from pipeline.execution.messages import Grown, Started, Task, Trained, pack, unpack
from pipeline.runs.run import Run
from pipeline.system import machine, processes
from pipeline.training import stacks
from pipeline.training.stacks import Stack

RUNS = [Run("linear", 2, 1e-2, seed, 30, "default", "cpu", f"{seed}") for seed in range(40)]
STACK = Stack(tuple((run, 0) for run in RUNS), (12,) * len(RUNS))


def reports(tags: dict[str, str]) -> list[Any]:
    arrays = {name: array for name, array in vars(table()).items() if array is not None}
    for array in arrays.values():
        array.flags.writeable = False  # as those in Ray's memory
    return list(ray_worker.train(pack(Task(STACK, seed=1)), arrays, tags))


def test_a_worker_streams_its_curves_and_trains_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_worker, "REPORT_SECONDS", 0.0)
    packed = reports(machine.numeric_tags())
    _, *parts, last = map(unpack, packed)
    assert isinstance(last, Trained)
    expected = stacks.train(STACK, table(), lambda *_: None, seed=1)
    for one, other in zip(last.fits, expected, strict=True):
        assert torch.equal(one.values, other.values)
        assert torch.equal(one.curve, other.curve)
        assert (one.path is None) == (other.path is None)
    assert all(isinstance(part, Grown) for part in parts)
    grown = torch.cat([torch.from_numpy(part.columns) for part in parts], 1)
    assert torch.equal(grown, torch.stack([one.curve for one in expected]))
    assert len(packed[-1]) < 2 * sum(one.curve.nbytes + one.values.nbytes + 500 for one in expected)


def test_a_worker_whose_bits_may_differ_trains_nothing() -> None:
    [started] = map(unpack, reports({**machine.numeric_tags(), "torch": "1.0"}))
    assert started == Started(processes.host(), machine.numeric_tags())


def test_without_ray_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "pipeline.execution.ray_cluster", raising=False)
    with pytest.raises(InputError, match=r"Ray is not installed here; run: make ray && \. \.venv-ray/bin/activate$"):
        choice.cluster("", 2, table())
