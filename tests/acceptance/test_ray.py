"""A sweep on a real Ray cluster of one head and two worker nodes, all on this machine."""

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from conftest import HANG_SECONDS, REPOSITORY, copy_checkout, default_store, environment, free_port, run, search, until

BIN = REPOSITORY / ".venv-ray/bin"
RAY = {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PIPELINE_ENGINE": "ray"}
TRAIN = ["python", "-m", "pipeline.train", "linear"]
STACKS = {"epochs: 1000": "epochs: 5000", "  - 4\n  - full": "  - 3\n  - 4\n  - full"}
pytestmark = [pytest.mark.long, pytest.mark.skipif(not (BIN / "ray").exists(), reason="needs Ray: make ray")]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with prepared data, and params for ten stacks."""
    folder = copy_checkout(tmp_path_factory.mktemp("ray"))
    text = (folder / "params.yaml").read_text()
    for old, new in STACKS.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "params.yaml").write_text(text)
    run("python", "-m", "pipeline.prepare", cwd=folder)
    return folder


@contextmanager
def cluster(**second: str) -> Iterator[tuple[dict[str, str], list[psutil.Popen]]]:
    """Start a head that runs no tasks and two nodes that run two at once; yield how to reach them, and their processes.

    Args:
        second: variables of the second node's environment.
    """
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # the paths of its sockets have at most 107 characters
    own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), **RAY}
    address = f"127.0.0.1:{free_port()}"
    port = address.rpartition(":")[2]
    head = ["--head", "--port", port, "--num-cpus=0", f"--temp-dir={folder}", "--include-dashboard=false"]
    node = [f"--address={address}", "--num-cpus=2"]
    started: list[psutil.Popen] = []
    try:
        for options, variables in ((head, {}), (node, {}), (node, second)):
            command = [str(BIN / "ray"), "start", "--block", "--node-ip-address=127.0.0.1", "--disable-usage-stats"]
            with (Path(folder) / f"{len(started)}.log").open("w") as log:
                extra = environment(**own, **variables)
                started.append(psutil.Popen(command + options, env=extra, stdout=log, stderr=log, cwd=folder))
            until(lambda: "--block" in (Path(folder) / f"{len(started) - 1}.log").read_text())
        yield {**own, "RAY_ADDRESS": address}, started
    finally:
        for process in reversed(started):
            kill(process)
        shutil.rmtree(folder, ignore_errors=True)


def kill(process: psutil.Popen) -> None:
    """Kill a process and all below it, at once."""
    if not process.is_running():
        return
    for one in [process, *process.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait()


def training(process: psutil.Process) -> list[psutil.Process]:
    """List the processes below one that train a stack."""
    found = []
    for one in process.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "".join(one.cmdline()).startswith("ray::train"):
                found.append(one)
    return found


def train(repository: Path, variables: dict[str, str], act: Callable[[], object] = lambda: None) -> dict[str, bytes]:
    """Train into an empty store, and do something meanwhile; return the outs."""
    for path in (*repository.glob("mlflow.db*"), *repository.glob("data/trained/*/*")):
        path.unlink()
    process = subprocess.Popen(TRAIN, cwd=repository, env=environment(**variables), stderr=subprocess.PIPE, text=True)
    act()
    told = process.communicate(timeout=HANG_SECONDS)[1]
    assert (process.returncode, told) == (0, "")
    statuses = Counter(one.info.status for one in search(default_store(repository)))
    assert statuses == {"FINISHED": 15}
    return {path.name: path.read_bytes() for path in repository.glob("data/trained/linear/*")}


def test_a_node_that_is_killed_while_it_trains_changes_no_bit(prepared: Path) -> None:
    here = train(prepared, {"PIPELINE_ENGINE": "here"})
    with cluster() as (variables, [_, _, second]):
        assert train(prepared, variables) == here

        def kill_the_second() -> None:
            until(lambda: training(second))
            time.sleep(1)
            assert training(second)
            kill(second)

        assert train(prepared, variables, kill_the_second) == here


def test_the_further_fits_of_nested_cross_validation_see_their_own_rows_there_too(prepared: Path) -> None:
    text = (prepared / "params.yaml").read_text()
    assert text.count("nested: false") == 1
    try:
        short = text.replace("nested: false", "nested: true").replace("epochs: 5000", "epochs: 20")
        (prepared / "params.yaml").write_text(short)
        here = train(prepared, {"PIPELINE_ENGINE": "here"})
        there = train(prepared, RAY)
    finally:
        (prepared / "params.yaml").write_text(text)
        (prepared / "data/trained/linear/nested.safetensors").unlink(missing_ok=True)
    assert "nested.safetensors" in here
    assert there == here


def test_a_worker_with_other_kernels_and_another_torch_is_refused_by_name(prepared: Path, tmp_path: Path) -> None:
    (tmp_path / "torch-1.0.dist-info").mkdir()
    (tmp_path / "torch-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 1.0\n")
    with cluster(PIPELINE_KERNELS="default", PYTHONPATH=str(tmp_path)) as (variables, _):
        refused = run(*TRAIN, cwd=prepared, extra=variables, check=False)
    assert refused.returncode == 1
    assert "a Ray worker there has kernels default instead of avx2, torch 1.0 instead of 2.13.0" in refused.stderr
    assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stage_that_is_stopped_leaves_no_process_behind(prepared: Path, number: signal.Signals) -> None:
    with psutil.Popen(TRAIN, cwd=prepared, env=environment(**RAY), stderr=subprocess.DEVNULL) as process:
        until(lambda: training(process))
        below = process.children(recursive=True)
        process.send_signal(number)
        assert process.wait() != 0
    assert (
        psutil.wait_procs(below, timeout=HANG_SECONDS)[1] == []
    )  # two of Ray's agents first wait a minute for its head


def test_a_stage_that_is_stopped_leaves_a_cluster_of_others_alone(prepared: Path) -> None:
    with cluster() as (variables, nodes):
        with psutil.Popen(TRAIN, cwd=prepared, env=environment(**variables), stderr=subprocess.DEVNULL) as process:
            until(lambda: training(nodes[1]))
            process.send_signal(signal.SIGINT)
            assert process.wait() != 0
        until(lambda: not training(nodes[1]) and not training(nodes[2]))
        assert all(node.is_running() for node in nodes)
        train(prepared, variables)
