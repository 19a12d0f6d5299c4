"""Ranges and samples in the lists of axes, as they come through DVC's -S."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sweeps
from conftest import REPOSITORY
from dvc.utils.hydra import apply_overrides

from pipeline.params import InputError, load


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


def test_entries_mix_whole_axes_get_whole_numbers_and_duplicates_count_once(tmp_path: Path) -> None:
    sweep = swept(
        tmp_path, "sweep.batch_size=[full,2,{from: 1, to: 5, num: 5}]", "sweep.seed=[{from: 1, to: 100, num: 100}]"
    )
    assert sweep.batch_size == ["full", 2, 1, 3, 4, 5]
    assert sweep.seed == list(range(1, 101))
    assert sweep.intervals.keys() == {"seed"}


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
