"""What the pipeline's values are called in MLflow."""

import re
from typing import Any

import pytest

from pipeline.tracking import values

SUMMARY = {
    "source": "data/raw/scores.csv",
    "source_md5": "0" * 32,
    "target": "final",
    "features": ["quiz1"],
    "split": {"method": "kfold", "folds": 5, "test_fraction": 0.2, "seed": 0},
    "standardize": False,
}


def label(**changed: Any) -> str:  # noqa: ANN401
    return values.data_label(SUMMARY | changed)


def test_data_is_named_by_its_table_and_what_makes_results_comparable() -> None:
    assert re.fullmatch("scores [0-9a-f]{6}", label())
    assert label(features=["quiz2"], standardize=True, source="elsewhere/scores.csv") == label()
    others = {label(source_md5="1" * 32), label(target="quiz1"), label(split={**SUMMARY["split"], "seed": 1})}  # type: ignore[dict-item]
    assert len(others | {label()}) == 4


@pytest.mark.parametrize(
    ("source", "shown", "slug"),
    [
        ("data/raw/scores.csv", "scores", "scores"),
        ("My table (2).v1.csv", "My-table-2-.v1", "my-table-2-v1"),
        ("성적.csv", "성적", "table-"),
        ("it's \"a` %table.csv", "it-s-a-table", "it-s-a-table"),
    ],
)
def test_a_table_name_needs_no_quoting(source: str, shown: str, slug: str) -> None:
    assert label(source=source).rpartition(" ")[0] == shown
    found = values.table_name({"source": source})
    assert found.startswith(slug)
    assert re.fullmatch("[a-z0-9_-]+", found)
    assert values.table_name({"source": "점수.csv"}) != values.table_name({"source": "성적.csv"})
