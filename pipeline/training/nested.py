"""The further fits of nested cross-validation: each leaves out two folds.

To choose without a fold, configurations are compared on each of the others by fits that saw neither of the two. Such a
fit serves both ways round, so that K folds take K (K - 1) / 2 more fits of each run. They have a run's own seed,
initial values and order of minibatches, and are kept beside its record, which they do not change.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pipeline.execution.engine import Engine
from pipeline.execution.listener import Listener
from pipeline.runs.records import Record
from pipeline.runs.run import Run
from pipeline.table.prepared import Prepared
from pipeline.training import parameters, stacks
from pipeline.training.stacks import Stack


def count(splits: int) -> int:
    """Return the number of further fits of a run whose own are one on all training rows and one for each fold."""
    return math.comb(splits - 1, 2)


def group(runs: Sequence[Run], every: Prepared, splits: int) -> list[Stack]:
    """Group the further fits of one variant's runs into stacks.

    Args:
        runs: of one variant.
        every: the data, with the pairs of folds after the runs' own splits.
        splits: the number of these.
    """
    return stacks.group(runs, every.train_rows[splits:], every.X.shape[1], first=splits)


def complete(made: Sequence[Record], every: Prepared, splits: int, listener: Listener, engine: Engine) -> list[Record]:
    """Train the further fits of those records of one variant that lack them; return all, in their order.

    Args:
        made: the records.
        every: the data, with the pairs of folds after the runs' own splits.
        splits: the number of these.
        listener: hears how they train.
        engine: where stacks train.
    """
    lacking = [record.run for record in made if not record.inner]
    values: dict[tuple[Run, int], Tensor] = {}
    for stack, fitted in engine.train(group(lacking, every, splits), listener, made[0].run.seed):
        listener.end(stack)
        for one, fit in zip(stack.fits, fitted, strict=True):
            values[one] = fit.values if fit.diverged < 0 else torch.full_like(fit.values, torch.nan)
    return [record if record.inner else _with_inner(record, values, every, splits) for record in made]


def _with_inner(record: Record, values: dict[tuple[Run, int], Tensor], every: Prepared, splits: int) -> Record:
    own = torch.stack([values[record.run, split] for split in range(splits, len(every.train))])
    named = parameters.named(own, parameters.shapes(record.run.variant, every.X.shape[1]))
    return replace(record, inner={name: tensor.contiguous().numpy() for name, tensor in named.items()})
