"""A stage or command that is stopped, or cannot write, ends in one line and leaves nothing half-written."""

import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from conftest import HANG_SECONDS, default_store, environment, run, search

from pipeline import errors
from pipeline.tracking.store.location import Lock

STAGES = ["pipeline.prepare", "pipeline.train", "pipeline.evaluate"]
GO_ON = "go on with: dvc repro"


@pytest.fixture
def workspace(small: Path, tmp_path: Path) -> Path:
    """A copy of a repository with its outs, without its store."""
    return shutil.copytree(small, tmp_path / "copy", ignore=shutil.ignore_patterns("mlflow.db*", "mlartifacts", "tmp"))


def command(module: str) -> list[str]:
    return [sys.executable, "-m", module, *(["matrix"] if module == "pipeline.train" else [])]


def files(folder: Path) -> dict[str, bytes]:
    left_out = {".git", "__pycache__", "mlartifacts"}
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not left_out & set(path.parts) and not path.name.startswith("mlflow.db")
    }


@pytest.mark.parametrize(
    ("module", "fault"), [*((stage, "a full disk") for stage in STAGES), (STAGES[0], "a file in the way")]
)
def test_a_stage_that_cannot_write_says_what_and_where_and_leaves_the_outs_as_they_were(
    workspace: Path, module: str, fault: str
) -> None:
    outs = {"prepare": "data/prepared", "train": "data/trained/matrix", "evaluate": "plots"}
    out = outs[module.removeprefix("pipeline.")]
    if fault != "a full disk":
        shutil.rmtree(workspace / out)
        (workspace / out).write_text("in the way")
    before = files(workspace)
    most = 4096 if module == "pipeline.evaluate" else 128  # less than a picture, than tensors

    def limit() -> None:
        if fault == "a full disk":  # as near to one as a user comes who may not mount
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    ended = subprocess.run(
        command(module),
        cwd=workspace,
        env=environment(MLFLOW_TRACKING_URI="no store", PYTHONDONTWRITEBYTECODE="1"),
        preexec_fn=limit,
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG_SECONDS,
    )
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert last.startswith(out)
    assert last.endswith(f"; mend this, and {GO_ON}")
    assert set(files(workspace)) == set(before)


@pytest.mark.parametrize("told", [*map(command, STAGES), ["pipeline", "top"], ["pipeline", "doctor"]])
def test_ctrl_c_ends_in_one_line_also_while_libraries_are_loaded(workspace: Path, told: list[str]) -> None:
    process = subprocess.Popen(
        told, cwd=workspace, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    maps = Path(f"/proc/{process.pid}/maps")
    while "numpy" not in maps.read_text() and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=HANG_SECONDS)[0]
    assert said == ("stopped\n" if told[0] == "pipeline" else f"stopped; finished stages are kept; {GO_ON}\n")
    assert process.returncode == 130


def test_ctrl_c_waits_for_what_is_being_stored(workspace: Path) -> None:
    (workspace / "data/trained/matrix/runs.csv").unlink()
    with Lock(workspace / "mlflow.db.lock"):  # the storing process waits for it
        process = subprocess.Popen(command("pipeline.train"), cwd=workspace, env=environment(), stderr=subprocess.PIPE)
        while not (workspace / "data/trained/matrix/runs.csv").exists():
            time.sleep(0.01)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2)
    assert process.communicate(timeout=HANG_SECONDS)[1].decode() == f"stopped; finished stages are kept; {GO_ON}\n"
    assert [run.info.status for run in search(default_store(workspace))] == ["FINISHED"] * 2


def test_reproduce_stopped_by_ctrl_c_leaves_no_process_and_no_worktree(small: Path) -> None:
    run_id = search(default_store(small))[0].info.run_id
    told = ["pipeline", "reproduce", run_id]
    process = subprocess.Popen(told, cwd=small, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while not (stages := [child for child in psutil.Process(process.pid).children(recursive=True) if is_stage(child)]):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=HANG_SECONDS)[0] == b"stopped\n"
    assert psutil.wait_procs(stages, timeout=HANG_SECONDS)[1] == []
    assert run("git", "worktree", "list", cwd=small).stdout.count("\n") == 1


def is_stage(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return "pipeline.tracking" in process.cmdline()
    return False


@pytest.mark.parametrize("told", [command("pipeline.train"), ["pipeline", "runs", "nonsense"]])
def test_wrong_input_ends_in_its_message_and_exit_code_1(workspace: Path, told: list[str]) -> None:
    if told[0] != "pipeline":
        (workspace / "params.yaml").write_text("variants: 7")
    ended = subprocess.run(told, cwd=workspace, env=environment(), capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("nonsense: " if told[0] == "pipeline" else "params.yaml: ")
    assert "Traceback" not in ended.stderr


def test_another_error_keeps_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    error = ValueError("on purpose")
    errors.say_why(ValueError, error, None)
    assert capsys.readouterr().err == "ValueError: on purpose\n"


def test_a_stopped_stage_of_an_experiment_is_gone_on_with_by_the_same_experiment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["pipeline/train.py"])
    monkeypatch.setenv("DVC_EXP_NAME", "rates")
    with pytest.raises(SystemExit):
        errors.say_why(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert capsys.readouterr().err.endswith("go on with the same: dvc exp run\n")
