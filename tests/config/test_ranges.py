"""Ranges and samples in the lists of axes, as they come through DVC's -S."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sweeps
from conftest import REPOSITORY
from dvc.utils.hydra import apply_overrides

from pipeline.config.params import load
from pipeline.errors import InputError
from pipeline.runs import sweep


def swept(folder: Path, *overrides: str) -> Any:  # noqa: ANN401
    shutil.copy(REPOSITORY / "params.yaml", folder)
    apply_overrides(folder / "params.yaml", list(overrides))
    return load(folder / "params.yaml").sweep


def six(values: Any) -> list[float]:  # noqa: ANN401
    return [float(f"{value:.6g}") for value in values]


def test_a_range_is_numpys_of_six_digits(tmp_path: Path) -> None:
    log = swept(tmp_path, "sweep.lr=[{from: 1e-7, to: 1e-5, num: 20, scale: log}]")
    assert log.lr == six(np.geomspace(1e-7, 1e-5, 20))
    linear = swept(tmp_path, "sweep.lr=[{from: 0.001, to: 0.1, num: 7}]")
    assert linear.lr == six(np.linspace(0.001, 0.1, 7))


def test_a_sample_is_the_same_again_and_another_with_another_seed(tmp_path: Path) -> None:
    sample = "sweep.lr=[{sample: 50, from: 1e-7, to: 1e-5, scale: log, seed: %d}]"
    found = [swept(tmp_path, sample % seed).lr for seed in (0, 0, 1)]
    assert found[0] == found[1] == six(found[0]) != found[2]
    assert len(found[0]) == 50
    assert all(1e-7 <= value <= 1e-5 for value in found[0])
    assert 20 < sum(value < 1e-6 for value in found[0]) < 30  # half of them, on this scale


def test_entries_mix_and_whole_axes_get_whole_numbers(tmp_path: Path) -> None:
    found = swept(
        tmp_path, "sweep.batch_size=[full,2,{from: 1, to: 5, num: 5}]", "sweep.seed=[{from: 1, to: 100, num: 100}]"
    )
    assert found.batch_size == ["full", 2, 1, 3, 4, 5]
    assert found.seed == list(range(1, 101))
    assert found.intervals.keys() == {"seed"}


LR = "{from: 1e-6, to: 1e-5, num: 4}"
REPEATED = {  # an axis's list -> the same without its duplicates
    "variants=[linear,matrix,linear]": "variants=[linear,matrix]",
    "sweep.batch_size=[2,full,2,full,{from: 1, to: 3, num: 9}]": "sweep.batch_size=[2,full,1,3]",
    "sweep.lr=[1,1.0,2]": "sweep.lr=[1,2]",
    f"sweep.lr=[4e-6,{LR},0.000004,{LR}]": "sweep.lr=[4e-6,1e-6,7e-6,1e-5]",
    "sweep.seed=[2,1,{sample: 30, from: 1, to: 5, seed: 1}]": "sweep.seed=[2,1,4,3,5]",
    "sweep.optimizer=[adam,sgd,adam]": "sweep.optimizer=[adam,sgd]",
    "sweep.weight_decay=[0,0.0,{from: 0, to: 1, num: 2}]": "sweep.weight_decay=[0,1]",
    "sweep.schedule=[step,step]": "sweep.schedule=[step]",
    "sweep.loss=[mae,mse,mae]": "sweep.loss=[mae,mse]",
    "sweep.epochs=[5,5,{from: 5, to: 7, num: 3}]": "sweep.epochs=[5,6,7]",
    "sweep.init=[zeros,default,zeros]": "sweep.init=[zeros,default]",
}


@pytest.mark.parametrize("repeated", REPEATED)
def test_a_value_that_stands_twice_in_an_axis_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repeated: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tensors").write_bytes(b"prepared")
    planned = []
    for override in (repeated, REPEATED[repeated]):
        shutil.copy(REPOSITORY / "params.yaml", tmp_path)
        apply_overrides(tmp_path / "params.yaml", [override])
        params = load()
        runs = sweep.plan(params, Path("tensors"))
        planned.append((params, runs, [run.name for run in runs], sweep.sweep_id(runs, {})))
    assert planned[0] == planned[1]
    assert len(set(planned[0][2])) == len(planned[0][2])


def test_a_search_takes_a_range_that_stands_twice_for_one_interval(tmp_path: Path) -> None:
    once, twice = (swept(tmp_path, f"sweep.lr=[{entries}]") for entries in (LR, f"{LR},{LR}"))
    assert once.intervals == twice.intervals != {}
    assert swept(tmp_path, f"sweep.lr=[{LR},1e-6]").intervals == {}


@pytest.mark.parametrize(
    "entry",
    [
        {"from": 1, "to": 1},
        {"from": 0, "to": 1, "scale": "log"},
        {"from": 1e-5, "to": 1e-4, "num": 0},
        {"from": 1e-5, "to": 1e-4, "scale": "cubic"},
        {"from": 1e-5, "to": 1e-4, "seed": 1},
        {"from": "a", "to": 1},
        {"to": 1},
        {"from": True, "to": 2},
        [1e-5],
    ],
)
def test_a_wrong_entry_is_refused_by_name(entry: object) -> None:
    with pytest.raises(
        InputError, match=r"^params.yaml: sweep.lr.*: got .*, takes a list of .* or ranges {from, to, num"
    ):
        sweeps.params(sweep_lr=[entry])
