"""What the pictures and the report are made of: an evaluated sweep, and which of its variants agree."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.config.axes import BatchSize, rank
from pipeline.config.params import Params
from pipeline.evaluation import leaderboard, outcome
from pipeline.evaluation.predictions import is_linear
from pipeline.runs import rounding
from pipeline.runs.records import Record
from pipeline.table.prepared import Prepared

Float64 = NDArray[np.float64]
Stable = Mapping[BatchSize, float]
TIE = 1e-3  # rounding explains 1e-5 at stable learning rates; another formula differs by about 1
FLOOR = 1e-6  # of the target's variance: smaller losses are mostly rounding


@dataclass(frozen=True)
class Group:
    """Variants whose runs agree, of which one is shown for all.

    apart: the largest relative difference of their curves and weights. compared: the runs of each that were compared;
    not those whose lr is beyond the largest stable one, where rounding grows without bound.
    """

    variants: tuple[str, ...]
    shown: str
    linear: bool
    apart: float = 0.0
    compared: int = 0

    @property
    def label(self) -> str:
        """The group's name in pictures."""
        return " = ".join(self.variants)


@dataclass(frozen=True)
class Results:
    """An evaluated sweep.

    final: the champion's metrics on the final rows, empty if there are no such rows. costs: what choosing it costs, by
    nested cross-validation; empty without that.
    """

    evaluated: Sequence[Record]
    board: pd.DataFrame
    prepared: Prepared
    params: Params
    final: Mapping[str, float] = field(default_factory=dict)
    costs: str = ""

    @property
    def metric(self) -> str:
        """The metric that chooses the champion."""
        return self.params.evaluate.metric

    @property
    def target(self) -> str:
        """The name of the target's column."""
        return self.params.data.target

    @property
    def final_rows(self) -> int:
        """The number of final rows."""
        return 0 if self.prepared.final is None else int(self.prepared.final.sum())

    @cached_property
    def runs_of(self) -> Mapping[str, Sequence[Record]]:
        """The runs of each configuration."""
        return leaderboard.by_configuration(self.evaluated)

    def values(self, axis: str) -> list[Any]:
        """List the values that runs have on an axis: as params.yaml does, or sorted if a search proposed others."""
        own = {getattr(record.run, axis) for record in self.evaluated}
        listed = [value for value in self.params.axis(axis) if value in own]
        return listed if len(listed) == len(own) else sorted(own, key=rank)

    @cached_property
    def rows(self) -> tuple[Float64, Float64]:
        """Training rows of the first split, as its runs see them: x (n, k + 1) with a 1 for b, and y (n,), float64."""
        train = self.prepared.train[0]
        X = self.prepared.standardized(0).astype(np.float64)[train]
        return np.hstack([X, np.ones((len(X), 1))]), self.prepared.y.astype(np.float64)[train, 0]

    @cached_property
    def optimum(self) -> float:
        """The least-squares optimum of the loss, 6 digits."""
        x, y = self.rows
        found = outcome.least_squares_mse(x[:, :-1], y[:, None])
        return float(f"{found:.6g}") if found > 1e-12 * float(y.var()) else 0.0

    @cached_property
    def largest_stable_lr(self) -> float:
        """The largest stable lr of gradient descent on all training rows of a linear variant: 2/λ, 6 digits."""
        return float(f"{2 / largest_eigenvalue(self.rows[0]):.6g}")

    @cached_property
    def stable(self) -> Stable:
        """The lr of a linear variant, for each batch size, below which no minibatches let rounding grow; 6 digits."""
        moments = rounding.Moments.of(*self.rows)
        runs = {record.run.batch_size: record.run for record in self.evaluated}
        limits = {size: 2 / moments.curvature(run.minibatch(moments.rows)) for size, run in runs.items()}
        return {size: float(f"{limit:.6g}") for size, limit in limits.items()}

    @cached_property
    def plain(self) -> bool:
        """Whether all runs are plain descent on mse, of which the largest stable lr is known."""
        return not any(rounding.unlike_plain(record.run) for record in self.evaluated)

    @cached_property
    def best_by_axes(self) -> pd.DataFrame:
        """The shown rows of the leaderboard, of those that differ in other axes than these only the best."""
        return self.shown.drop_duplicates(["variant", "batch_size", "lr"])

    @cached_property
    def groups(self) -> list[Group]:
        """The variants that agree, in the order of params.yaml; those with the best configurations are shown."""
        floor = FLOOR * float(self.rows[1].var())
        return agreeing(self.evaluated, list(self.board["variant"]), floor, self.stable)

    def group(self, variant: str) -> Group:
        """Return the group of a variant."""
        return next(group for group in self.groups if variant in group.variants)

    @cached_property
    def shown(self) -> pd.DataFrame:
        """The leaderboard's rows of the variants that are shown."""
        return self.board[self.board["variant"].isin([group.shown for group in self.groups])]

    def best(self, *keys: str) -> list[list[Record]]:
        """Return the runs of the best configuration for each value of `keys`, of the variants that are shown."""
        return leaderboard.best(self.shown, self.evaluated, keys)


def largest_eigenvalue(x: Float64) -> float:
    """Return the largest eigenvalue λ of the Hessian 2/n · Σxxᵀ of the mean squared error, given x (n, k + 1).

    Gradient descent on a quadratic loss is stable below lr = 2/λ.
    """
    hessian = 2 / len(x) * np.einsum("ni,nj->ij", x, x, optimize=False)  # without BLAS, whose order differs
    return float(np.linalg.eigvalsh(hessian)[-1])


def agreeing(evaluated: Sequence[Record], ranked: Sequence[str], floor: float, stable: Stable) -> list[Group]:
    """Group the variants whose runs have the same curves and weights, but for rounding.

    Args:
        evaluated: the runs of all variants.
        ranked: variants, the best first; may repeat.
        floor: losses below it are compared relative to it.
        stable: batch size -> the lr of linear variants from which on rounding grows without bound.
    """
    by_variant: dict[str, list[Record]] = {}
    for record in evaluated:
        by_variant.setdefault(record.run.variant, []).append(record)
    groups: list[Group] = []
    for variant, records in by_variant.items():
        linear = is_linear(records[0].tensors)
        for i, group in enumerate(groups):
            if linear != group.linear:
                continue
            both = pairs_of(by_variant[group.variants[0]], records)
            pairs = [
                (a, b)
                for a, b in both
                if not linear or (a.run.lr < stable[a.run.batch_size] and not rounding.unlike_plain(a.run))
            ]
            most = max((largest_difference(a, b, floor) for a, b in pairs), default=0.0 if both else math.inf)
            if most <= TIE:
                members, most = (*group.variants, variant), max(group.apart, float(f"{most:.2g}"))
                groups[i] = Group(members, min(members, key=list(ranked).index), linear, most, len(pairs))
                break
        else:
            groups.append(Group((variant,), variant, linear))
    return groups


def pairs_of(some: Sequence[Record], others: Sequence[Record]) -> list[tuple[Record, Record]]:
    """Pair the runs of two variants that are configured alike and went as far; a search may try others with each."""
    known = {(replace(one.run, variant="", fingerprint=""), one.left): one for one in others}
    keys = [(replace(one.run, variant="", fingerprint=""), one.left) for one in some]
    return [(one, known[key]) for one, key in zip(some, keys, strict=True) if key in known]


def largest_difference(one: Record, other: Record, floor: float) -> float:
    """Return the largest relative difference between the curves and weights of two runs.

    A loss is compared relative to itself, or to `floor` if that is larger, and weights relative to the run's largest.
    It is infinite if only one of them diverged or their weights have other shapes, and 0 if both diverged.
    """
    weights = [record.weights for record in (one, other)]
    if bool(one.diverged) != bool(other.diverged) or weights[0].shape != weights[1].shape:
        return float("inf")
    if one.diverged:
        return 0.0
    curves = one.held.astype(np.float64), other.held.astype(np.float64)
    trained = np.isfinite(curves[0])  # not where both have left
    losses = (np.abs(curves[0] - curves[1]) / np.maximum(np.maximum(*curves), floor or 1))[trained]
    size = float(np.abs(weights[0]).max())
    return max(float(losses.max()), float(np.abs(weights[0] - weights[1]).max()) / (size if size > 0 else 1))
