"""The axes: what a sweep may vary. Each is one entry of AXES, from which names, columns, params and checks follow."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

BatchSize = int | Literal["full"]
Optimizer = Literal["sgd", "momentum", "nesterov", "adam", "adamw"]
Schedule = Literal["constant", "step", "cosine"]
Loss = Literal["mse", "huber", "mae"]
Init = Literal["zeros", "default"]


def _size(text: str) -> BatchSize:
    return "full" if text == "full" else int(text)


def _is_size(value: object) -> bool:
    return value == "full" or (type(value) is int and value >= 1)


def rank(value: object) -> tuple[bool, object]:
    """Return the key by which an axis's values are sorted: `full` is the largest batch size."""
    return value == "full", value


@dataclass(frozen=True)
class Values:
    """The values that an axis takes in params.yaml.

    type: of a value, as pydantic checks it. one: in words. several: the same for a list, under `sweep`. read: from
    text. whole: for numbers, whether they are whole; None for names, of which there are no ranges. valid: what else is
    checked of a value.
    """

    type: Any
    one: str
    several: str
    read: Callable[[str], Any]
    whole: bool | None = None
    valid: Callable[[Any], bool] = lambda _: True


def named(names: object) -> Values:
    """Take the names of a Literal."""
    *most, last = get_args(names)
    return Values(names, f"{', '.join(most)} or {last}", f"{', '.join(most)} and {last}", str)


@dataclass(frozen=True)
class Axis:
    """One of what a sweep may vary: all that is known of it, wherever runs are named, listed, stored and compared.

    name: its key in params.yaml, Run's field, its columns and MLflow's param. label: what stands before the value in a
    run's name. short: the same on MLflow's pages, where names have little room. words: for one value and for several.
    takes: its values. default: the value that names leave out; its key stands under `train` too, and an empty list
    under `sweep` means the value there. None: the sweep lists it always. required: whether its key under `train` is;
    older params files lack those that are not.
    """

    name: str
    label: str
    short: str
    words: tuple[str, str]
    takes: Values
    default: object = None
    required: bool = False

    @property
    def read(self) -> Callable[[str], Any]:
        """How a value is read from text."""
        return self.takes.read

    def is_shown(self, runs: Iterable[object]) -> bool:
        """Tell whether a list of runs shows this axis; it does not if all have the default."""
        return self.default is None or any(getattr(run, self.name) != self.default for run in runs)


SIZES = Values(Any, "", "whole numbers, 1 or more, or full", _size, whole=True, valid=_is_size)
RATES = Values(
    float,
    "",
    "numbers from 1e-38 to 1e38",
    float,
    whole=False,
    valid=lambda value: 1e-38 < value < 1e38,  # the range of float32
)
DECAYS = Values(
    Annotated[float, Field(ge=0, lt=1e38)], "a number from 0 to 1e38", "numbers from 0 to 1e38", float, whole=False
)
EPOCHS = Values(
    Annotated[int, Field(ge=1, le=10**9)],
    "a whole number from 1 to 1000000000",
    "whole numbers from 1 to 1000000000",
    int,
    whole=True,
)
SEEDS = Values(int, "", "whole numbers, 0 or more", int, whole=True, valid=lambda value: 0 <= value < 2**63)

# In the order of the sweep: of two neighbours in it, the last axes differ first.
AXES = (
    Axis("batch_size", "bs", "b", ("batch size", "batch sizes"), SIZES),
    Axis("lr", "lr", "", ("lr", "lr"), RATES),
    Axis("optimizer", "optimizer", "", ("optimizer", "optimizers"), named(Optimizer), "sgd"),
    Axis("weight_decay", "weight_decay", "wd", ("weight decay", "weight decays"), DECAYS, 0.0),
    Axis("schedule", "schedule", "", ("schedule", "schedules"), named(Schedule), "constant"),
    Axis("loss", "loss", "", ("loss", "losses"), named(Loss), "mse"),
    Axis("epochs", "epochs", "e", ("epochs", "numbers of epochs"), EPOCHS, 1000, required=True),
    Axis("init", "init", "", ("initial weights", "initial weights"), named(Init), "zeros", required=True),
    Axis("seed", "seed", "s", ("seed", "seeds"), SEEDS),
)


OF_CONFIGURATION = tuple(axis for axis in AXES if axis.name != "seed")  # all that runs of a configuration share
