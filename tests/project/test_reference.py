"""docs/reference.md: what its script writes, and nothing missing or left over against the code and a real store."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import reference
from conftest import REPOSITORY, default_store, search

from pipeline.config.params import Params
from pipeline.metrics import COST, FINAL, NESTED, RUN_METRICS
from pipeline.tracking import seals, validation
from pipeline.tracking.runs import HIDDEN, MACHINERY

VARIABLE = re.compile(r"(?<![<A-Z_])(?:PIPELINE|MLFLOW|DVC|RAY)_[A-Z_]*[A-Z]")


def texts() -> Iterator[str]:
    """Yield the text constants of the package, without docstrings."""
    for path in sorted((REPOSITORY / "pipeline").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone:
                yield node.value


def test_the_page_is_what_the_script_writes() -> None:
    assert reference.PAGE.read_text(encoding="utf-8") == reference.page(), "run: python docs/reference.py"


def test_each_key_of_params_has_a_meaning() -> None:
    assert reference.KEYS.keys() == {key for key, _ in reference.fields(Params)}


def test_the_variables_are_those_that_the_code_names() -> None:
    assert {name for text in texts() for name in VARIABLE.findall(text)} == reference.VARIABLES.keys()


def test_the_metrics_are_those_that_are_computed_and_stored() -> None:
    computed = {*RUN_METRICS, *FINAL, *NESTED, COST}
    assert reference.figures().keys() == computed
    of_champions = {f"champion/{key}{kind}" for key in RUN_METRICS for kind in ("", " std")}
    of_champions |= {f"champion/{key}" for key in FINAL}
    assert {*of_champions, *NESTED, COST, *reference.OF_SWEEPS} == seals.SWEEP_METRICS


def test_the_tags_are_those_that_the_code_names() -> None:
    assert reference.TAGS.keys() >= {*seals.TAGS, *MACHINERY, *validation.REQUIRED, *validation.OPTIONAL}
    named = set(texts())
    assert {tag for tag in reference.TAGS if tag.removesuffix("_at") not in named} == set()


def test_stored_runs_carry_no_other_tags(small: Path) -> None:
    hidden = {HIDDEN + tag if tag in MACHINERY else tag: of for tag, (of, _) in reference.TAGS.items()}
    for role in ("run", "sweep"):
        runs = search(default_store(small), f"tags.role = '{role}'")
        carried = {tag for one in runs for tag in one.data.tags}
        assert carried - {tag for tag, of in hidden.items() if of in {role, "all"}} == set()
        assert carried >= {"role", "sweep", "git_commit", "data_md5", f"{HIDDEN}seal", f"{HIDDEN}seal_files"}
