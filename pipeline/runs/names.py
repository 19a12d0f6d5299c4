"""A run in words: its name, and how each of its fields is read from text. It changes no result."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.config.axes import AXES, Axis

# Run's fields but its fingerprint, and how each is read from text.
FIELDS: Mapping[str, Callable[[str], Any]] = {
    "variant": str,
    **{axis.name: axis.read for axis in AXES},
    "device": str,
    **dict.fromkeys(("momentum", "beta1", "beta2", "eps", "step_factor", "huber_delta", "min_delta"), float),
    **dict.fromkeys(("step_every", "patience"), int),
}


def run_name(values: Mapping[str, Any], axes: Sequence[Axis] = AXES) -> str:
    """Name a run: the variant, and each axis whose value is not the default; takes Run's fields, or their texts."""
    given = [(axis, values.get(axis.name, axis.default)) for axis in axes]
    parts = [f"{axis.label}={value}" for axis, value in given if str(value) != str(axis.default)]
    return " ".join([values["variant"], *parts])
