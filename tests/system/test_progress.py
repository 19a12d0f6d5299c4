"""What a stage shows while it works, at a terminal and elsewhere, and what that costs."""

import io
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from conftest import HANG_SECONDS, calls_of, environment
from rich.cells import cell_len
from rich.console import Console

from pipeline.execution.progress import Training
from pipeline.runs.records import Record
from pipeline.runs.run import Run
from pipeline.system import progress
from pipeline.system.progress import Display, duration
from pipeline.training.stacks import Stack

ESCAPE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which a test sets."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def run_of(batch_size: int, seed: int = 1) -> Run:
    return Run("linear", batch_size, 1e-5, seed, 1000, "zeros", "cpu", f"{batch_size} {seed}")


def stack(batch_size: int) -> Stack:
    return Stack(((run_of(batch_size), 0),), (100,))


def training(
    terminal: bool, width: int = 200, sizes: tuple[int, ...] = (1, 100), stored: Callable[[], int] | None = lambda: 0
) -> tuple[Training, io.StringIO]:
    out = io.StringIO()
    display = Display("train linear", Console(file=out, force_terminal=terminal, width=width, highlight=False))
    return Training(display, [stack(size) for size in sizes], 3, stored=stored), out


def train(shown: Training, clock: list[float], seconds_per_epoch: float, epochs: int) -> None:
    first = next(iter(shown.work))
    shown.start(first)
    curves = np.linspace(9, 2, 1000, dtype=np.float32)[None]
    for epoch in range(1, epochs + 1):
        clock[0] += seconds_per_epoch
        shown.follow(first, curves, epoch)


def test_elsewhere_than_at_a_terminal_it_prints_a_plain_line_every_five_seconds(clock: list[float]) -> None:
    shown, out = training(terminal=False)
    train(shown, clock, 0.125, 160)
    lines = out.getvalue().splitlines()
    assert "\x1b" not in out.getvalue()
    assert "\r" not in out.getvalue()
    told = [line for line in lines if "epoch" in line]
    assert [re.findall("epoch ([0-9]+) of 1,000", line) for line in told] == [["40"], ["80"], ["120"], ["160"]]
    assert all(line.endswith(", 8 epochs/s") for line in told)  # 0.125 s each
    assert "0 of 2 runs stored" in told[0]
    assert f"best train/mse {np.linspace(9, 2, 1000)[39]:.4g}" in told[0]


def test_a_stack_like_a_planned_one_takes_its_place(clock: list[float]) -> None:
    out = io.StringIO()
    display = Display("train", Console(file=out, width=200, highlight=False))
    further = Stack(((run_of(1), 2),), (80,))
    shown = Training(display, [stack(1), further], 3, splits=2, stored=lambda: 0)
    for one in (stack(1), further):
        shown.start(one)
        clock[0] += 6
        shown.follow(one, np.ones((1, 1000), dtype=np.float32), 1000)
        shown.end(one)
    shown.conclude(0)
    lines = out.getvalue().splitlines()
    told = [line for line in lines if "%" in line]
    assert [re.findall(r"(\d+)%.*stack (\d) of (\d)", line) for line in told] == [
        [("56", "1", "2")],
        [("100", "2", "2")],
    ]
    assert lines[-1] == "train: 0 runs trained; 1 fit for train.nested, all in 12 s; all stored"


def test_a_short_stage_prints_nothing_on_the_way(clock: list[float]) -> None:
    shown, out = training(terminal=False)
    train(shown, clock, 0.004, 1000)
    assert out.getvalue() == ""


def test_the_estimate_is_right_for_a_steady_rate_and_names_what_takes_longest(clock: list[float]) -> None:
    shown, out = training(terminal=False)
    train(shown, clock, 0.125, 480)
    first = out.getvalue().splitlines()[0]
    # 100 steps an epoch for batch size 1, and 1 for 100: the second stack is 1 % of the work.
    assert first == "train linear: about 2 min 1 s; batch size 1 is most of it"
    assert re.findall(r", (.*) left, best", out.getvalue())[-1] == duration((1000 * 1.01 - 480) * 0.125)


@pytest.mark.parametrize("width", [30, 60, 80, 120])
def test_at_a_terminal_it_redraws_one_line_that_fits(clock: list[float], width: int) -> None:
    shown, out = training(terminal=True, width=width)
    train(shown, clock, 0.03125, 160)
    drawn = out.getvalue().split("\r")[1:]
    assert "\n" not in out.getvalue()
    assert len(drawn) == 20
    assert all(len(ESCAPE.sub("", line)) < width for line in drawn)
    assert all(not line.endswith(("…", ",")) for line in drawn)
    assert ("stack 1 of 2" in drawn[-1]) == (width == 120)


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    monkeypatch.setenv("TERM", "dumb")
    shown, out = training(terminal=True)
    train(shown, clock, 0.125, 80)
    assert "\x1b" not in out.getvalue()
    assert out.getvalue().count("epoch ") == 2


@pytest.mark.parametrize(("stored", "said"), [(lambda: 1, "; 1 not stored"), (lambda: 2, "; all stored"), (None, "")])
def test_it_says_how_many_runs_diverged_and_how_many_are_stored_if_any_are(
    stored: Callable[[], int] | None, said: str
) -> None:
    shown, out = training(terminal=False, stored=stored)
    curve = np.array([3, 2], dtype=np.float32)
    records = [Record(run_of(1), "", curve, {}), Record(run_of(100), "all training rows, epoch 1", curve, {})]
    shown.start(stack(1))
    shown.finish(records)
    shown.conclude(5)
    trained = "train linear: 2 runs trained in 1 s, of which 1 diverged, 3 known; best train/mse 2"
    assert out.getvalue() == f"{trained}{said}\n"


def test_following_an_epoch_is_a_look_at_the_clock() -> None:
    shown, _ = training(terminal=False)
    three = Stack(tuple((run_of(1, seed), split) for split in range(6) for seed in range(3)), (100,) * 18)
    shown.start(three)
    curves = np.ones((18, 1000), dtype=np.float32)

    def follow() -> None:
        for epoch in range(1, 1001):
            shown.follow(three, curves, epoch)

    assert calls_of(follow) < 8 * 1000


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "1 s"), (59.4, "59 s"), (80, "1 min 20 s"), (1500, "25 min"), (9600, "2 h 40 min"), (4e6, "1,111 h 6 min")],
)
def test_durations_are_said_in_at_most_two_units(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def at_a_terminal(folder: Path, *command: str, **extra: str) -> str:
    """Run a command at a terminal of 80 columns; return all that it writes there."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command, cwd=folder, env=environment(COLUMNS="80", **extra), stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    said = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # all ends of it are closed
            break
        if not part:
            break
        said += part
    os.close(ours)
    assert process.wait(HANG_SECONDS) == 0, said
    return said.decode()


def test_stages_say_how_much_is_stored_and_evaluate_ends_with_the_leaderboard_and_links(
    small: Path, tmp_path: Path
) -> None:
    left_out = shutil.ignore_patterns("mlflow.db*", "mlartifacts", "tmp")
    folder = shutil.copytree(small, tmp_path / "copy", ignore=left_out)
    storing = folder / "pipeline/tracking/session.py"
    storing.write_text(
        storing.read_text() + "\nclose, Session.close = Session.close, lambda *told: (time.sleep(1), close(*told))\n"
    )
    said = at_a_terminal(folder, sys.executable, "-m", "pipeline.train", "matrix", TERM="xterm")
    assert re.search(r"\r\x1b\[2Ktrain matrix \(1 of 2\): storing: \d of 2 runs stored", said)
    assert ESCAPE.sub("", said).splitlines()[-1].startswith("train matrix (1 of 2): 2 runs trained in ")
    assert said.rstrip().endswith("all stored")
    command = [sys.executable, "-m", "pipeline.evaluate"]
    piped = subprocess.run(
        command, cwd=folder, env=environment(DVC_STAGE="evaluate"), capture_output=True, text=True, check=True
    )
    assert "\x1b" not in piped.stdout
    lines = piped.stdout.split("evaluate: 4 runs evaluated; all stored\n\n")[1].splitlines()
    assert lines[0].split()[:3] == ["configuration", "runs", "diverged"]
    assert [line.split(" lr")[0] for line in lines[1:5]] == [
        "matrix bs=full",
        "linear bs=full",
        "matrix bs=2",
        "linear bs=2",
    ]
    pages = "http://127.0.0.1:5000/#"
    news = [
        "regression-scores: version 1 is the champion: matrix bs=full lr=1e-05 epochs=20 seed=1",
        rf"{pages}/models/regression-scores\?.*",
        rf"the sweep in MLflow: {pages}/experiments/1/runs/[0-9a-f]{{32}}\?.*",
        rf"its leaderboard: {pages}/experiments/1/runs\?.*viewStateShareKey=leaderboard-[0-9a-f]{{6}}",
    ]
    assert all(re.fullmatch(pattern, line) for pattern, line in zip(news, lines[6:], strict=True)), lines
    assert all(cell_len(line) > 80 for line in lines[:1])  # nothing is left out where no terminal sets a width


@pytest.mark.parametrize("where", ["nobody reads", "a full disk", "no such characters"])
def test_what_cannot_be_shown_does_not_stop_a_stage(small: Path, tmp_path: Path, where: str) -> None:
    command = [sys.executable, "-m", "pipeline.prepare"]
    folder = tmp_path / "copy"
    folder.mkdir()
    shutil.copy(small / "params.yaml", folder)
    shutil.copytree(small / "data/raw", folder / "data/raw")
    shutil.copytree(small / "pipeline", folder / "pipeline")
    if where == "no such characters":
        text = (folder / "params.yaml").read_text().replace("data/raw/scores.csv", "data/raw/점수.csv")
        (folder / "params.yaml").write_text(text)
        (folder / "data/raw/scores.csv").rename(folder / "data/raw/점수.csv")
    reading, writing = os.pipe()
    os.close(reading)
    with Path("/dev/full").open("w") as full:
        stdout: int | IO[str] = subprocess.PIPE
        if where != "no such characters":
            stdout = writing if where == "nobody reads" else full
        extra = {"PYTHONIOENCODING": "ascii"} if where == "no such characters" else {}
        ended = subprocess.run(
            command, cwd=folder, env=environment(**extra), stdout=stdout, stderr=subprocess.PIPE, text=True, check=False
        )
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert (folder / "data/prepared/tensors.safetensors").exists()
