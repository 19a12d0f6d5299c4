"""Groups of runs: `pipeline top --group`."""

import pytest

from pipeline.evaluation import groups


@pytest.mark.parametrize("sweep", ["123456789012", "000123456789", "1234567e8901", "12345678e012"])
def test_the_id_of_a_sweep_stays_text_even_if_it_reads_as_a_number(sweep: str) -> None:
    runs = [{"run": "a", "run_id": "1", "sweep": sweep, "lr": 1e-5, "cv/mse": 2.0, "train/mse": 1.0}]
    [row] = groups.rank(runs, ["sweep", "lr"], "cv/mse")
    assert (row["sweep"], row["lr"]) == (sweep, 1e-5)


def test_an_axis_s_values_are_numbers_whether_or_not_they_are_the_default() -> None:
    values: list[object] = ["0.0", 0.1]  # the default is a param's text
    runs = [{"weight_decay": one, "cv/mse": 1.0, "run": "r", "run_id": "i"} for one in values]
    assert [row["weight_decay"] for row in groups.rank(runs, ["weight_decay"], "cv/mse")] == [0.0, 0.1]
