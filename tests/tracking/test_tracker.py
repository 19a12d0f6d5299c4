"""What the tracker sends of the stacks that it hears of."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import REPOSITORY

from pipeline.config import params
from pipeline.execution.listener import Listeners
from pipeline.runs.run import Run
from pipeline.tracking import tracker
from pipeline.tracking.tracker import Tracker
from pipeline.training.stacks import Stack

RUNS = [Run("matrix", 1, 1e-5, seed, 100, "zeros", "cpu", f"{seed}") for seed in (1, 2)]
STACK = Stack(tuple((run, split) for split in (0, 1) for run in RUNS), (5, 5, 4, 4))


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    messages: list[tuple[object, ...]] = []
    monkeypatch.setattr(Tracker, "_send", lambda _, *message: messages.append(message))
    return messages


@pytest.fixture
def listeners() -> Listeners:
    return Listeners(Tracker(params.load(REPOSITORY / "params.yaml"), RUNS))


def test_each_run_of_a_stack_is_opened_once_unless_the_stack_pauses_before_its_end(
    listeners: Listeners, sent: list[tuple[object, ...]]
) -> None:
    listeners.start(replace(STACK, until=10))
    assert sent == []
    for until in (None, 100):
        listeners.start(replace(STACK, until=until))
        listeners.end(STACK)
        assert sent == [("start", RUNS)]
        sent.clear()


def test_new_points_of_the_fits_on_all_rows_are_sent_every_few_seconds(
    listeners: Listeners, sent: list[tuple[object, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    curves = np.arange(400, dtype=np.float32).reshape(4, 100)
    listeners.follow(STACK, curves, 1)
    assert sent == []
    monkeypatch.setattr(tracker, "FOLLOW_SECONDS", -1.0)
    for epoch in (2, 4):
        listeners.follow(STACK, curves, epoch)
    first, then = {"1": {0: 0, 1: 1}, "2": {0: 100, 1: 101}}, {"1": {2: 2, 3: 3}, "2": {2: 102, 3: 103}}
    assert sent == [("grow", first), ("grow", then)]
