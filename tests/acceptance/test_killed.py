"""`make repro` goes on wherever a kill left DVC."""

import signal
from pathlib import Path

import chaos
import pytest
from conftest import run

KILLED = """
import os, signal, sys
import dvc.rwlock
from dvc.cli import main
from ruamel.yaml import YAML
dump = YAML.dump
def die(*_, **__):  # the file is open for writing by then, and empty
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv.pop(1) == "dvc.lock":
    YAML.dump = lambda yaml, data, file: (die if file.name.endswith("dvc.lock") else dump)(yaml, data, file)
else:
    dvc.rwlock.json.dump = die
main(["repro"])
"""


@pytest.mark.parametrize("name", ["dvc.lock", ".dvc/tmp/rwlock"])
def test_make_repro_goes_on_where_a_bare_dvc_repro_was_killed_in_the_act_of_writing(tmp_path: Path, name: str) -> None:
    repository = chaos.prepare(tmp_path / "repository", "matrix")
    killed = run("python", "-c", KILLED, name, cwd=repository, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (repository / name).read_bytes() == b""
    assert run("dvc", "repro", cwd=repository, check=False).returncode != 0
    told = run("make", "--assume-old", "setup", "repro", cwd=repository).stdout
    assert f"{name}: was " in told
    assert "matrix bs=full" in told
    assert chaos.store_faults(f"sqlite:///{repository / 'mlflow.db'}", 4) == []
