"""A stage or command that is stopped, or cannot write, ends in one line and leaves nothing half-written."""

import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import environment

from pipeline import ending

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
        timeout=60,
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
    said = process.communicate(timeout=60)[0]
    assert said == ("stopped\n" if told[0] == "pipeline" else f"stopped; finished stages are kept; {GO_ON}\n")
    assert process.returncode == 130


def test_another_error_keeps_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    error = ValueError("on purpose")
    ending.say_why(ValueError, error, None)
    assert capsys.readouterr().err == "ValueError: on purpose\n"
