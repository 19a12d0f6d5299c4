"""From params to runs and stacks, and what a fingerprint stands for."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from functools import reduce
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, run
from ruamel.yaml import YAML

from pipeline.config import params
from pipeline.errors import InputError
from pipeline.runs import sweep
from pipeline.runs.fingerprints import code_hash, search_hash
from pipeline.runs.run import Run, curve_steps
from pipeline.training import stacks

PLAN = """
import json
from pathlib import Path
from pipeline.config import params
from pipeline.runs import sweep
runs = sweep.plan(params.load("params.yaml"), Path("tensors"))
print(json.dumps({run.name: run.fingerprint for run in runs}))
"""
CHANGES: dict[str, dict[str, object]] = {
    "lr": {"sweep.lr": [2e-5]},
    "seed": {"sweep.seed": [4]},
    "epochs": {"train.epochs": 999},
    "batch size": {"sweep.batch_size": [3]},
    "init": {"train.init": "default"},
    "device": {"train.device": "cuda"},
    "variant": {"variants": ["matrix"]},
}
ELSEWHERE: dict[str, dict[str, object]] = {
    "evaluation": {"evaluate.metric": "cv/r2"},
    "tracking": {"track.experiment": "other", "track.points": 7},
    "further fits": {"train.nested": True},
    "other runs beside it": {"sweep.lr": [1e-3, 1e-5], "variants": ["matrix", "linear"], "sweep.seed": [8, 1]},
}
ONE: dict[str, object] = {"variants": ["linear"], "sweep.batch_size": [2], "sweep.seed": [1]}


def configured(changes: dict[str, object]) -> params.Params:
    values: dict[str, Any] = YAML(typ="safe", pure=True).load(REPOSITORY / "params.yaml")
    for key, value in changes.items():
        *blocks, last = key.split(".")
        reduce(lambda block, name: block[name], blocks, values)[last] = value
    return params.check(values)


@pytest.fixture
def plan(tmp_path: Path) -> Callable[..., list[Run]]:
    """Plan a sweep over prepared data that are but a file of the given bytes."""

    def planned(changes: dict[str, object], data: bytes = b"prepared") -> list[Run]:
        (tmp_path / "tensors").write_bytes(data)
        return sweep.plan(configured(changes), tmp_path / "tensors")

    return planned


def fingerprint(runs: list[Run], name: str = "linear bs=2 lr=1e-05 seed=1") -> str:
    (found,) = [one.fingerprint for one in runs if one.name == name]
    return found


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package."""
    return Path(shutil.copytree(REPOSITORY / "pipeline", tmp_path / "pipeline"))


def planned_elsewhere(package: Path, folder: Path) -> dict[str, str]:
    """Plan the default sweep in a process of its own, with the package in `package`; fingerprints by name."""
    (folder / "tensors").write_bytes(b"prepared")
    shutil.copy(REPOSITORY / "params.yaml", folder)
    answer = run("python", "-c", PLAN, cwd=folder, extra={"PYTHONPATH": str(package)}).stdout
    named: dict[str, str] = json.loads(answer)
    return named


def test_the_plan_is_every_combination_in_the_order_of_params(plan: Callable[..., list[Run]]) -> None:
    runs = plan({"sweep.lr": [1e-4, 1e-5]})
    order = product(["handwritten", "matrix", "linear", "module"], [1, 2, 4, "full"], [1e-4, 1e-5], [1, 2, 3])
    assert [(one.variant, one.batch_size, one.lr, one.seed) for one in runs] == list(order)
    assert len(plan({})) == 48
    assert {(one.epochs, one.init, one.device) for one in runs} == {(1000, "zeros", "cpu")}


def test_a_run_s_name_can_be_read(plan: Callable[..., list[Run]]) -> None:
    names = [one.name for one in plan({})]
    assert "matrix bs=2 lr=1e-05 seed=1" in names
    assert "handwritten bs=full lr=1e-05 seed=3" in names
    assert plan({})[0].configuration == "handwritten bs=1 lr=1e-05"


def test_every_run_has_a_name_and_a_fingerprint_of_its_own(plan: Callable[..., list[Run]]) -> None:
    runs = plan({"sweep.lr": [1e-5, 1.0000001e-5, 1]})
    assert len({one.name for one in runs}) == len({one.fingerprint for one in runs}) == 144


@pytest.mark.parametrize("what", CHANGES)
def test_whatever_determines_a_result_changes_its_fingerprint(plan: Callable[..., list[Run]], what: str) -> None:
    (changed,) = plan(ONE | CHANGES[what])
    assert changed.fingerprint != fingerprint(plan(ONE))


def test_the_prepared_data_change_the_fingerprint(plan: Callable[..., list[Run]]) -> None:
    assert fingerprint(plan(ONE, b"prepared")) != fingerprint(plan(ONE, b"preparee"))


@pytest.mark.parametrize("what", ELSEWHERE)
def test_what_does_not_touch_a_result_leaves_its_fingerprint(plan: Callable[..., list[Run]], what: str) -> None:
    assert fingerprint(plan(ONE | ELSEWHERE[what])) == fingerprint(plan(ONE))


def test_a_variant_s_source_changes_the_fingerprints_of_its_own_runs_alone(
    plan: Callable[..., list[Run]], tmp_path: Path
) -> None:
    shutil.copytree(REPOSITORY / "pipeline", tmp_path / "copy/pipeline")
    here = {one.name: one.fingerprint for one in plan({})}
    assert planned_elsewhere(tmp_path / "copy", tmp_path) == here

    source = tmp_path / "copy/pipeline/variants/linear.py"
    with source.open("a") as file:
        file.write("\n# a comment\n")
    assert planned_elsewhere(tmp_path / "copy", tmp_path) == here
    with source.open("a") as file:
        file.write("\nEDITED = True\n")
    edited = planned_elsewhere(tmp_path / "copy", tmp_path)
    assert {name.split()[0] for name in here if edited[name] != here[name]} == {"linear"}
    assert sum(edited[name] != here[name] for name in here) == 12


def edited(package: Path, edit: str, hashed: Callable[[Path], str]) -> set[str]:
    """Edit each of a package's files in turn; name those whose edit changes what `hashed` returns."""
    before, changed = hashed(package), set()
    for path in package.rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        path.write_text(source + edit, encoding="utf-8")
        if hashed(package) != before:
            changed.add(path.relative_to(package).as_posix())
        path.write_text(source, encoding="utf-8")
    return changed


def test_an_edit_of_what_determines_a_result_changes_every_fingerprint_and_no_other_does(package: Path) -> None:
    training = {path.relative_to(package).as_posix() for path in (package / "training").glob("*.py")}
    shared = training | {"runs/run.py", "system/kernels.py", "table/prepared.py"}
    for variant in ("linear", "matrix"):
        expected = shared | {f"variants/{variant}.py"}
        assert edited(package, "\nEDITED = True\n", lambda at, own=variant: code_hash(own, at)) == expected  # type: ignore[misc]


def test_a_comment_and_a_docstring_change_no_fingerprint(package: Path) -> None:
    assert edited(package, "\n# a comment\n", lambda at: code_hash("linear", at)) == set()
    before = code_hash("linear", package)
    for path in (package / "training").glob("*.py"):
        source = path.read_text(encoding="utf-8")
        path.write_text(source.replace('"""', '"""In other words: ', 1), encoding="utf-8")
        assert path.read_text(encoding="utf-8") != source
    assert code_hash("linear", package) == before


def test_an_edit_of_what_chooses_a_search_s_runs_changes_its_sweep(package: Path) -> None:
    search = {path.relative_to(package).as_posix() for path in (package / "search").glob("*.py")}
    expected = search | {"evaluation/outcome.py", "evaluation/predictions.py", "metrics.py"}
    assert edited(package, "\nEDITED = True\n", search_hash) == expected


def test_dvc_trains_again_after_any_edit_that_changes_a_fingerprint(package: Path) -> None:
    train = YAML(typ="safe").load(REPOSITORY / "dvc.yaml")["stages"]["train"]
    deps = [Path(dep.replace("${item.variant}", "linear")) for dep in train["deps"]]
    for hashed in (lambda at: code_hash("linear", at), search_hash):
        for name in edited(package, "\nEDITED = True\n", hashed):
            assert any(Path("pipeline", name).is_relative_to(dep) for dep in deps), name


def test_only_and_skip_restrict_the_product(plan: Callable[..., list[Run]]) -> None:
    rules = {"sweep.lr": [1e-5, 1e-4], "sweep.only": [{"lr": 1e-5}, {"lr": 1e-4, "batch_size": [1, "full"]}]}
    runs = plan(rules | {"sweep.skip": [{"seed": [1, 2]}, {"batch_size": 2}], "variants": ["matrix"]})
    assert [(one.batch_size, one.lr, one.seed) for one in runs] == [
        *((1, 1e-5, 3), (1, 1e-4, 3), (4, 1e-5, 3), ("full", 1e-5, 3), ("full", 1e-4, 3)),
    ]
    with pytest.raises(InputError, match=r"^params.yaml: sweep.only and sweep.skip: leave none of the runs"):
        plan({"sweep.skip": [{"lr": 1e-5}]})


@pytest.mark.parametrize("rule", [{}, {"rate": 1e-5}, {"lr": {"from": 1}}, {"lr": [[1e-5]]}])
def test_a_wrong_rule_is_refused(plan: Callable[..., list[Run]], rule: dict[str, object]) -> None:
    with pytest.raises(
        InputError, match=r"^params.yaml: sweep.only: got .*, takes a list of mappings from an axis, of "
    ):
        plan({"sweep.only": [rule]})


@pytest.mark.parametrize("floats", [1, 50, 300, 2**24])
def test_stacks_hold_every_fit_once_and_none_is_too_large(
    plan: Callable[..., list[Run]], monkeypatch: pytest.MonkeyPatch, floats: int
) -> None:
    monkeypatch.setattr(stacks, "STACK_FLOATS", floats)
    runs, train_rows, k = plan({"variants": ["matrix"], "sweep.lr": [1e-5, 1e-4]}), [7, 6, 6, 5, 6], 3
    grouped = stacks.group(runs, train_rows, k)
    assert Counter(fit for stack in grouped for fit in stack.fits) == Counter(product(runs, range(5)))
    for stack in grouped:
        assert tuple(train_rows[split] for _, split in stack.fits) == stack.rows
        every = zip(stack.fits, stack.rows, strict=True)
        assert {rows if one.batch_size == "full" else one.batch_size for (one, _), rows in every} == {stack.batch_size}
        assert len(stack.fits) == 1 or len(stack.fits) * stack.batch_size * k <= floats
    if floats == 2**24:
        assert len(grouped) == 3 + 3  # batch sizes, and of all rows, numbers of training rows


def test_a_batch_size_beyond_the_rows_is_the_rows(plan: Callable[..., list[Run]]) -> None:
    (stack,) = stacks.group(plan(ONE | {"sweep.batch_size": [64]}), [5], 3)
    assert stack.batch_size == 5


@pytest.mark.parametrize(
    ("epochs", "points", "stride"), [(1000, 101, 10), (1000, 600, 2), (1000, 300, 5), (90, 101, 1)]
)
def test_a_curve_is_stored_at_every_1st_2nd_5th_or_10th_epoch_and_the_last(
    epochs: int, points: int, stride: int
) -> None:
    steps = [*range(0, epochs, stride)]
    assert curve_steps(epochs, points) == steps + [epochs - 1] * (steps[-1] < epochs - 1)


@pytest.mark.parametrize("points", [2, 3, 5, 101, 1000])
def test_a_stored_curve_has_its_first_and_last_epoch_and_never_too_many_points(points: int) -> None:
    for epochs in (*range(1, 250), 999, 1000, 1001, 12345, 10**6):
        steps = curve_steps(epochs, points)
        assert steps[0] == 0
        assert steps[-1] == epochs - 1
        assert steps == sorted(set(steps))
        assert len(steps) <= points
        assert len(set(map(int.__sub__, steps[1:-1], steps[:-2]))) <= 1  # evenly apart, but for the last
        if epochs <= points:
            assert len(steps) == epochs


def test_the_stride_of_a_curve_is_the_smallest_that_fits_and_takes_no_memory_to_find() -> None:
    strides = [digit * 10**power for power in range(4) for digit in (1, 2, 5)]
    for epochs, points in product(range(1, 120), range(2, 130)):
        curves = (sorted({*range(0, epochs, stride), epochs - 1}) for stride in strides)
        assert curve_steps(epochs, points) == next(curve for curve in curves if len(curve) <= points)
    assert curve_steps(10**9, 101) == [*range(0, 10**9, 10**7), 10**9 - 1]
