"""Two sets of runs side by side: what is paired, what is marked, and where runs are found."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from conftest import enter
from scipy.stats import ttest_rel

from pipeline.__main__ import main
from pipeline.commands import compare
from pipeline.commands.compare import Side
from pipeline.errors import InputError
from pipeline.evaluation.paired import holm, pair
from pipeline.runs import outs
from pipeline.system.files import read_csv
from pipeline.system.tables import Row

CONFIGURED: Row = {"variant": "linear", "batch_size": 2, "init": "zeros", "device": "cpu"}


def side(epochs: int, means: dict[float, float], seeds: range, chance: int, spread: float = 0.1) -> Side:
    """Make up runs: a mean for each lr, and normal numbers around it for the seeds."""
    drawn = np.random.RandomState(chance)
    runs: list[Row] = [
        {**CONFIGURED, "epochs": epochs, "lr": lr, "seed": seed, "cv/mse": mean + spread * drawn.standard_normal()}
        for lr, mean in means.items()
        for seed in seeds
    ]
    return Side(f"{epochs} epochs", runs)


def compared(a: Side, b: Side, monkeypatch: pytest.MonkeyPatch) -> compare.SideBySide:
    monkeypatch.setattr(compare, "find", lambda named, _: {"a": a, "b": b}[named])
    return compare.compare("a", "b", "cv/mse", "regression")


def test_the_test_is_scipys_paired_t_test() -> None:
    chance = np.random.RandomState(0)
    for count in (2, 3, 5, 30):
        a, b = chance.standard_normal(count), chance.standard_normal(count) + 0.5
        one = pair(dict(enumerate(a)), dict(enumerate(b)))
        assert one.p == pytest.approx(ttest_rel(b, a).pvalue, rel=1e-9)
        assert one.difference == pytest.approx(np.mean(b - a))
        assert one.spread == pytest.approx(np.std(b - a, ddof=1))


def test_only_seeds_in_common_are_paired_and_fewer_than_two_give_no_test() -> None:
    one = pair({1: 1.0, 2: 2.0, 3: 3.0}, {3: 5.0, 4: 1.0})
    assert (one.pairs, one.difference, one.runs, one.p) == (1, 2.0, (3, 2), None)
    assert math.isnan(pair({1: 1.0}, {2: 1.0}).difference)


def test_a_difference_of_the_last_digit_is_none_and_one_that_no_seed_changes_is_beyond_them() -> None:
    assert pair({1: 1.0, 2: 1.0}, {1: 1.00000001, 2: 1.0}).p == 1
    assert pair({1: 1.0, 2: 1.0}, {1: 1.1, 2: 1.1}).p == 0


def test_settings_of_some_runs_are_no_axes_and_may_be_what_the_sides_differ_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def of(momentum: float) -> Side:
        plain: list[Row] = [{**run, "optimizer": "sgd"} for run in side(10, {0.1: 1.0}, range(3), 1).runs]
        with_momentum: list[Row] = [{**run, "optimizer": "nesterov", "momentum": momentum} for run in plain]
        return Side(str(momentum), [*plain, *with_momentum])

    found = compared(of(0.8), of(0.9), monkeypatch)
    assert [(row["optimizer"], "momentum" in row) for row in found.rows] == [("sgd", False), ("nesterov", False)]
    assert "all runs of A and B differ in: momentum 0.8 and 0.9" in found.notes


def test_holms_correction_is_that_of_r() -> None:
    # As R says: p.adjust of 0.01, 0.04, 0.03, 0.005.
    assert holm([0.01, None, 0.04, 0.03, 0.005]) == pytest.approx([0.03, None, 0.06, 0.06, 0.02])


def test_a_difference_is_marked_where_it_is_beyond_the_seeds_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    a = side(500, {0.1: 1.0, 0.2: 2.0, 0.3: 3.0}, range(6), 1)
    b = side(1000, {0.3: 3.0, 0.2: 1.0, 0.4: 1.0}, range(2, 9), 2)
    found = compared(a, b, monkeypatch)
    assert [(row["lr"], row["pairs"], row["beyond"]) for row in found.rows] == [(0.2, 4, True), (0.3, 4, False)]
    said = "\n".join(found.notes)
    assert "differ in: epochs 500 and 1000" in said
    assert "the other lacks: 1 of A, 1 of B" in said
    assert "paired t-test over the seeds in common, two-sided, p corrected for 2 tests by Holm's method" in said


def test_of_many_equal_configurations_hardly_any_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    means = {lr / 100: 1.0 for lr in range(1, 201)}
    found = compared(side(1, means, range(5), 3), side(2, means, range(5), 4), monkeypatch)
    assert sum(isinstance(row["p"], float) and row["p"] < 0.05 for row in found.rows) > 3  # without the correction
    assert not any(row["beyond"] for row in found.rows)


@pytest.mark.parametrize("named", ["workspace", "HEAD"])
def test_sweeps_experiments_and_commits_are_found_and_hold_the_same_runs(
    named: str, small: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(small, monkeypatch)
    main(["top", "--csv", "-n", "1"])
    [best] = csv.DictReader(capsys.readouterr().out.splitlines())
    main(["compare", named, best["sweep"][:6], "--csv"])
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    held = {row["name"]: row["cv/mse"] for row in read_csv(outs.EVALUATED)}
    found = {f"{row['variant']} bs={row['batch_size']} lr=1e-05 epochs=20 seed=1": row["A mean"] for row in rows}
    assert {name: float(value) for name, value in found.items()} == {name: float(one) for name, one in held.items()}
    assert {(row["A mean"] == row["B mean"], row["pairs"], row["p"]) for row in rows} == {(True, "1", "")}


def test_what_cannot_be_compared_is_refused(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(small, monkeypatch)
    with pytest.raises(InputError, match="have no configuration in common; axes: variant, batch_size, lr"):
        main(["compare", "workspace", "other"])
    with pytest.raises(InputError, match="0123abcd: is not a commit, branch, tag or DVC experiment"):
        main(["compare", "workspace", "0123abcd"])
