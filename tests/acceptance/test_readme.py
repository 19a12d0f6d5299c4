"""What a user reads and sees: the README's commands as they come, and MLflow's own pages."""

import json
import re
import sys
import urllib.request
from pathlib import Path

from conftest import REPOSITORY, default_store, run, search, serving


def test_a_bare_mlflow_ui_lists_the_runs(default_run: Path) -> None:
    with serving(default_run) as address:
        body = json.dumps({"experiment_ids": ["1"], "max_results": 100, "filter": "tags.role = 'run'"}).encode()
        request = urllib.request.Request(
            f"{address}/api/2.0/mlflow/runs/search", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            runs = json.load(answer)["runs"]
    assert {one["info"]["run_name"] for one in runs} == {
        one.info.run_name for one in search(default_store(default_run))
    }


def readme_commands() -> list[str]:
    """List the commands of the README; a file that it shows is written by one."""
    blocks = re.findall(
        r"^```(bash|python)\n(.*?)^```", (REPOSITORY / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    commands = []
    for kind, block in blocks:
        if kind == "python":
            commands.append(f"cat > {block.splitlines()[0].removeprefix('# ')} <<'END'\n{block}END")
        else:
            commands += [line for line in block.replace("\\\n", " ").splitlines() if line and line[0] != "#"]
    return commands


def test_the_readmes_commands_work_in_their_order(clone: Path) -> None:
    commands = readme_commands()
    assert len(commands) > 10
    # The environment is installed already, and the tests are what is running.
    (clone / ".venv").mkdir()
    for path in Path(sys.prefix).iterdir():
        (clone / ".venv" / path.name).symlink_to(path)
    (clone / ".venv/installed").unlink(missing_ok=True)
    (clone / ".venv/installed").touch()
    for command in commands:
        if command.startswith(
            ("git clone", "cd ", ". .venv", "make test", "make acceptance", "make processors", "make ui", "mlflow ui")
        ):
            continue
        run("bash", "-euc", command, cwd=clone)
    assert {one.info.status for one in search(default_store(clone))} <= {"FINISHED", "FAILED"}
