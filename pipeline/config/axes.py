"""What a sweep may vary."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

BatchSize = int | Literal["full"]


def _size(text: str) -> BatchSize:
    return "full" if text == "full" else int(text)


@dataclass(frozen=True)
class Axis:
    """What a sweep may vary: all that is known of it, wherever runs are named, listed, stored and compared.

    name: of the key in params.yaml, Run's field, the columns and MLflow's param. label: in a run's name, before the
    value. short: the same on MLflow's pages, where a name has little room. words: for one value and for several.
    read: from text. default: the value that names leave out; None if each is named.
    """

    name: str
    label: str
    short: str
    words: tuple[str, str]
    read: Callable[[str], Any]
    default: object = None

    def is_told(self, runs: Iterable[object]) -> bool:
        """Tell whether a list of runs needs to say where they stand on this axis: not if all have the default."""
        return self.default is None or any(getattr(run, self.name) != self.default for run in runs)


# In the order of the sweep: of two neighbours in it, the last axes differ first.
AXES = (
    Axis("batch_size", "bs", "b", ("batch size", "batch sizes"), _size),
    Axis("lr", "lr", "", ("lr", "lr"), float),
    Axis("optimizer", "optimizer", "", ("optimizer", "optimizers"), str, "sgd"),
    Axis("weight_decay", "weight_decay", "wd", ("weight decay", "weight decays"), float, 0.0),
    Axis("schedule", "schedule", "", ("schedule", "schedules"), str, "constant"),
    Axis("loss", "loss", "", ("loss", "losses"), str, "mse"),
    Axis("epochs", "epochs", "e", ("epochs", "numbers of epochs"), int, 1000),
    Axis("init", "init", "", ("initial weights", "initial weights"), str, "zeros"),
    Axis("seed", "seed", "s", ("seed", "seeds"), int),
)


OF_CONFIGURATION = tuple(axis for axis in AXES if axis.name != "seed")  # all that runs of a configuration share
