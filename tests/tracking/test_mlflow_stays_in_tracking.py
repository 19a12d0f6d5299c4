"""The wall around pipeline/tracking: outside of it nobody imports MLflow, writes its filters or names its tags.

Whoever is outside enters through a door, and gets plain values.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import REPOSITORY, environment

PACKAGE = REPOSITORY / "pipeline"
ROOM = PACKAGE / "tracking"
DOORS = {"tracker", "queries", "sync", "models"}  # for stages; for reading; for the outs; for what predicts
DOORS |= {"audit"}  # reads all that the store has of an experiment, for doctor
VALUES = {"validation", "runs", "seals", "values"}  # a checked record, and what its parts mean: they reach no store
OUTSIDE = sorted(path for path in PACKAGE.rglob("*.py") if ROOM not in path.parents)
STATUSES = {"RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"}
FILTER = re.compile(r"\b(tags|attributes|metrics|params)\.(?!json\b|py\b|yaml\b)[\w`\"]")
TAG = re.compile(r"\bmlflow\.(?!db\b|copied\b)\w")  # mlflow.db is the store's file


def imports(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """List what a module imports: from which module, and which name, empty for the module itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)


def of_mlflow(module: str) -> bool:
    return module.split(".", maxsplit=1)[0] in {"mlflow", "mlflow_skinny"}


def defined(module: str) -> set[str]:
    """List the names that a module of the room defines itself; none where it imports MLflow."""
    path = ROOM / f"{module.replace('.', '/')}.py"
    tree = ast.parse(path.read_text())
    if any(of_mlflow(name) for name, _ in imports(tree)):
        return set()
    names = {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    return names | {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}


def uses_of_the_room(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """List which names a module takes from which modules of the room, such as `pages.views`."""
    modules = {}  # by the name that the importing module knows them by
    for module, name in imports(tree):
        place = module.removeprefix("pipeline.tracking").removeprefix(".")
        if module != "pipeline.tracking" and not module.startswith("pipeline.tracking."):
            continue
        if (ROOM / place.replace(".", "/")).is_dir():  # the room, or a part of it
            modules[name] = f"{place}.{name}".removeprefix(".")
            yield modules[name], ""
        else:
            yield place, name
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            yield modules[node.value.id], node.attr


def strings(tree: ast.AST) -> Iterator[str]:
    """List the strings of a module but for its docstrings, those in braces with their braces."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)


def breaches(source: str) -> list[str]:
    """Say where a module reaches through the wall."""
    tree = ast.parse(source)
    found = [f"imports {module} {name}" for module, name in imports(tree) if of_mlflow(module)]
    for module, name in uses_of_the_room(tree):
        own = defined(module) if module in DOORS | VALUES else set()
        if not own or (name and name not in own):
            found.append(f"takes {name or 'all'} from {module}")
    told = (value for value in strings(tree) if value in STATUSES or FILTER.search(value) or TAG.search(value))
    return found + [f"writes {value!r}" for value in told]


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_outside_of_the_room_nobody_knows_mlflow(path: Path) -> None:
    assert breaches(path.read_text()) == []


def test_inside_of_the_room_few_modules_import_mlflow() -> None:
    """client.py, for runs and models; served_model.py, which MLflow runs elsewhere."""
    trees = {path.name: ast.parse(path.read_text()) for path in ROOM.rglob("*.py")}
    importing = {name for name, tree in trees.items() if any(of_mlflow(module) for module, _ in imports(tree))}
    assert importing == {"client.py", "served_model.py"}


@pytest.mark.parametrize(
    "source",
    [
        "import mlflow",
        "def f():\n    from mlflow.exceptions import MlflowException",
        "from pipeline.tracking.store.client import MlflowException",
        "from pipeline.tracking.store.store import Client",
        "from pipeline.tracking.store.store import Store",
        "from pipeline.tracking.session import Session",
        "from pipeline.tracking.pages import views",
        "from pipeline.tracking.tracker import Session",
        "from pipeline.tracking.store import client",
        "from pipeline.tracking.store import client\nclient.MlflowClient('x')",
        "store.search(f\"tags.fingerprint = '{x}'\")",
        "store.search(f'metrics.`{key}` > 0')",
        "order = 'attributes.start_time'",
        "parent = tags['mlflow.parentRunId']",
        "status = 'KILLED'",
    ],
)
def test_each_way_through_the_wall_is_seen(source: str) -> None:
    assert breaches(source) != []


@pytest.mark.parametrize(
    "source", ["from pipeline.tracking.queries import Scope", "path = 'metrics.json'", "'mlflow.db'"]
)
def test_the_door_is_open(source: str) -> None:
    assert breaches(source) == []


@pytest.mark.parametrize(("stage", "loaded"), [("prepare", []), ("train", ["torch"]), ("evaluate", [])])
def test_a_stage_does_not_load_mlflow_and_train_alone_torch(stage: str, loaded: list[str]) -> None:
    code = f"import sys, pipeline.{stage}\nprint(sorted({{'mlflow', 'torch'}} & sys.modules.keys()))"
    said = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert said.stdout == f"{loaded}\n"
