"""All pictures of a sweep, in the order in which a reader asks, and their files.

`python -m pipeline.evaluation.pictures` writes their specifications to .dvc/plots, where `dvc plots` finds them.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.evaluation.plots import cost, drawing, heatmap, loss, lr, path, predicted
from pipeline.evaluation.plots.drawing import Picture
from pipeline.evaluation.plots.look import Spec
from pipeline.evaluation.results import Results
from pipeline.runs import outs
from pipeline.system import files, repository

ALL = (loss, cost, lr, heatmap, path, predicted)
SPECIFICATIONS: dict[str, Spec] = {one.__name__.rpartition(".")[2]: one.SPECIFICATION for one in ALL}


def draw(results: Results) -> list[Picture]:
    """Draw every picture; variants that agree have one name."""
    labels = {group.shown: group.label for group in results.groups}
    stand_ins = {drawing.short(results.target): "target"}
    drawn = []
    for one in ALL:
        picture = one.draw(results)
        table = picture.table.assign(variant=picture.table["variant"].map(labels))
        picture = replace(picture, table=table, stand_ins=stand_ins)
        svg = "" if table.empty else drawing.draw(one.SPECIFICATION, picture.text)
        drawn.append(replace(picture, svg=svg))
    return drawn


def write(pictures: Sequence[Picture]) -> None:
    """Write plots/NAME.csv for each picture, and plots/NAME.svg and .png where there is something to see."""
    for picture in pictures:
        contents = {"csv": picture.text.encode(), "svg": b"", "png": b""}
        if picture.svg:
            contents["svg"] = drawing.on_white(picture.svg).encode()
            contents["png"] = drawing.png(picture.svg, picture.stand_ins)
        for kind, content in contents.items():
            path = outs.PLOTS / f"{picture.name}.{kind}"
            if not content:
                path.unlink(missing_ok=True)  # of an earlier sweep, where DVC did not remove it
                continue
            with files.replacing(path) as temporary:
                temporary.write_bytes(content)


def write_templates(folder: Path) -> None:
    """Write each specification where DVC fills in the tables of one or more revisions."""
    for name, specification in SPECIFICATIONS.items():
        (folder / f"{name}.json").write_text(json.dumps(specification, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_templates(repository.root() / ".dvc/plots")
