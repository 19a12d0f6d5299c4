"""Stage prepare: which tables it takes, how it refuses the others, and what it makes of them."""

import hashlib
import json
from functools import reduce
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
from conftest import REPOSITORY, run
from numpy.typing import NDArray
from ruamel.yaml import YAML
from safetensors.numpy import load_file

from pipeline import prepare
from pipeline.config.params import Split, Train
from pipeline.errors import InputError
from pipeline.table.prepared import standardization

Mask = NDArray[np.bool_]
LINE: dict[str, object] = {"data.features": ["x"], "data.target": "y", "data.split.folds": 3}
ROWS = "a,b,y\n1,2,3\n4,5,7\n6,8,9\n"

# name: the table (None: no file), what params.yaml has besides, the message's lines after the file's name
BAD: dict[str, tuple[str | None, dict[str, object], list[str]]] = {
    "column missing": (
        "a,c\n1,2\n",
        {},
        ["column 'b' is missing; it has: a, c", "column 'y' is missing; it has: a, c"],
    ),
    "not numeric": (
        'a,b,y\n1,five,3\n4,"5,5",7\n',
        {},
        ["row 1, column 'b': 'five' is not numeric", "row 2, column 'b': '5,5' is not numeric"],
    ),
    "empty": ("a,b,y\n,2,3\n4,5, \n", {}, ["row 1, column 'a': '' is empty", "row 2, column 'y': ' ' is empty"]),
    "NaN": ("a,b,y\n1,2,NaN\nnan,5,7\n", {}, ["row 1, column 'y': 'NaN' is NaN", "row 2, column 'a': 'nan' is NaN"]),
    "infinite": (
        "a,b,y\ninf,2,3\n4,-inf,7\n",
        {},
        ["row 1, column 'a': 'inf'", "row 2, column 'b': '-inf' is infinite"],
    ),
    "too large": ("a,b,y\n1,2,-1e39\n", {}, ["row 1, column 'y': '-1e39' is too large for float32"]),
    "true or false": ("a,b,y\n1,True,3\n1,False,3\n", {}, ["row 1, column 'b': 'True'", "row 2, column 'b': 'False'"]),
    "no rows": ("a,b,y\n", {}, ["has no rows below its header"]),
    "empty file": ("", {}, ["cannot be read as CSV"]),
    "no file": (None, {}, ["no such file; params.yaml names it in data.source"]),
    "fewer rows than folds": (ROWS, {"data.split.folds": 4}, ["data.split.folds: got 4, takes at most 3, the"]),
    "none to test on": (
        ROWS,
        {"data.split.method": "holdout", "data.split.test_fraction": 0.1},
        ["data.split.test_fraction: got 0.1, which leaves none of 3 rows to train on, or none to test on"],
    ),
}


def configure(folder: Path, table: str | None, changes: dict[str, object]) -> None:
    values: dict[str, Any] = YAML(typ="safe", pure=True).load(REPOSITORY / "params.yaml")
    given = {"data.source": "table.csv", "data.features": ["a", "b"], "data.target": "y", "data.split.folds": 2}
    for key, value in (given | changes).items():
        *blocks, last = key.split(".")
        reduce(lambda block, name: block[name], blocks, values)[last] = value
    YAML().dump(values, folder / "params.yaml")
    if table is not None:
        (folder / "table.csv").write_text(table, encoding="utf-8")


def stage(folder: Path, *module: str) -> CompletedProcess[str]:
    return run("python", "-m", *module, cwd=folder, extra={"PYTHONPATH": str(REPOSITORY)}, check=False)


def prepared(
    folder: Path, table: str, changes: dict[str, object] | None = None
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    configure(folder, table, changes or {})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        prepare.main()
    out = folder / "data/prepared"
    return load_file(out / "tensors.safetensors"), json.loads((out / "summary.json").read_text(encoding="utf-8"))


def kfold(n: int, folds: int, seed: int) -> Mask:
    return prepare.split(n, Split(method="kfold", folds=folds, test_fraction=0.5, seed=seed))


def holdout(n: int, fraction: float, seed: int = 0) -> Mask:
    return prepare.split(n, Split(method="holdout", folds=2, test_fraction=fraction, seed=seed))


@pytest.mark.parametrize("name", BAD)
def test_bad_data_end_the_stage_with_every_fault_named_and_nothing_left_behind(tmp_path: Path, name: str) -> None:
    table, changes, messages = BAD[name]
    configure(tmp_path, table, changes)
    before = sorted(tmp_path.rglob("*"))
    result = stage(tmp_path, "pipeline.prepare")
    lines = result.stderr.splitlines()
    assert result.returncode == 1
    assert len(lines) == len(messages), result.stderr
    for line, message in zip(lines, messages, strict=True):
        assert line.startswith(f"{'params.yaml' if 'data.split' in message else 'table.csv'}: {message}")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("module", [("pipeline.prepare",), ("pipeline.train", "matrix"), ("pipeline.evaluate",)])
def test_every_stage_refuses_wrong_params_without_a_traceback(tmp_path: Path, module: tuple[str, ...]) -> None:
    wrong = {"train.speed": 0.9, "train.epochs": "many", "sweep.seed": [], "sweep.lr": [-1], "variants": ["cubic"]}
    configure(tmp_path, ROWS, wrong | {"sweep.batch_size": [0]})
    before = sorted(tmp_path.rglob("*"))
    result = stage(tmp_path, *module)
    assert result.returncode == 1
    assert sorted(line.partition(", takes a")[0] for line in result.stderr.splitlines()) == [
        "params.yaml: sweep.batch_size: got [0]",
        "params.yaml: sweep.lr: got [-1]",
        "params.yaml: sweep.seed: got []",
        "params.yaml: train.epochs: got 'many'",
        f"params.yaml: train.speed: unknown key; known here: {', '.join(Train.model_fields)}",
        "params.yaml: variants: got ['cubic']",
    ]
    assert sorted(tmp_path.rglob("*")) == before


def test_the_same_table_gives_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        configure(tmp_path / name, ROWS, {"data.standardize": True})
        assert stage(tmp_path / name, "pipeline.prepare").returncode == 0
    for out in ("tensors.safetensors", "summary.json"):
        one, two = ((tmp_path / name / "data/prepared" / out).read_bytes() for name in ("one", "two"))
        assert one == two


def test_the_tensors_hold_the_table_s_columns_in_the_order_of_params(tmp_path: Path) -> None:
    tensors, _ = prepared(tmp_path, "y,b,text,a\n3,2,p,1\n7,5.5,,-4e-3\n")
    np.testing.assert_array_equal(tensors["X"], np.array([[1, 2], [-0.004, 5.5]], dtype=np.float32))
    np.testing.assert_array_equal(tensors["y"], np.array([[3], [7]], dtype=np.float32))
    assert {name: tensor.dtype.name for name, tensor in tensors.items()} == {
        "X": "float32", "y": "float32", "train": "bool", "mean": "float32", "scale": "float32"
    }  # fmt: skip


@pytest.mark.parametrize("k", [1, 12])
def test_any_number_of_feature_columns_will_do(tmp_path: Path, k: int) -> None:
    values = np.random.default_rng(k).normal(size=(6, k + 1)).round(3)
    names = [f"x{i}" for i in range(k)]
    table = "\n".join([",".join([*names, "y"]), *(",".join(map(str, row)) for row in values)])
    tensors, _ = prepared(tmp_path, table, {"data.features": names})
    np.testing.assert_array_equal(tensors["X"], values[:, :k].astype(np.float32))


def test_the_post_s_three_points_are_prepared_with_one_feature(tmp_path: Path) -> None:
    line = (REPOSITORY / "data/raw/line.csv").read_text(encoding="utf-8")
    tensors, _ = prepared(tmp_path, line, LINE)
    np.testing.assert_array_equal(np.hstack([tensors["X"], tensors["y"]]), [[1, 2], [2, 4], [3, 6]])
    assert tensors["train"].tolist()[0] == [True, True, True]
    assert sorted(tensors["train"].tolist()[1:]) == [[False, True, True], [True, False, True], [True, True, False]]


def test_the_summary_says_where_from_how_many_and_which_range(tmp_path: Path) -> None:
    _, summary = prepared(tmp_path, ROWS)
    assert summary == {
        "source": "table.csv",
        "source_md5": hashlib.md5(ROWS.encode()).hexdigest(),
        "rows": 3,
        "features": ["a", "b"],
        "target": "y",
        "columns": {
            "a": {"min": 1, "mean": pytest.approx(11 / 3), "max": 6},
            "b": {"min": 2, "mean": 5, "max": 8},
            "y": {"min": 3, "mean": pytest.approx(19 / 3), "max": 9},
        },
        "split": {"method": "kfold", "folds": 2, "test_fraction": 0.2, "seed": 0},
        "train_rows": [3, 1, 2],
        "standardize": False,
    }


@pytest.mark.parametrize(("n", "folds"), [(5, 5), (11, 3), (100, 7)])
def test_folds_of_nearly_equal_size_hold_every_row_once(n: int, folds: int) -> None:
    train = kfold(n, folds, seed=4)
    assert train.shape == (folds + 1, n)
    assert train[0].all()
    tested = (~train[1:]).sum(axis=1)
    assert ((~train[1:]).sum(axis=0) == 1).all()
    assert tested.max() - tested.min() <= 1


def test_the_split_follows_from_its_seed() -> None:
    for same, again, other in (
        [kfold(50, 5, seed) for seed in (1, 1, 2)],
        [holdout(50, 0.2, seed) for seed in (1, 1, 2)],
    ):
        np.testing.assert_array_equal(same, again)
        assert (same != other).any()


@pytest.mark.parametrize(("n", "fraction", "tested"), [(5, 0.2, 1), (10, 0.3, 3), (1000, 0.25, 250), (2, 0.5, 1)])
def test_holdout_keeps_its_share_of_the_rows(n: int, fraction: float, tested: int) -> None:
    train = holdout(n, fraction)
    assert train.shape == (1, n)
    assert (~train).sum() == tested


@pytest.mark.parametrize(("n", "fraction"), [(3, 0.1), (3, 0.9), (1, 0.5)])
def test_a_holdout_that_leaves_none_to_train_or_to_test_is_refused(n: int, fraction: float) -> None:
    with pytest.raises(InputError, match=rf"data\.split\.test_fraction: got {fraction}, which leaves none of {n} rows"):
        holdout(n, fraction)


def test_features_are_standardized_by_their_training_rows_alone() -> None:
    X = np.random.default_rng(0).normal(50, 20, size=(40, 3)).astype(np.float32)
    X[:, 1] = 0.1  # constant: stays as it is but for its mean
    train = kfold(40, 4, seed=0)
    mean, scale = standardization(X, train)
    for split, rows in enumerate(train):
        seen = (X[rows] - mean[split]) / scale[split]
        np.testing.assert_allclose(seen.mean(axis=0), 0, atol=1e-6)
        np.testing.assert_allclose(seen.std(axis=0), [1, 0, 1], atol=1e-6)
        changed = np.where(rows[:, None], X, 1e6).astype(np.float32)  # whatever the other rows are
        np.testing.assert_array_equal(standardization(changed, train[[split]]), (mean[[split]], scale[[split]]))
    assert (scale[:, 1] == 1).all()
    assert len(np.unique(mean[:, 0])) == 5


def test_numbers_that_float32_changes_are_said_in_the_summary_and_on_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "a,b,y\n16777217,0.1,3\n123456789,0.2,1e-46\n5,6,1\n" + "16777217,2,4\n" * 3
    tensors, summary = prepared(tmp_path, text)
    assert tensors["X"][:2, 0].tolist() == [16777216, 123456792]
    assert {name: column.get("altered") for name, column in summary["columns"].items()} == {
        "a": {"count": 5, "worst": {"row": 1, "written": "16777217", "float32": "16777216"}},
        "b": None,
        "y": {"count": 1, "worst": {"row": 2, "written": "1e-46", "float32": "0"}},
    }
    first, second = capsys.readouterr().err.splitlines()
    assert first == (
        "WARNING: table.csv: column 'a': 5 of 6 numbers change in float32: row 1: 16777217 becomes 16777216; "
        "row 2: 123456789 becomes 123456792; row 4: 16777217 becomes 16777216; and 2 more; "
        "data.exact: true refuses them"
    )
    assert "row 2: 1e-46 becomes 0;" in second
    with pytest.raises(InputError, match="becomes 16777216 in float32"):
        prepared(tmp_path, text, {"data.exact": True})
    assert prepared(tmp_path, ROWS, {"data.exact": True})[0]["y"].tolist() == [[3], [7], [9]]
