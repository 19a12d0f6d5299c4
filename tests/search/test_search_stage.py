"""What pictures, report and tables show of a searched sweep: what was tried, and how far it came."""

from dataclasses import replace

import pytest
from sweeps import cells, params, records, results, table

from pipeline.evaluation import boards, groups, pictures, report
from pipeline.evaluation.plots.drawing import number


def test_what_fell_behind_is_drawn_neither_as_finished_nor_as_diverged_and_what_nobody_trained_not_at_all() -> None:
    settings = params(variants=["matrix"], sweep_seed=[1, 2], sweep_skip=[{"lr": 0.01, "batch_size": 2}])
    evaluated = [
        replace(one, left="behind, after epoch 10 of 40", metrics={})
        if one.run.lr == 0.05 and one.run.batch_size == 2
        else one
        for one in records(table(), settings)
    ]  # lr 10 diverged
    made = results(table(), settings, evaluated)
    drawn = {one.name: one for one in pictures.draw(made)}
    assert cells(drawn["heatmap"].svg, "×") == {("10", "2"), ("10", "full")}
    assert cells(drawn["heatmap"].svg, "–") == {("0.05", "2")}
    rows = drawn["heatmap"].table.set_index(["lr", "batch_size"])
    assert rows["behind"].to_dict() == {(lr, size): 2 * (lr == 0.05 and size == "2") for lr, size in rows.index}
    assert len(rows) == 5
    assert rows["mean"].notna().sum() == 2
    assert "1 of 5 have a dash" in drawn["heatmap"].says
    assert "1 of 5 fell behind and left" in drawn["lr"].says
    assert "2 of 5 configurations diverged" in drawn["lr"].says


def test_pictures_and_report_show_the_values_that_a_search_tried_instead_of_the_range_it_searched() -> None:
    tried = params(variants=["matrix"], sweep_seed=[1], sweep_lr=[0.011, 0.033], sweep_batch_size=[3, 5])
    searched = params(
        variants=["matrix"],
        sweep_seed=[1],
        sweep_lr=[{"from": 0.01, "to": 0.05, "num": 3}],
        sweep_batch_size=[{"from": 2, "to": 6, "num": 2}],
        sweep_search={"method": "tpe"},
    )
    found = results(table(), searched, records(table(), tried))
    drawn = {one.name: one for one in pictures.draw(found)}
    written = {
        number(mean): (f"{lr:g}", size)
        for lr, size, mean in drawn["heatmap"].table[["lr", "batch_size", "mean"]].values
    }
    assert len(written) == 4
    for text, cell in written.items():
        assert cells(drawn["heatmap"].svg, text) == {cell}
    assert set(written.values()) == {(lr, size) for lr in ("0.011", "0.033") for size in ("3", "5")}
    assert set(drawn["loss"].table["batch_size"]) == {"3", "5"}
    facts = report.facts(found)
    assert (facts["learning rates"], facts["batch sizes"]) == ("0.011, 0.033", "3, 5")


def test_the_figure_of_a_group_is_that_of_runs_which_ended_whole() -> None:
    ends: list[dict[str, object]] = [{}, {"left": "fold 1: converged, epoch 7"}, {"diverged": "fold 1, epoch 3"}]
    ends.append({"left": "behind, after epoch 10 of 40"})
    runs = [{"lr": 1.0, "run": str(n), "run_id": str(n), "train/mse": 10.0**n, **end} for n, end in enumerate(ends)]
    [row] = groups.rank([*runs, {**runs[0], "lr": 1.0}], ["lr"], "train/mse")
    assert (row["runs"], row["diverged"], row["behind"]) == (3, 1, 1)
    assert row["train/mse mean"] == pytest.approx((1 + 10 + 1) / 3)
    assert "behind" not in groups.rank(runs[:3], ["lr"], "train/mse")[0]


def test_the_printed_leaderboard_counts_what_fell_behind() -> None:
    line = {"configuration": "matrix lr=1", "runs": "0", "diverged": "0", "behind": "3", "cv/mse mean": ""}
    [row] = boards.rows_to_show([boards.configuration(line)])
    assert (row["runs"], row["diverged"], row["behind"], row["cv/mse"]) == (0, 0, 3, None)
