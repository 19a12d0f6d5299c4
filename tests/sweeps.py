"""Small sweeps, trained in this process, for the tests of pictures and report."""

import copy
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree as ET

import torch
from torch import Tensor

from pipeline.config.params import Params, check
from pipeline.evaluation import leaderboard, outcome
from pipeline.evaluation.results import Results
from pipeline.execution.engine import Here
from pipeline.execution.trainer import Trainer
from pipeline.runs import sweep
from pipeline.runs.fingerprints import fingerprint
from pipeline.runs.records import Record
from pipeline.runs.run import Run
from pipeline.runs.sweep import configured
from pipeline.table.prepared import Prepared, identity

SPLIT = {"method": "kfold", "folds": 3, "test_fraction": 0.2, "seed": 0}
DATA = {"source": "t.csv", "features": ["a", "b"], "target": "y", "split": SPLIT, "standardize": False, "exact": False}
PARAMS: dict[str, Any] = {
    "data": DATA,
    "variants": ["handwritten", "matrix", "linear"],
    "train": {"epochs": 40, "init": "zeros", "device": "cpu"},
    "sweep": {"batch_size": [2, "full"], "lr": [0.01, 0.05, 10.0], "seed": [1, 2, 3]},
    "evaluate": {"metric": "cv/mse"},
    "track": {"experiment": "e", "points": 11},
}


def params(**changed: Any) -> Params:  # noqa: ANN401
    """Return checked params: `sweep_lr=[1]` sets sweep.lr."""
    values = copy.deepcopy(PARAMS)
    for key, value in changed.items():
        block, _, name = key.partition("_")
        if name:
            values[block][name] = value
        else:
            values[block] = value
    return check(values, "params.yaml")


def table(rows: int = 12, k: int = 2, folds: int = 3, held_out: int | None = None) -> Prepared:
    """Return a table of normal numbers, split into folds or with so many rows held out."""
    chance = torch.Generator().manual_seed(0)
    X = torch.randn(rows, k, generator=chance)
    y = X @ torch.arange(1.0, k + 1)[:, None] + 3 + 0.3 * torch.randn(rows, 1, generator=chance)
    place = torch.arange(rows)
    kept = [place % folds != fold for fold in range(folds)]
    train = torch.stack([place >= 0, *kept]) if held_out is None else (place >= held_out)[None]
    return unscaled(X, y, train)


def unscaled(X: Tensor, y: Tensor, train: Tensor) -> Prepared:
    """Return X (n, k), y (n, 1) and train (S, n) as prepare writes them where data are not standardized."""
    return Prepared(X.numpy(), y.numpy(), train.numpy(), *identity(len(train), X.shape[1]))


def records(prepared: Prepared, settings: Params) -> list[Record]:
    """Train and evaluate a sweep's runs."""
    made: list[Record] = []
    for variant in settings.variants:
        runs = []
        for point in sweep.points(settings):
            values = configured(settings, variant, point)
            runs.append(Run(**values, fingerprint=fingerprint(values)))
        made += Trainer(prepared, Here(prepared)).train(runs)
    return [replace(record, metrics=outcome.metrics(record, prepared)) for record in made]


def results(prepared: Prepared, settings: Params, evaluated: list[Record] | None = None) -> Results:
    """Return an evaluated sweep, trained unless its records are given."""
    evaluated = records(prepared, settings) if evaluated is None else evaluated
    return Results(evaluated, leaderboard.rank(evaluated, settings.evaluate.metric), prepared, settings)


def texts(svg: str) -> list[tuple[str, float, float]]:
    """Return the texts that are seen in a drawn picture and where each stands, x and y, in pixels."""

    def found(element: ET.Element, x: float, y: float) -> Iterator[tuple[str, float, float]]:
        moves = re.findall(r"translate\(([^,]+),([^)]+)\)", element.get("transform", ""))
        x, y = x + sum(float(right) for right, _ in moves), y + sum(float(down) for _, down in moves)
        if element.text and element.tag.endswith("text") and element.get("opacity") != "0":
            yield element.text, x, y
        for child in element:
            yield from found(child, x, y)

    return list(found(ET.fromstring(svg), 0, 0))


def cells(svg: str, sign: str) -> set[tuple[str, str]]:
    """Return the learning rate and batch size that stand beside each cell of a heat map with a sign in it."""
    drawn = texts(svg)
    bottom = [one for one in drawn if one[2] == max(y for text, _, y in drawn if re.fullmatch(r"[\d.e+-]+", text))]
    left = [one for one in drawn if one[0] == "full" or one[0].isdigit()]
    left = [one for one in left if one[1] == min(x for _, x, _ in left)]
    return {
        (min(bottom, key=lambda one: abs(one[1] - x))[0], min(left, key=lambda one: abs(one[2] - y))[0])
        for text, x, y in drawn
        if text == sign and min(abs(one[2] - y) for one in left) < 10  # not the legend's
    }
