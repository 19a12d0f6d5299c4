"""Kills and Ctrl-C while workers train: no process is left, and outs are the bytes that one process makes."""

import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from conftest import HANG_SECONDS, REPOSITORY, environment, run, until
from test_recovery import DYING, lasting, store, trained, wait_for, wait_for_a_run

__all__ = ["trained"]  # a fixture
TESTS = {"PYTHONPATH": "tests"}  # whose table it uses
STAGE = "from pipeline import train\n{}\ntrain.main()"


@contextmanager
def training(repository: Path, folder: Path, code: str = "", **extra: str) -> Iterator[psutil.Popen]:
    """Train the variant matrix, in a group of its own, after some code."""
    command = [sys.executable, "-c", STAGE.format(code), "matrix"]
    settings = environment(**store(folder), **extra)
    with psutil.Popen(
        command, cwd=repository, env=settings, start_new_session=True, stderr=subprocess.PIPE, text=True
    ) as stage:
        try:
            yield stage
        finally:
            if stage.poll() is None:
                stage.kill()


def workers(stage: psutil.Popen, count: int) -> list[psutil.Process]:
    """Wait until so many workers train."""

    def all_train() -> list[psutil.Process]:
        own = [one for one in stage.children() if one.cmdline() == stage.cmdline()]
        return own if len(own) == count and all(one.cpu_times().user > 0.1 for one in own) else []

    return until(all_train)


def are_gone(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, timeout=HANG_SECONDS)[1]


def outs(repository: Path) -> dict[str, bytes]:
    """Take the outs away."""
    found = {}
    for path in (repository / "data/trained/matrix").iterdir():
        found[path.name] = path.read_bytes()
        path.unlink()
    return found


@pytest.fixture(scope="module")
def alone(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The outs of 4,000 epochs in one process."""
    folder = tmp_path_factory.mktemp("alone")
    with lasting(trained, 4000), training(trained, folder, PIPELINE_ENGINE="here") as stage:
        assert stage.wait(HANG_SECONDS) == 0
    return outs(trained)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_outs_are_the_same_bytes_with_any_number_of_workers(
    trained: Path, tmp_path: Path, alone: dict[str, bytes], count: int
) -> None:
    with lasting(trained, 4000), training(trained, tmp_path, PIPELINE_WORKERS=str(count)) as stage:
        assert stage.wait(HANG_SECONDS) == 0
    assert outs(trained) == alone


@pytest.mark.parametrize("doomed", [1, 2])
def test_a_killed_worker_costs_its_stack_only(
    trained: Path, tmp_path: Path, alone: dict[str, bytes], doomed: int
) -> None:
    with lasting(trained, 4000), training(trained, tmp_path, PIPELINE_WORKERS="2") as stage:
        for worker in workers(stage, 2)[:doomed]:
            worker.kill()
        said = stage.communicate(timeout=HANG_SECONDS)[1]
    assert stage.returncode == 0
    assert said.count("WARNING: a worker process was killed; its runs train again") == doomed
    assert outs(trained) == alone
    stored = [one for one in wait_for(tmp_path, "FINISHED", "SCHEDULED") if one.data.tags["role"] == "run"]
    assert [one.info.status for one in stored] == ["FINISHED"] * 4


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_stage_that_is_killed_or_stopped_leaves_no_process(
    trained: Path, tmp_path: Path, number: signal.Signals
) -> None:
    with lasting(trained, 10**6), training(trained, tmp_path, PIPELINE_WORKERS="2") as stage:
        own = workers(stage, 2)
        wait_for_a_run(tmp_path)
        below = stage.children(recursive=True)
        if number == signal.SIGINT:
            os.killpg(stage.pid, number)  # as the terminal does: workers get it too
        else:
            stage.send_signal(number)
        assert stage.wait(HANG_SECONDS) != 0
        assert are_gone(own)
        assert {one.info.status for one in wait_for(tmp_path, "KILLED")} == {"KILLED"}  # its pipe has ended
        assert are_gone(below)


@pytest.mark.long
def test_a_killed_training_resumes_from_its_checkpoints_whatever_the_engine(
    trained: Path, tmp_path: Path, alone: dict[str, bytes]
) -> None:
    chance, saved = random.Random(1), trained / ".dvc/tmp/checkpoints"
    engines = [{"PIPELINE_WORKERS": "2"}, {"PIPELINE_ENGINE": "here"}, {"PIPELINE_WORKERS": "3"}]
    with lasting(trained, 4000):
        for engine in engines:
            with training(trained, tmp_path, DYING.format(chance.randrange(300, 900)), **engine) as stage:
                assert stage.wait(HANG_SECONDS) == -signal.SIGKILL
            assert list(saved.glob("[!.]*"))
        with training(trained, tmp_path, PIPELINE_WORKERS="2") as stage:
            assert stage.wait(HANG_SECONDS) == 0
    assert outs(trained) == alone
    assert list(saved.iterdir()) == []


@pytest.mark.parametrize("word", ["", "all"])
def test_without_a_kill_or_with_all_workers_killed_the_bits_are_the_same(word: str) -> None:
    told = run(sys.executable, "tools/two_engines.py", *([word] if word else []), cwd=REPOSITORY, extra=TESTS)
    assert told.stdout == "\n"


def test_an_error_in_a_worker_reaches_the_stage_on_one_line() -> None:
    told = run(sys.executable, "tools/two_engines.py", "broken", cwd=REPOSITORY, extra=TESTS, check=False)
    last = told.stderr.splitlines()[-1]
    assert re.fullmatch(
        r"RuntimeError: ValueError: on purpose \(.*/two_engines.py, line \d+, in a worker process\)", last
    )
