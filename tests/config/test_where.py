"""Conditions on runs, as a person writes them."""

import pytest

from pipeline.config.where import Condition, number
from pipeline.errors import InputError

VALUES = {"lr": "1e-05", "batch_size": "full", "epochs": 1000, "cv/mse": 2.5, "variant": "matrix", "note": "a = b"}


@pytest.mark.parametrize(
    ("written", "holds"),
    [
        ("lr = 1e-5", True),  # a number, however it is written
        ("lr=0.00001", True),
        ("lr > 1e-5", False),
        ("lr >= 1e-5", True),
        ("epochs < 1001", True),
        ("cv/mse <= 2.4", False),
        ("cv/mse != 2.5", False),
        ("variant = matrix", True),
        ("variant != linear", True),
        ("batch_size = full", True),
        ("batch_size < 4", False),  # full is no number
        ("missing = 1", False),
        ("missing != 1", False),
    ],
)
def test_a_condition_holds_for_numbers_as_numbers_and_for_text_as_text(written: str, holds: bool) -> None:
    assert Condition.parse(written).holds(VALUES) is holds


@pytest.mark.parametrize("written", ["", "lr", "lr 1e-5", "= 3", "lr ~ 3", "lr == 3", "lr < fast", "variant >= "])
def test_what_is_no_condition_is_refused_with_an_example(written: str) -> None:
    with pytest.raises(InputError, match="--where"):
        Condition.parse(written)


def test_only_finite_numbers_are_numbers() -> None:
    assert [number(text) for text in ("7", "-1.5e3", "nan", "inf", "1e999", "x", "")] == [
        7,
        -1500.0,
        "nan",
        "inf",
        "1e999",
        "x",
        "",
    ]
