"""All pictures of a sweep, in the order in which a reader asks, and their files."""

from collections.abc import Sequence
from dataclasses import replace

from matplotlib import rc_context

from pipeline.evaluation.plots import cost, heatmap, loss, lr, path, predicted
from pipeline.evaluation.plots.drawing import STYLE, Picture, write_png
from pipeline.evaluation.results import Results
from pipeline.runs import outs
from pipeline.system.files import replacing


def draw(results: Results) -> list[Picture]:
    """Draw every picture; in the tables, too, variants that agree have one name."""
    with rc_context(STYLE):
        drawn = [one.draw(results) for one in (loss, cost, lr, heatmap, path, predicted)]
        for figure in filter(None, (one.figure for one in drawn)):
            if engine := figure.get_layout_engine():  # once for PNG and SVG: it takes as long as drawing
                engine.execute(figure)
                figure.set_layout_engine("none")
    labels = {group.shown: group.label for group in results.groups}
    return [replace(one, table=one.table.assign(variant=one.table["variant"].map(labels))) for one in drawn]


def write(pictures: Sequence[Picture]) -> None:
    """Write plots/NAME.csv for each picture, and plots/NAME.png where there is something to see."""
    for picture in pictures:
        with replacing(outs.PLOTS / f"{picture.name}.csv") as temporary:
            picture.table.to_csv(temporary, index=False, float_format="%.9g")
        image = outs.PLOTS / f"{picture.name}.png"
        if picture.figure is None:
            image.unlink(missing_ok=True)  # of an earlier sweep, where DVC did not remove it
            continue
        with replacing(image) as temporary:
            write_png(picture.figure, temporary)
