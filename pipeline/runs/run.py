"""What a run is: one training of one configuration."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.config.axes import AXES, OF_CONFIGURATION, Axis, BatchSize
from pipeline.config.params import Params, Train

PATH_POINTS = 101  # the most epochs at which a path is kept; track.points would retrain a sweep for a curve's sake


USED = {  # the settings of an optimizer, schedule or loss
    "momentum": ("momentum",),
    "nesterov": ("momentum",),
    "adam": ("beta1", "beta2", "eps"),
    "adamw": ("beta1", "beta2", "eps"),
    "step": ("step_every", "step_factor"),
    "huber": ("huber_delta",),
}


# Run's fields but its fingerprint, and how each is read from text.
FIELDS: Mapping[str, Callable[[str], Any]] = {
    "variant": str,
    **{axis.name: axis.read for axis in AXES},
    "device": str,
    **dict.fromkeys(("momentum", "beta1", "beta2", "eps", "step_factor", "huber_delta", "min_delta"), float),
    **dict.fromkeys(("step_every", "patience"), int),
}


@dataclass(frozen=True)
class Run:
    """One training of one configuration: a fit on all training rows and one for each fold.

    From `momentum` on, the settings of its optimizer, schedule, loss and stopping: None where not used.
    """

    variant: str
    batch_size: BatchSize
    lr: float
    seed: int
    epochs: int
    init: str
    device: str
    fingerprint: str
    optimizer: str = "sgd"
    weight_decay: float = 0.0
    schedule: str = "constant"
    loss: str = "mse"
    momentum: float | None = None
    beta1: float | None = None
    beta2: float | None = None
    eps: float | None = None
    step_every: int | None = None
    step_factor: float | None = None
    huber_delta: float | None = None
    patience: int | None = None
    min_delta: float | None = None

    @property
    def configuration(self) -> str:
        """The name shared by runs that differ only in their seed."""
        return configuration_name(vars(self))

    @property
    def name(self) -> str:
        """The run's name, for people."""
        return run_name(vars(self))


def configuration_name(values: Mapping[str, Any]) -> str:
    """Name a configuration: the variant, and each axis whose value is not the default; takes Run's fields, or texts."""
    return _named(values, OF_CONFIGURATION)


def run_name(values: Mapping[str, Any]) -> str:
    """Name a run, from Run's fields or their texts."""
    return _named(values, AXES)


def _named(values: Mapping[str, Any], axes: Sequence[Axis]) -> str:
    given = [(axis, values.get(axis.name, axis.default)) for axis in axes]
    parts = [f"{axis.label}={value}" for axis, value in given if str(value) != str(axis.default)]
    return " ".join([values["variant"], *parts])


def configured(params: Params, variant: str, point: Mapping[str, Any]) -> dict[str, Any]:
    """Return all that configures a run, Run's fields but the fingerprint; `point` has a value for each axis."""
    used = {name for axis in ("optimizer", "schedule", "loss") for name in USED.get(point[axis], ())}
    used |= {"patience", "min_delta"} if params.train.stop.patience else set()
    settings = {name: value for name, value in train_settings(params.train).items() if name in used}
    return {"variant": variant, **point, "device": params.train.device, **settings}


def train_settings(train: Train) -> dict[str, Any]:
    """Return the settings that only some runs use, as Run names them."""
    names = ("momentum", "eps", "step_every", "step_factor", "huber_delta")
    betas = dict(zip(("beta1", "beta2"), train.betas, strict=True))
    return {name: getattr(train, name) for name in names} | betas | train.stop.model_dump()


def curve_steps(epochs: int, points: int) -> list[int]:
    """Choose the epochs of a stored curve: every 1st, 2nd, 5th, 10th, … and the last; at most `points` in all."""
    strides = (digit * 10**power for power in range(20) for digit in (1, 2, 5))
    # The multiples of stride below the last epoch, and the last one itself.
    stride = next(stride for stride in strides if (epochs - 2) // stride + 2 <= points)
    return [*range(0, epochs - 1, stride), epochs - 1]
