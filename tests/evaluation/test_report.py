"""The report says what this sweep shows, needs nothing from elsewhere, and shows the user's texts as texts."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from sweeps import params, results, table

from pipeline.evaluation import pictures, report
from pipeline.evaluation.importance import importance
from pipeline.evaluation.results import Results
from pipeline.runs import outs

VOID = {"meta", "link", "br"}


@pytest.fixture(scope="module")
def made() -> Results:
    return results(table(), params(sweep_lr=[0.01, 0.05, 5.0, 10.0]))


@pytest.fixture(scope="module")
def page(made: Results) -> str:
    return render(made)


def render(one: Results) -> str:
    return report.render(one, pictures.draw(one))


class Reader(HTMLParser):
    """Reads a page: its tags' attributes, its text, and whether every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_well_formed_and_each_id_is_there_once(page: str) -> None:
    reader = Reader(page)
    assert reader.open == []
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [
        value for _, attributes in reader.tags for key, value in attributes.items() if key.endswith("href") and value
    ]
    assert {link.removeprefix("#") for link in links if not link.startswith("data:")} <= set(ids)


def test_nothing_comes_from_elsewhere(page: str) -> None:
    assert not re.findall(r"(?:https?:)?//[a-z]", page)
    assert "<script" not in page
    assert "@import" not in page
    ids = {attributes["id"] for _, attributes in Reader(page).tags if "id" in attributes}
    assert {address.removeprefix("#") for address in re.findall(r"url\(([^)]+)", page)} <= ids  # gradients


def test_each_picture_is_an_svg_with_a_title_a_description_and_the_page_s_colours(page: str) -> None:
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawings) == 6
    for drawing in drawings:
        root = ET.fromstring(drawing.replace("<svg", '<svg xmlns:xlink="x"', 1))
        assert root.attrib["role"] == "img"
        assert [child.tag for child in root[:2]] == ["title", "desc"]
        assert root.attrib["aria-labelledby"].split() == [child.attrib["id"] for child in root[:2]]
        assert all(child.text for child in root[:2])
        assert "var(--ink)" in drawing
        assert not {"#1b1f24", "#656d76", "#0072b2"} & set(re.findall(r"#[0-9a-f]{6}\b", drawing))


def test_it_says_what_was_run_what_is_best_and_how_to_reproduce_it(made: Results, page: str) -> None:
    text = " ".join(Reader(page).text.split())
    own = [one for one in made.evaluated if one.run.configuration == made.board["configuration"][0]]
    best = min(own, key=lambda one: one.metrics["cv/mse"])
    assert f"pipeline reproduce {best.run.fingerprint}" in text
    assert f"The best of 24 configurations is {best.run.configuration}" in text
    for fact in (
        "12, of which 12 are trained on",
        "2: a, b",
        "3 folds, drawn with seed 0",
        "0.01, 0.05, 5.0, 10.0",
        "72 (36",
    ):
        assert fact in text, fact
    for one in pictures.draw(made):
        assert " ".join(one.says.split()) in text


def test_what_diverged_stands_there_with_the_reason(made: Results, page: str) -> None:
    rows = report.diverged(made)
    assert [(row["batch_size"], row["lr"]) for row in rows] == [(2, 5.0), ("full", 5.0), (2, 10.0), ("full", 10.0)]
    expected = (
        f"its lr is {10 / made.largest_stable_lr:.3g} × the largest stable one, 2/λ = {made.largest_stable_lr:.3g}"
    )
    assert rows[-1]["why"] == expected
    assert expected in Reader(page).text
    assert re.fullmatch(r"seed 1: (all training rows|fold \d), epoch \d+", str(rows[-1]["where"]))


@pytest.mark.parametrize(
    ("lr", "why"),
    [
        (1e-6, "its lr is stable on all training rows"),
        (0.9, r"below 2/λ = .*, but minibatches of 2 curve more: .* is safe"),
        (1.1, "its lr is 1.1 × the largest stable one"),
    ],
)
def test_the_reason_follows_from_the_curvature(made: Results, lr: float, why: str) -> None:
    record = next(one for one in made.evaluated if one.run.batch_size == 2)
    assert made.stable[2] < 0.9 * made.largest_stable_lr
    run = replace(record.run, lr=lr if lr < 1e-3 else lr * made.largest_stable_lr)
    assert re.match(why, report.why(made, replace(record, run=run)))


def test_what_mattered_is_said_of_each_axis_that_varies() -> None:
    mattered = results(table(), params(sweep_lr=[0.001, 0.01, 0.05, 10.0]))
    found = importance(mattered.evaluated, mattered.metric)
    assert next(iter(found)) == "lr"
    assert found["lr"] > 0.5 > found["seed"]
    page = report.render(mattered, [])
    assert all(f"<dt>{axis}</dt><dd>{value:.2f}</dd>" in page for axis, value in found.items())


def test_texts_of_the_table_are_texts() -> None:
    hostile = "</title><script>alert('x')</script><img src=x onerror=y>&\"{{ 7 * 7 }}"
    changed: dict[str, Any] = {
        "data_target": hostile,
        "data_features": [f"a{hostile}", "b"],
        "data_source": f"{hostile}.csv",
    }
    text = render(
        results(table(), params(**changed, variants=["matrix"], sweep_seed=[1], sweep_lr=[0.01], train_epochs=2))
    )
    plain = render(results(table(), params(variants=["matrix"], sweep_seed=[1], sweep_lr=[0.01], train_epochs=2)))
    assert [tag for tag, _ in Reader(text).tags] == [tag for tag, _ in Reader(plain).tags]
    assert hostile in Reader(text).text


def test_the_best_50_stand_open_and_the_others_folded() -> None:
    lrs = [0.001 * (1 + i) for i in range(60)]
    page = render(
        results(
            table(),
            params(variants=["matrix"], sweep_lr=lrs, sweep_batch_size=["full"], sweep_seed=[1], train_epochs=2),
        )
    )
    openly, folded = page.split("<details>")
    assert openly.count("<tr><td>") == 50
    assert folded.count("<tr><td>") == 10
    assert "<summary>10 more</summary>" in folded


def test_a_sweep_that_diverged_altogether_has_a_report() -> None:
    text = Reader(render(results(table(), params(sweep_lr=[1e30], train_epochs=3)))).text
    assert "Every run diverged: there is no champion." in text
    assert "pipeline reproduce" not in text
    assert "<svg" not in text


def test_the_same_sweep_gives_the_same_page(made: Results, page: str) -> None:
    assert render(made) == page


def test_it_is_kept_with_the_sweep_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert outs.REPORT not in outs.evaluation()
    outs.REPORT.touch()
    assert outs.REPORT in outs.evaluation()
