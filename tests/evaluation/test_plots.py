"""The pictures' figures against numpy, scikit-learn and autograd, and what is drawn where there is little to see."""

import json
import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA  # type: ignore[import-untyped]
from sweeps import cells, params, records, results, table, texts

from pipeline.evaluation import pictures
from pipeline.evaluation.plots import drawing, heatmap, look, path, predicted
from pipeline.evaluation.plots.drawing import Picture, number, short, some
from pipeline.evaluation.plots.lr import configurations
from pipeline.evaluation.results import FLOOR, Results, agreeing, largest_eigenvalue
from pipeline.runs.records import CURVE, Record
from pipeline.runs.run import curve_steps
from pipeline.table.prepared import Prepared
from pipeline.variants.matrix import Model

NAMES = ["loss", "cost", "lr", "heatmap", "path", "predicted"]


@pytest.fixture(scope="module")
def made() -> Results:
    """A sweep of three variants that agree, two batch sizes, three learning rates, one too large, and three seeds."""
    return results(table(), params())


@pytest.fixture(scope="module")
def drawn(made: Results) -> dict[str, Picture]:
    return {one.name: one for one in pictures.draw(made)}


def draw(prepared: Prepared, **changed: Any) -> dict[str, Picture]:  # noqa: ANN401
    return {one.name: one for one in pictures.draw(results(prepared, params(**changed)))}


def test_the_largest_stable_lr_is_2_over_the_largest_eigenvalue_of_autograd_s_hessian(made: Results) -> None:
    X, y = (torch.from_numpy(own).double() for own in (made.prepared.X, made.prepared.y))

    def mse(values: torch.Tensor) -> torch.Tensor:
        return ((X @ values[:2, None] + values[2] - y) ** 2).mean()

    hessian = torch.autograd.functional.hessian(mse, torch.zeros(3, dtype=torch.float64)).numpy()
    assert largest_eigenvalue(made.rows[0]) == pytest.approx(np.linalg.eigvalsh(hessian)[-1], rel=1e-12)
    assert made.largest_stable_lr == pytest.approx(2 / np.linalg.eigvalsh(hessian)[-1], rel=1e-5)


@pytest.mark.parametrize(("times", "grows"), [(0.98, False), (1.02, True)])
def test_gradient_descent_is_stable_below_that_lr_and_not_above(made: Results, times: float, grows: bool) -> None:
    (x, y), theta = made.rows, np.zeros(3)
    losses = []
    for _ in range(2000):
        error = x @ theta - y
        losses.append(float((error**2).mean()))
        theta -= times * made.largest_stable_lr * 2 / len(x) * x.T @ error
    assert (losses[-1] > losses[0]) == grows


def test_variants_that_agree_are_shown_as_one_with_their_largest_difference(made: Results) -> None:
    (group,) = made.groups
    assert group.variants == ("handwritten", "matrix", "linear")
    by_run: dict[tuple[Any, ...], list[Record]] = {}
    for record in made.evaluated:
        if record.run.lr < made.stable[record.run.batch_size]:
            by_run.setdefault((record.run.batch_size, record.run.lr, record.run.seed), []).append(record)
    most = 0.0
    for first, *others in by_run.values():
        for other in others:
            weights = [np.append(one.tensors["W"][0], one.tensors["b"][0]).astype(float) for one in (first, other)]
            most = max(most, float(np.abs(weights[0] - weights[1]).max() / np.abs(weights[0]).max()))
            most = max(most, float(np.abs(other.curve.astype(float) / first.curve - 1).max()))
    assert group.apart == pytest.approx(most, rel=0.05)
    assert group.compared == len(by_run) == 12


def test_a_variant_that_differs_stands_alone_and_unstable_runs_are_no_difference(made: Results) -> None:
    def grouped(changed: Sequence[Record]) -> list[tuple[str, ...]]:
        ranked = list(made.board["variant"])
        return [group.variants for group in agreeing(changed, ranked, FLOOR, made.stable)]

    def off(record: Record, stable: bool) -> Record:
        wanted = record.run.variant == "matrix" and (record.run.lr < made.stable[record.run.batch_size]) == stable
        return replace(record, curve=record.curve * np.float32(1.01)) if wanted else record

    assert grouped([off(record, stable=True) for record in made.evaluated]) == [("handwritten", "linear"), ("matrix",)]
    assert grouped([off(record, stable=False) for record in made.evaluated]) == [("handwritten", "matrix", "linear")]


def test_a_model_that_is_not_linear_has_a_panel_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wavy(torch.nn.Module):
        def __init__(self, k: int) -> None:
            super().__init__()
            self.output = torch.nn.Linear(k, 1)

        def forward(self, X: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.output(X).sin() * 5
            return y

    from pipeline import variants  # noqa: PLC0415

    own = variants.make
    monkeypatch.setattr(variants, "make", lambda name, k: Wavy(k) if name == "module" else own(name, k))
    from pipeline.training import parameters  # noqa: PLC0415

    parameters.shapes.cache_clear()
    try:
        found = draw(
            table(), variants=["linear", "module"], train_init="default", sweep_lr=[0.01, 0.05], train_epochs=10
        )
    finally:
        parameters.shapes.cache_clear()
    assert set(found["loss"].table["variant"]) == {"linear", "module"}
    for name in ("loss", "lr", "heatmap"):
        assert {"linear", "module"} <= {text for text, _, _ in texts(found[name].svg)}


def test_the_loss_s_line_is_the_mean_and_its_band_spans_all_seeds(made: Results, drawn: dict[str, Picture]) -> None:
    shown = drawn["loss"].table
    assert set(shown["variant"]) == {"handwritten = matrix = linear"}
    steps = curve_steps(40, 11)
    for size, lines in shown.groupby("batch_size"):
        lr = lines["lr"].iloc[0]
        own = [
            record.curve[steps].astype(float)
            for record in made.evaluated
            if record.run.variant == made.groups[0].shown and str(record.run.batch_size) == size and record.run.lr == lr
        ]
        assert len(own) == 3
        np.testing.assert_allclose(lines[CURVE], np.mean(own, axis=0))
        np.testing.assert_array_equal(lines["lowest"], np.min(own, axis=0))
        np.testing.assert_array_equal(lines["highest"], np.max(own, axis=0))
        assert list(lines["epoch"]) == steps


def test_each_batch_size_s_cost_is_its_updates_and_rows(drawn: dict[str, Picture]) -> None:
    ends = drawn["cost"].table.groupby("batch_size").tail(1).set_index("batch_size")
    assert ends["updates"].to_dict() == {"2": 40 * 6, "full": 40}
    assert set(ends["rows"]) == {40 * 12}
    assert list(drawn["cost"].table.groupby("batch_size")["updates"].min()) == [6, 1]


def test_the_learning_rate_s_table_has_mean_and_range_and_marks_what_diverged(made: Results) -> None:
    rows = configurations(made)
    assert set(rows.loc[rows["lr"] == 10.0, "diverged"]) == {3}
    assert rows.loc[rows["lr"] == 10.0, "mean"].isna().all()
    row = rows[(rows["lr"] == 0.05) & (rows["batch_size"] == "2")].iloc[0]
    own = [
        record.metrics["cv/mse"]
        for record in made.evaluated
        if record.run.variant == row["variant"] and record.run.lr == 0.05 and record.run.batch_size == 2
    ]
    assert row[["mean", "lowest", "highest"]].tolist() == pytest.approx([np.mean(own), min(own), max(own)])


def test_the_heat_map_leaves_out_the_cells_that_diverged(made: Results, drawn: dict[str, Picture]) -> None:
    rows = drawn["heatmap"].table
    assert len(rows) == 6
    assert rows.loc[rows["lr"] == 10.0, "mean"].isna().all()
    assert rows.loc[rows["lr"] < 1, "mean"].notna().all()
    assert "2 of 6 cells are crossed out" in heatmap.draw(made).says
    assert {lr for lr, _ in cells(drawn["heatmap"].svg, "×")} == {"10"}


def test_crosses_do_not_widen_the_axis_of_the_metric() -> None:
    far = replace(table(), y=1000 * table().y)
    picture = draw(far, variants=["matrix"], sweep_lr=[0.04, 0.05, 10.0])["lr"]
    drawn = texts(picture.svg)
    assert sum(text == "×" for text, _, _ in drawn) == 2
    left = min(x for text, x, _ in drawn if re.fullmatch(r"[\d,]+", text))
    ticks = [float(text.replace(",", "")) for text, x, _ in drawn if x == left and re.fullmatch(r"[\d,]+", text)]
    assert len(ticks) > 1
    assert picture.table["lowest"].min() / 2 < min(ticks)
    assert max(ticks) < 2 * picture.table["highest"].max()


def test_labels_of_learning_rates_do_not_overlap(made: Results) -> None:
    rates = [float(f"{1.09**place * 1e-5:.6g}") for place in range(20)]
    picture = draw(made.prepared, variants=["matrix"], sweep_lr=rates, sweep_seed=[1])["heatmap"]
    labels = [one for one in texts(picture.svg) if re.fullmatch(r"[\d.]+e-5", one[0])]
    bottom = sorted((x, len(text)) for text, x, y in labels if y == max(y for _, _, y in labels))
    assert len(bottom) > 2
    wide = 6.2  # the widest character of a number of 11 pixels
    assert all(x + wide * size / 2 < right - wide * other / 2 for (x, size), (right, other) in pairwise(bottom))


def test_the_path_s_plane_is_that_of_its_principal_components() -> None:
    points = np.random.default_rng(0).normal(size=(50, 5)) * [9, 4, 1, 0.5, 0.1]
    plane = path.principal(points)
    found = PCA(2).fit(points)
    np.testing.assert_allclose(np.abs((plane.directions * found.components_).sum(axis=1)), 1, atol=1e-5)
    np.testing.assert_allclose(np.abs(plane.project(points)), np.abs(found.transform(points)), atol=1e-4)


@pytest.mark.parametrize("points", [np.zeros((3, 4)), np.outer(np.arange(3.0), [1.0, 2, 0, 1]), np.ones((1, 2))])
def test_a_path_on_a_line_or_a_point_has_a_plane_too(points: NDArray[np.float64]) -> None:
    plane = path.principal(points)
    np.testing.assert_allclose(plane.directions @ plane.directions.T, np.eye(2), atol=1e-5)


def test_the_contours_are_the_training_loss(made: Results) -> None:
    record = path.paths(made)[0]
    plane = path.principal(np.asarray(record.path, dtype=np.float64))
    grid = path.Grid(np.linspace(-1, 1, 5), np.linspace(-2, 2, 5))
    found = grid.losses(made, record, plane)
    for row, column in ((0, 0), (3, 1), (4, 2)):
        theta = plane.middle + grid.along[column] * plane.directions[0] + grid.across[row] * plane.directions[1]
        y_pred = made.prepared.X.astype(float) @ theta[:2] + theta[2]
        assert found[row, column] == pytest.approx(((y_pred - made.prepared.y[:, 0]) ** 2).mean(), rel=1e-5)
    sampled = path.sampled(path.Grid(np.linspace(-1, 1, path.SIDE), np.linspace(-2, 2, path.SIDE)), made, record, plane)
    exact = path.quadratic(path.Grid(np.linspace(-1, 1, path.SIDE), np.linspace(-2, 2, path.SIDE)), made, plane)
    np.testing.assert_allclose(sampled, exact, atol=0.02 * exact.max())


def test_the_drawn_path_is_the_plain_loop_s(made: Results) -> None:
    record = next(one for one in path.paths(made) if one.run.batch_size == "full")
    X, y, model = torch.from_numpy(made.prepared.X), torch.from_numpy(made.prepared.y), Model(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    for epoch in range(40):  # without torch.optim, whose first import takes seconds
        loss = torch.nn.functional.mse_loss(model(X), y)
        slopes = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for weights, slope in zip(model.parameters(), slopes, strict=True):
                weights.sub_(record.run.lr * slope)
        end = torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).numpy()
        assert record.path is not None
        np.testing.assert_allclose(record.path[epoch], end, rtol=1e-4, atol=1e-6)
    assert record.run.seed == 1


def test_jitter_is_the_noise_s_deviation_whatever_the_way() -> None:
    noise = np.random.default_rng(0).normal(scale=0.1, size=(20_000, 2))
    way = np.linspace(0, 100, 20_000)[:, None]
    assert path.jitter(way + noise) == pytest.approx(0.1 * np.sqrt(2), rel=0.02)
    assert path.jitter(np.hstack([way, 2 * way])) == pytest.approx(0, abs=1e-9)


def test_predictions_are_those_of_fits_that_did_not_see_the_row(made: Results, drawn: dict[str, Picture]) -> None:
    shown = drawn["predicted"].table
    best = made.best("variant")[0]
    expected = np.empty(12)
    for fold in range(3):
        held = ~made.prepared.train[fold + 1]
        weights = [(record.tensors["W"][fold + 1], record.tensors["b"][fold + 1]) for record in best]
        expected[held] = np.mean([(made.prepared.X[held] @ W + b)[:, 0] for W, b in weights], axis=0)
    np.testing.assert_allclose(shown["predicted"], expected, rtol=1e-5)
    np.testing.assert_allclose(shown["residual"], shown["actual"] - shown["predicted"])


def test_from_1000_rows_on_the_density_is_drawn_and_tabulated() -> None:
    few = params(variants=["matrix"], train_epochs=2, sweep_seed=[1], sweep_lr=[0.01])
    dense, sparse = (predicted.draw(results(table(rows), few)) for rows in (1000, 999))
    for name in ("actual", "residual"):
        counted = dense.table[dense.table[name].notna()]
        assert counted["rows"].sum() == 1000
        assert len(counted) < 1000
        assert counted["predicted"].notna().all()
    assert dense.table[["actual", "residual"]].notna().sum(axis=1).eq(1).all()
    drawn = drawing.draw(predicted.SPECIFICATION, dense.text)
    most = dense.table.loc[dense.table["actual"].notna(), "rows"].max()
    assert f"up to {most} rows a cell" in {text for text, _, _ in texts(drawn)}
    assert "rows a cell" not in drawing.draw(predicted.SPECIFICATION, sparse.text)
    assert len(sparse.table) == 999


def test_the_same_sweep_gives_the_same_bytes(made: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written = []
    for _ in range(2):
        pictures.write(pictures.draw(made))
        written.append({file.name: file.read_bytes() for file in (tmp_path / "plots").iterdir()})
    assert written[0] == written[1]
    assert set(written[0]) == {f"{name}.{kind}" for name in NAMES for kind in ("csv", "svg", "png")}


@pytest.mark.parametrize(
    ("prepared", "changed", "left_out"),
    [
        (table(), {"sweep_lr": [1e30]}, {*NAMES}),
        (table(), {"sweep_lr": [0.01], "sweep_seed": [1], "variants": ["matrix"]}, {"lr", "heatmap"}),
        (table(), {"sweep_batch_size": ["full"]}, {"heatmap"}),
        (table(), {"train_epochs": 1, "sweep_lr": [0.01]}, {"lr", "heatmap", "path"}),
        (table(5, held_out=1), {"sweep_lr": [0.01]}, {"lr", "heatmap"}),
        (table(k=1), {"data_features": ["a"]}, set()),
        (table(30, k=1000), {"sweep_lr": [1e-5, 1e-4], "train_epochs": 3}, set()),
        (table(), {"sweep_batch_size": list(range(1, 11)), "train_epochs": 3}, set()),
        (table(), {"evaluate_metric": "cv/r2"}, set()),
        (replace(table(), y=np.full((12, 1), 3, dtype=np.float32)), {"evaluate_metric": "cv/r2"}, set()),
        (table(), {"data_target": "점수 $x^2$ _"}, set()),
    ],
    ids=[
        "all diverged",
        "one configuration",
        "one size",
        "one epoch",
        "one row",
        "k 1",
        "k 1000",
        "10 sizes",
        "r2",
        "no r2",
        "name",
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_a_sweep_gives_no_reason_to_draw_is_left_out(
    prepared: Prepared, changed: dict[str, Any], left_out: set[str]
) -> None:
    found = draw(prepared, **({"variants": ["matrix", "linear"], "sweep_seed": [1, 2], "train_epochs": 8} | changed))
    assert {name for name, one in found.items() if not one.svg} == left_out
    for one in found.values():
        assert not re.search(r"NaN|undefined|null|Infinity|\[object", one.svg)
    for name, one in found.items():
        assert one.says.endswith(".")
        assert "nan" not in one.says
        assert one.table.empty == (name in left_out)
        assert one.table.columns[0] == "variant"


def test_a_picture_left_out_has_a_table_of_its_header_and_no_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plots").mkdir()
    for kind in ("svg", "png"):
        (tmp_path / f"plots/lr.{kind}").touch()  # of an earlier sweep
    found = draw(table(), variants=["matrix"], sweep_lr=[0.01], sweep_batch_size=["full"], train_epochs=1)
    pictures.write([found["lr"]])
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"lr.csv"}
    assert (tmp_path / "plots/lr.csv").read_text() == ",".join(found["lr"].table.columns) + "\n"


def test_a_run_that_diverged_in_the_first_seed_only_leaves_no_path_but_a_curve() -> None:
    settings = params(variants=["matrix"], sweep_lr=[0.01], sweep_batch_size=["full"])
    prepared = table()
    evaluated = records(prepared, settings)
    evaluated[0] = replace(evaluated[0], diverged="fold 1, epoch 3", metrics={})
    found = {one.name: one for one in pictures.draw(results(prepared, settings, evaluated))}
    assert not found["path"].svg
    assert found["loss"].svg


def test_rows_of_a_density_keep_their_place() -> None:
    one = predicted.rows(results(table(50), params(sweep_lr=[0.01], variants=["matrix"])).best("variant")[0], table(50))
    assert predicted.bins(one).equals(one)


def test_numbers_and_names_are_written_for_people() -> None:
    assert [number(value) for value in (0.123456, 12345.6, 1e-5, float("nan"))] == ["0.123", "12,346", "1e-05", "—"]
    assert short("x" * 30) == "x" * 23 + "…"
    assert some(range(20)) == [0, 3, 5, 8, 11, 14, 16, 19]


def test_dvc_s_templates_are_the_specifications_of_the_pictures() -> None:
    folder = Path(__file__).parents[2] / ".dvc/plots"
    templates = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")}
    assert templates == json.loads(json.dumps(pictures.SPECIFICATIONS)), "run python -m pipeline.evaluation.pictures"


@pytest.mark.parametrize("name", NAMES)
def test_two_revisions_have_panels_of_their_own_with_their_names(drawn: dict[str, Picture], name: str) -> None:
    def rows(of: str) -> str:
        return "".join(f"{of}{line}\n" for line in drawn[name].text.splitlines()[1:])

    header = drawn[name].text.splitlines()[0]
    both = drawing.draw(pictures.SPECIFICATIONS[name], f"rev,{header}\n{rows('main,')}{rows('other,')}")
    one = drawing.draw(pictures.SPECIFICATIONS[name], f"rev,{header}\n{rows('main,')}")
    panels = {text for text, _, _ in texts(both)}
    assert {text.split(":")[0] for text in panels} >= {"main", "other"}
    assert "undefined" not in both
    assert not {text for text, _, _ in texts(one)} & {"main", "rev"}
    assert one == drawn[name].svg


def test_the_loss_s_axis_ends_above_the_later_epochs_and_shows_the_optimum() -> None:
    settings = params(variants=["matrix"], sweep_lr=[0.05], sweep_batch_size=["full"], sweep_seed=[1], track_points=41)
    one = [
        replace(record, curve=np.where(np.arange(40) == 0, 1e9, record.curve)) for record in records(table(), settings)
    ]
    svg = drawing.draw(pictures.SPECIFICATIONS["loss"], pictures.draw(results(table(), settings, one))[0].text)
    ticks = [float(text.replace(",", "")) for text, _, _ in texts(svg) if re.fullmatch(r"[\d.,]+", text)]
    assert max(ticks) < 1000
    assert "least squares" in {text for text, _, _ in texts(svg)}


def test_a_png_names_what_its_font_cannot_draw_and_no_font_of_the_machine_changes_it() -> None:
    svg = pictures.draw(results(table(), params(data_target="점수<b>", variants=["matrix"], sweep_lr=[0.01])))[0].svg
    assert "[점수&lt;b&gt;²]" in svg
    plain = svg.replace("점수&lt;b&gt;", "target")
    assert drawing.png(svg, {"점수<b>": "target"}) == drawing.png(plain, {})
    assert drawing.png(svg, {"Gr\u00fc\u00dfe": "target"}) == drawing.png(svg.replace("점수", "…"), {})
    other = [svg.replace("Liberation Sans", f"{name}, Liberation Sans") for name in ("DejaVu Sans", "No Such Font")]
    assert drawing.png(other[0], {}) == drawing.png(other[1], {}) == drawing.png(svg, {})


def test_the_font_has_every_letter_that_is_left_in_a_png() -> None:
    def glyph(letter: str) -> bytes:
        text = f'<text x="5" y="18" font-size="16" font-family="{look.FONT}">{letter}</text>'
        drawn = f'<svg xmlns="http://www.w3.org/2000/svg" width="30" height="24">{text}</svg>'
        return bytes(drawing.renderer().svg_to_png(drawn))

    kept = [letter for letter in map(chr, range(0x21, 0xFFFF)) if not drawing.UNDRAWN.search(letter)]
    kept = [letter for letter in kept if unicodedata.category(letter)[0] not in "CZ" and letter not in "<&"]
    assert len(kept) > 400
    nothing = {glyph("점"), glyph(" ")}
    assert [letter for letter in kept if glyph(letter) in nothing] == []


def test_what_the_machine_says_of_fonts_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    for own in ("/etc/fonts/fonts.conf", None):
        drawing.renderer.cache_clear()
        monkeypatch.delenv("FONTCONFIG_FILE", raising=False)
        if own:
            monkeypatch.setenv("FONTCONFIG_FILE", own)
        drawing.renderer()
        assert os.environ.get("FONTCONFIG_FILE") == own
