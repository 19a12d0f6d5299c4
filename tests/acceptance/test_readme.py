"""What a user reads and sees: the documents' commands as they come, and MLflow's own pages."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import HANG_SECONDS, REPOSITORY, default_store, environment, free_port, run, search, serving

SERVERS = ("pipeline ui", "mlflow models serve")
PAGES = ("README.md", "docs/tables.md", "docs/sweeps.md", "docs/models.md")  # in this order, in one clone
ELSEWHERE = (". .venv", "curl")  # the environment is active; curl runs while its server does


def test_a_bare_mlflow_ui_lists_the_runs(default_run: Path) -> None:
    with serving(default_run) as address:
        body = json.dumps({"experiment_ids": ["1"], "max_results": 100, "filter": "tags.role = 'run'"}).encode()
        request = urllib.request.Request(
            f"{address}/api/2.0/mlflow/runs/search", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=HANG_SECONDS) as answer:
            runs = json.load(answer)["runs"]
    assert {one["info"]["run_name"] for one in runs} == {
        one.info.run_name for one in search(default_store(default_run))
    }


def commands_of(page: str) -> list[str]:
    """List the commands of a page; a file that it shows is written by one."""
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```(bash|python)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    commands = []
    for kind, block in blocks:
        if kind == "python":
            commands.append(f"cat > {block.splitlines()[0].removeprefix('# ')} <<'END'\n{block}END")
        else:
            commands += [line for line in block.replace("\\\n", " ").splitlines() if line and line[0] != "#"]
    return commands


@contextmanager
def started(command: str, folder: Path) -> Iterator[str]:
    """Start a server as in a second terminal, on a free port; yield its address once it answers."""
    address = f"http://127.0.0.1:{free_port()}"
    command = re.sub(r"\s+#.*", "", command).partition(" --port")[0]
    server = subprocess.Popen(
        ["bash", "-euc", f"exec {command} --port {address.rpartition(':')[2]}"],
        cwd=folder,
        env=environment(BROWSER="true"),  # a browser that opens nothing
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        for _ in range(240):
            try:
                with urllib.request.urlopen(f"{address}/health", timeout=10) as answer:
                    assert answer.status == 200
                break
            except OSError:
                assert server.poll() is None, f"{command} ended with {server.returncode}"
                time.sleep(0.5)
        else:
            pytest.fail(f"{command} does not answer")
        yield address
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGINT)  # Ctrl-C
        server.wait(HANG_SECONDS)


def first_run(_: str, clone: Path) -> None:
    assert len(search(default_store(clone))) == 48
    assert (clone / "report.html").stat().st_size > 10_000


def leaderboard(printed: str, clone: Path) -> None:
    champion = json.loads((clone / "metrics.json").read_text())["champion"]["configuration"]
    assert champion in printed.splitlines()[1]


def rates(_: str, clone: Path) -> None:
    runs = search(default_store(clone), "tags.role = 'run' and tags.dvc_experiment = 'lrs'")
    ended = {(float(one.data.params["lr"]), one.info.status) for one in runs}
    assert ended == {(1e-6, "FINISHED"), (4e-5, "FINISHED"), (5e-5, "FAILED")}  # those of 1e-5 are stored already


def own_table(_: str, clone: Path) -> None:
    runs = search(default_store(clone), "tags.role = 'run' and tags.dvc_experiment = 'line'")
    assert max(one.data.metrics["cv/r2"] for one in runs) > 0.99


def queued(_: str, clone: Path) -> None:
    runs = search(default_store(clone), "tags.role = 'run' and params.init = 'default'")
    assert {one.data.params["variant"] for one in runs} == {"module"}


def variant(_: str, clone: Path) -> None:
    assert {one.info.status for one in search(default_store(clone), "params.variant = 'mlp'")} == {"FINISHED"}


def predicted(printed: str, _: Path) -> None:
    values = [float(line.rpartition(",")[2]) for line in printed.splitlines()[1:]]
    np.testing.assert_allclose(values, SCORES["final"], atol=3)


def served(printed: str, _: Path) -> None:
    X1 = np.column_stack([SCORES[["quiz1", "quiz2", "quiz3"]], np.ones(len(SCORES))])
    best = np.array([80, 85, 90, 1]) @ np.linalg.lstsq(X1, SCORES["final"])[0]
    [value] = re.findall(r"\d+\.\d+", printed)
    assert abs(float(value) - best) < 3


def identical(printed: str, _: Path) -> None:
    assert re.search(r"^[0-9a-f]{32}: identical$", printed, re.MULTILINE)


SCORES = pd.read_csv(REPOSITORY / "data/raw/scores.csv")
CHECKS: dict[str, Callable[[str, Path], None]] = {
    "make repro": first_run,
    "pipeline leaderboard": leaderboard,
    "dvc exp run --temp --name lrs": rates,
    "dvc exp run --temp --name line": own_table,
    "dvc exp run --run-all": queued,
    "dvc exp run --temp -S 'variants=[mlp]'": variant,
    "pipeline predict": predicted,
    "curl": served,
    "pipeline reproduce": identical,
}


def check(command: str, printed: str, clone: Path) -> str:
    """Check what a command has done, beyond its exit code; return which of CHECKS it was."""
    [begin] = [begin for begin in CHECKS if command.startswith(begin)] or [""]
    if begin:
        CHECKS[begin](printed, clone)
    if "--temp" in command:
        assert run("git", "status", "--porcelain", "--", "params.yaml", "dvc.lock", cwd=clone).stdout == ""
    return begin


def test_the_documents_commands_work_in_their_order(clone: Path) -> None:
    commands = [command for page in PAGES for command in commands_of(page)]
    assert len(commands) > 20
    # The environment is installed already.
    (clone / ".venv").mkdir()
    for path in Path(sys.prefix).iterdir():
        (clone / ".venv" / path.name).symlink_to(path)
    (clone / ".venv/installed").unlink(missing_ok=True)
    (clone / ".venv/installed").touch()
    checked = set()
    for command, following in zip(commands, [*commands[1:], ""], strict=True):
        if command.startswith(ELSEWHERE):
            continue
        if not command.startswith(SERVERS):
            checked.add(check(command, run("bash", "-euc", command, cwd=clone).stdout, clone))
            continue
        with started(command, clone) as address:
            if following.startswith("curl"):
                asking = re.sub(r"http://127\.0\.0\.1:\d+", address, following)
                checked.add(check(following, run("bash", "-euc", asking, cwd=clone).stdout, clone))
    assert checked >= set(CHECKS)
    assert {one.info.status for one in search(default_store(clone))} <= {"FINISHED", "FAILED"}
