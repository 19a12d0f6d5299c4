"""Where stacks train changes no bit. Kills and Ctrl-C: tests/acceptance/test_engines.py."""

import os
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, run
from sweeps import table

from pipeline.errors import InputError
from pipeline.execution import choice
from pipeline.execution.checkpoints import Checkpoints
from pipeline.execution.engine import Here
from pipeline.execution.processes import Workers
from pipeline.runs.run import Run
from pipeline.system import machine
from pipeline.training.stacks import Stack

TESTS = {"PYTHONPATH": "tests"}  # whose table tools/two_engines.py uses


def stack(device: str = "cpu", epochs: int = 10**5) -> Stack:
    return Stack(((Run("matrix", 1, 1e-5, 1, epochs, "zeros", device, "f"), 0),), (5,))


def test_workers_make_the_same_bits_as_this_process_also_when_one_is_killed() -> None:
    told = run(sys.executable, "tools/two_engines.py", "one", cwd=REPOSITORY, extra=TESTS)
    assert told.stdout == "\n"
    assert told.stderr == "WARNING: a worker process was killed; its runs train again; 1 worker left\n"


@pytest.mark.parametrize(
    ("told", "device", "epochs", "count"),
    [
        ({}, "cpu", 10**5, 2),  # two stacks
        ({}, "cpu", 10, 0),
        ({}, "cuda", 10**5, 0),
        ({"PIPELINE_WORKERS": "3"}, "cpu", 10, 3),
        ({"PIPELINE_ENGINE": "workers"}, "cpu", 10, 2),
        ({"PIPELINE_ENGINE": "workers", "PIPELINE_WORKERS": "1"}, "cpu", 10, 1),
        ({"PIPELINE_ENGINE": "here", "PIPELINE_WORKERS": "3"}, "cpu", 10**5, 0),
        ({"PIPELINE_ENGINE": "workers"}, "cuda", 10**5, 0),
    ],
)
def test_the_work_and_the_environment_choose_the_engine(
    told: dict[str, str], device: str, epochs: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 8)
    chosen = choice.choose(told, [stack(device, epochs)] * 2, table(), Checkpoints())
    assert (chosen.count if isinstance(chosen, Workers) else 0) == count
    assert isinstance(chosen, Workers | Here)


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "1025", "²"])
def test_a_wrong_number_of_workers_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=rf"^PIPELINE_WORKERS: got '{text}', takes a number from 1 to 1024; or"):
        choice.choose({"PIPELINE_WORKERS": text}, [stack()], table(), Checkpoints())


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(InputError, match=r"^PIPELINE_ENGINE: got 'spark', takes here, workers, ray; or unset it$"):
        choice.choose({"PIPELINE_ENGINE": "spark"}, [stack()], table(), Checkpoints())


@pytest.mark.parametrize(
    ("files", "count"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "250000 100000\n"}, 3),
        ({"cpu.max": "10000 100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
    ],
)
def test_cores_are_those_that_this_process_may_use(
    files: dict[str, str], count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert machine.cores(tmp_path) == count
