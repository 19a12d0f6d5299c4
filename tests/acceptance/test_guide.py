"""The guide, followed from its first command to its last in a fresh clone; the pictures of the pages it shows."""

from pathlib import Path

import pytest
import render
import screenshots
from conftest import REPOSITORY, copy_checkout, run
from PIL import Image
from playwright.sync_api import Browser
from test_docs import GUIDE, same


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[tuple[str, ...], str]]:
    """A fresh clone after all the guide's commands, and what each block of them printed."""
    clone = copy_checkout(tmp_path_factory.mktemp("followed"))
    run("dvc", "repro", "prepare", cwd=clone)
    return clone, {block: render.run(block, clone) for block in render.outputs(GUIDE)}


def test_the_guide_s_outputs_are_what_a_fresh_clone_prints(followed: tuple[Path, dict[tuple[str, ...], str]]) -> None:
    _, printed = followed
    for block, shown in render.outputs(GUIDE).items():
        assert same(printed[block], shown), f"{block}: run: make docs; it printed:\n{printed[block]}"


def test_every_picture_is_taken_anew(
    followed: tuple[Path, dict[tuple[str, ...], str]],
    tmp_path: Path,
    browser: Browser,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clone, _ = followed
    monkeypatch.setenv("PIPELINE_UI", "")  # set again below, and left as it was at the end
    screenshots.take(clone, tmp_path, browser)
    taken = {path.name: Image.open(path) for path in tmp_path.iterdir()}
    assert taken.keys() == {path.name for path in (REPOSITORY / "docs/images").iterdir()}
    for name, picture in taken.items():
        colours = picture.convert("RGB").getcolors(2**24) or []
        most = max(count for count, _ in colours) / (picture.width * picture.height)
        assert most < 0.97, f"{name} is nearly blank"
