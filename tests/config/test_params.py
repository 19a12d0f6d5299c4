"""params.yaml: what it takes, and how whatever else it holds is refused."""

import math
import os
from collections import Counter
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from conftest import calls_of
from fuzz_inputs import fuzz, read_params
from fuzz_records import BOMB
from ruamel.yaml import YAML

from pipeline.config.params import load
from pipeline.errors import InputError

DEFAULTS = Path(__file__).parents[2] / "params.yaml"

# key, its wrong value, what the message must say that it takes
WRONG: list[tuple[str, object, str]] = [
    ("data", None, "keys source"),
    ("data.source", 5, "CSV"),
    ("data.source", "", "CSV"),
    ("data.source", "a\0.csv", "CSV"),
    ("data.features", [], "one or more different column names"),
    ("data.features", "quiz1", "list"),
    ("data.features", ["quiz1", "quiz1"], "different"),
    ("data.target", None, "column name"),
    ("data.target", "quiz2", "not a feature"),
    ("data.split", 5, "keys method"),
    ("data.split.method", "bootstrap", "kfold or holdout"),
    ("data.split.folds", 1, "2 or more"),
    ("data.split.folds", 5.0, "whole number"),
    ("data.split.folds", True, "whole number"),
    ("data.split.test_fraction", 0, "between 0 and 1"),
    ("data.split.test_fraction", 1, "between 0 and 1"),
    ("data.split.test_fraction", math.nan, "between 0 and 1"),
    ("data.split.test_fraction", "0.2", "number"),
    ("data.split.seed", -1, "whole number from 0"),
    ("data.standardize", "no", "true or false"),
    ("data.standardize", 0, "true or false"),
    ("data.exact", "yes", "true or false"),
    ("variants", [], "one or more"),
    ("variants", ["matrix", "quadratic"], "one or more of handwritten, linear, "),
    ("variants", ["__init__"], "one or more of handwritten, linear, "),
    ("train.epochs", 0, "from 1 to"),
    ("train.epochs", -3, "from 1 to"),
    ("train.epochs", "1000", "whole number"),
    ("train.epochs", 10.0, "whole number"),
    ("train.epochs", True, "whole number"),
    ("train.epochs", None, "whole number"),
    ("train.init", "ones", "zeros or default"),
    ("train.device", "tpu", "cpu or cuda"),
    ("train.optimizer", "rprop", "sgd, momentum, nesterov, adam or adamw"),
    ("train.momentum", 1.0, "between 0 and 1"),
    ("train.betas", [0.9], "two numbers"),
    ("train.eps", 0, "from 1e-38"),
    ("train.weight_decay", -0.1, "from 0"),
    ("train.schedule", "linear", "constant, step or cosine"),
    ("train.step_every", 0, "1 or more"),
    ("train.step_factor", 0, "between 0 and 1"),
    ("train.loss", "log", "mse, huber or mae"),
    ("train.huber_delta", math.inf, "from 1e-38 to 1e38"),
    ("train.stop.patience", -1, "0 or more"),
    ("train.stop.min_delta", math.nan, "from 0"),
    ("train.nested", 1, "true or false"),
    ("data.split.final_test", 1.0, "from 0 to 1"),
    ("sweep.batch_size", [0], "1 or more, or full"),
    ("sweep.batch_size", [-1], "1 or more, or full"),
    ("sweep.batch_size", [2.5], "1 or more, or full"),
    ("sweep.batch_size", [True], "1 or more, or full"),
    ("sweep.batch_size", ["half"], "1 or more, or full"),
    ("sweep.batch_size", "full", "list"),
    ("sweep.batch_size", [], "one or more"),
    ("sweep.lr", [-1e-5], "from 1e-38 to 1e38"),
    ("sweep.lr", [0], "from 1e-38 to 1e38"),
    ("sweep.lr", [math.nan], "from 1e-38 to 1e38"),
    ("sweep.lr", [math.inf], "from 1e-38 to 1e38"),
    ("sweep.lr", [], "one or more"),
    ("sweep.lr", 1e-5, "list"),
    ("sweep.seed", [-1], "0 or more"),
    ("sweep.seed", [], "one or more"),
    ("sweep.only", {"lr": 1}, "list of mappings"),
    ("sweep.search", [], "keys method, trials"),
    ("sweep.search.method", "grid", "tpe, random"),
    ("sweep.search.trials", 0, "1 or more"),
    ("evaluate.choose", "worst", "best or one_se"),
    ("evaluate.metric", "accuracy", "cv/mse, cv/mae, cv/r2, train/mse, excess_mse"),
    ("evaluate.metric", ["cv/mse"], "one of"),
    ("track.experiment", "", "name"),
    ("track.experiment", "é" * 257, "1 to 256 characters"),
    ("track.experiment", "a\nb", "name"),
    ("track.points", 1, "2 or more"),
]
WRONG_ITEM = [("sweep.lr", "1e-5"), ("sweep.lr", True), ("sweep.seed", 1.0), ("data.features", 1), ("variants", None)]
WRONG_ITEM += [("sweep.optimizer", "rprop"), ("sweep.epochs", 0), ("sweep.weight_decay", -0.1), ("sweep.loss", "log")]
LEAVES = ["data.split.seed", "data.target", "variants", "train.epochs", "sweep.lr", "evaluate.metric", "track.points"]


def defaults() -> dict[str, Any]:
    values: dict[str, Any] = YAML(typ="safe", pure=True).load(DEFAULTS)
    return values


def place(values: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    *blocks, last = key.split(".")
    return reduce(lambda block, name: block[name], blocks, values), last


def refusal(folder: Path, values: object) -> list[str]:
    path = folder / "params.yaml"
    YAML().dump(values, path)
    with pytest.raises(InputError) as refused:
        load(path)
    return [line.removeprefix(f"{path}: ") for line in str(refused.value).splitlines()]


def refused_text(folder: Path, text: str) -> str:
    path = folder / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as refused:
        load(path)
    return str(refused.value)


def test_the_repository_s_params_are_the_design_s_default_of_48_runs() -> None:
    params = load(DEFAULTS)
    assert params.model_dump() == {
        "data": {
            "source": "data/raw/scores.csv",
            "features": ["quiz1", "quiz2", "quiz3"],
            "target": "final",
            "split": {"method": "kfold", "folds": 5, "test_fraction": 0.2, "seed": 0, "final_test": 0.0},
            "standardize": False,
            "exact": False,
        },
        "variants": ["handwritten", "matrix", "linear", "module"],
        "train": {
            "epochs": 1000,
            "init": "zeros",
            "device": "cpu",
            "optimizer": "sgd",
            "momentum": 0.9,
            "betas": [0.9, 0.999],
            "eps": 1e-8,
            "weight_decay": 0.0,
            "schedule": "constant",
            "step_every": 100,
            "step_factor": 0.5,
            "loss": "mse",
            "huber_delta": 1.0,
            "stop": {"patience": 0, "min_delta": 0.0},
            "nested": False,
        },
        "sweep": {
            "batch_size": [1, 2, 4, "full"],
            "lr": [0.00001],
            "seed": [1, 2, 3],
            "optimizer": [],
            "epochs": [],
            "weight_decay": [],
            "schedule": [],
            "loss": [],
            "init": [],
            "only": [],
            "skip": [],
            "search": {"method": "none", "trials": 100, "rounds": 5, "metric": "cv/mse", "seed": 0},
        },
        "evaluate": {"metric": "cv/mse", "choose": "best"},
        "track": {"experiment": "regression", "points": 101},
    }
    axes = params.variants, params.sweep.batch_size, params.sweep.lr, params.sweep.seed
    assert math.prod(map(len, axes)) == 48


def test_1e_minus_5_is_read_as_a_number_as_dvc_reads_it(tmp_path: Path) -> None:
    text = DEFAULTS.read_text(encoding="utf-8").replace("lr:\n  - 1e-5", "lr: [1e-5, 2E-3, 1, 0.5]")
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    assert load(tmp_path / "params.yaml").sweep.lr == [0.00001, 0.002, 1.0, 0.5]


@pytest.mark.parametrize(("key", "value", "takes"), WRONG)
def test_a_wrong_value_is_refused_naming_its_key_what_it_got_and_what_it_takes(
    tmp_path: Path, key: str, value: object, takes: str
) -> None:
    values = defaults()
    block, last = place(values, key)
    block[last] = value
    (message,) = refusal(tmp_path, values)
    assert message.startswith(f"{key}: got {value!r}"[:200])
    assert takes in message.partition(", takes ")[2]


@pytest.mark.parametrize(("key", "value"), WRONG_ITEM)
def test_a_wrong_item_of_a_list_is_named_by_its_place(tmp_path: Path, key: str, value: object) -> None:
    values = defaults()
    block, last = place(values, key)
    block[last] = [*block[last], value]
    (message,) = refusal(tmp_path, values)
    assert message.startswith(f"{key}[{len(block[last]) - 1}]: got {value!r}, takes a list of ")


@pytest.mark.parametrize("key", ["sweeps", "train.epoch", "data.split.fold"])
def test_an_unknown_key_is_refused_naming_the_known_ones(tmp_path: Path, key: str) -> None:
    values = defaults()
    block, last = place(values, key)
    known = set(block)
    block[last] = 1
    [message] = refusal(tmp_path, values)
    said, _, listed = message.partition("; known here: ")
    assert (said, set(listed.split(", "))) == (f"{key}: unknown key", known)


@pytest.mark.parametrize("key", LEAVES)
def test_a_missing_key_is_refused(tmp_path: Path, key: str) -> None:
    values = defaults()
    block, last = place(values, key)
    del block[last]
    (message,) = refusal(tmp_path, values)
    assert message.startswith(f"{key}: got nothing, takes ")


def test_several_faults_at_once_are_all_listed(tmp_path: Path) -> None:
    values = defaults()
    values["train"]["epochs"], values["sweep"]["lr"], values["sweep"]["batch_size"] = 0, [], [0]
    values["variants"], values["track"]["point"] = ["cubic"], 3
    keys = {message.partition(":")[0] for message in refusal(tmp_path, values)}
    assert keys == {"train.epochs", "sweep.lr", "sweep.batch_size", "variants", "track.point"}


@pytest.mark.parametrize(("text", "got"), [("", "None"), ("- 1", "[1]"), ("data", "'data'")])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str, got: str) -> None:
    assert f"params.yaml: got {got}, takes the keys data, variants, train" in refused_text(tmp_path, text)


@pytest.mark.parametrize("text", ["data: [1", "data:\n\t- 1", "train: 1\ntrain: 2", "!!python/object:os.system {}"])
def test_a_file_that_is_not_yaml_is_refused(tmp_path: Path, text: str) -> None:
    assert "params.yaml: is not YAML" in refused_text(tmp_path, text)


def test_a_missing_or_undecodable_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "params.yaml", tmp_path / "nowhere.yaml", tmp_path):
        with pytest.raises(InputError, match=f"{path}: cannot be read"):
            load(path)


def test_a_key_that_has_come_since_may_be_missing(tmp_path: Path) -> None:
    values = defaults()
    del values["data"]["exact"], values["data"]["split"]["final_test"], values["evaluate"]["choose"]
    values["train"] = {key: values["train"][key] for key in ("epochs", "init", "device")}
    values["sweep"] = {key: values["sweep"][key] for key in ("batch_size", "lr", "seed")}
    YAML().dump(values, tmp_path / "params.yaml")
    assert load(tmp_path / "params.yaml") == load(DEFAULTS)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        (
            "data.split.method",
            "holdout",
            "data.split.method holdout, which has no folds to leave out; takes kfold, or train.nested: false",
        ),
        (
            "data.split.folds",
            2,
            "data.split.folds 2, where a fit without both has no row to train on; takes 3 or more, or train",
        ),
        (
            "evaluate.metric",
            "train/mse",
            "evaluate.metric train/mse, which no fold left out decides; takes cv/mse, cv/",
        ),
        ("sweep.search", {"method": "tpe"}, "sweep.search.method tpe, which chose its runs by their scores on all fol"),
        ("sweep.search", {"method": "halving"}, "sweep.search.method halving, which chose its runs by their scores on"),
    ],
)
def test_nested_cross_validation_needs_folds_a_metric_of_theirs_and_runs_chosen_without_them(
    tmp_path: Path, key: str, value: object, said: str
) -> None:
    values = defaults()
    block, last = place(values, key)
    block[last] = value
    YAML().dump(values, tmp_path / "params.yaml")
    assert not load(tmp_path / "params.yaml").train.nested
    values["train"]["nested"] = True
    [told] = refusal(tmp_path, values)
    assert told.startswith(f"train.nested: got true with {said}")


@pytest.mark.parametrize(("name", "values"), [("lr", [1e-5]), ("optimizer", ["sgd"]), ("epochs", [1000])])
def test_an_empty_axis_is_train_s_own_value(name: str, values: list[object]) -> None:
    assert load(DEFAULTS).axis(name) == values


def test_the_longest_name_of_an_experiment_is_taken(tmp_path: Path) -> None:
    values = defaults()
    values["track"]["experiment"] = "é" * 256
    YAML().dump(values, tmp_path / "params.yaml")
    assert load(tmp_path / "params.yaml").track.experiment == "é" * 256


HOSTILE = {
    BOMB: "has more than 10 aliases",
    "data: &a {source: *a}": "a contains itself",
    "&a [1, &b [*a]]": "a contains itself",
    "[" * 100_000: "is nested more than 20 deep",
    "{a: " * 5000: "is nested more than 20 deep",
    "a: " * 5000: "is not YAML: line 1",
    "train: !!bool maybe": "is not YAML",
    "train: !!int x": "is not YAML",
    "train: !!timestamp 2020-99-01": "is not YAML",
    "a: \0": "is not YAML",
    "9" * 5000: "is not YAML",
    f"sweep: 0x{'f' * 5000}": "sweep: got a number of thousands of digits, takes the keys",
    "? [1, 2]\n: 3": "(1, 2): unknown key; keys are names",
    "\n".join(f"k{n}: {n}" for n in range(3_000)): "and 2,986 more",
    "#" * 2**19: "has more than 262144 bytes",
}


@pytest.mark.parametrize("text", HOSTILE, ids=[text[:20] for text in HOSTILE])
def test_whatever_a_file_holds_it_is_refused_in_a_short_message_and_little_work(tmp_path: Path, text: str) -> None:
    assert calls_of(lambda: refused_text(tmp_path, text)) < 20_000 + 200 * len(text)
    said = refused_text(tmp_path, text)
    assert HOSTILE[text] in said
    assert "params.yaml: " in said
    assert len(said) < 5000
    assert "\0" not in said


def test_a_file_that_never_ends_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "params.yaml")
    for path in (tmp_path / "params.yaml", Path("/dev/zero")):
        with pytest.raises(InputError, match="is not a regular file"):
            load(path)


def test_files_made_at_random_are_taken_or_refused() -> None:
    answers = dict(fuzz(read_params, range(100)))
    assert {seed: said for seed, said in answers.items() if said not in {"taken", "refused"}} == {}
    assert min(Counter(answers.values()).values()) >= 10
