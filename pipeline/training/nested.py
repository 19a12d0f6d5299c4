"""The further fits of nested cross-validation: each leaves out two folds.

To choose without a fold, configurations are compared on each of the others by fits that saw neither of the two. Such a
fit serves both ways round, so that K folds take K (K - 1) / 2 more fits of each run. They have a run's own seed,
initial values and order of minibatches, and are kept beside its record, which they do not change.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pipeline.runs.records import Record
from pipeline.runs.run import Run
from pipeline.table.prepared import Prepared
from pipeline.training import parameters, stacks
from pipeline.training.stacks import Fitted, Stack


def group(runs: Sequence[Run], every: Prepared, splits: int) -> list[Stack]:
    """Group the further fits of one variant's runs into stacks.

    Args:
        runs: of one variant.
        every: the data, with the pairs of folds after the runs' own splits.
        splits: the number of these.
    """
    return stacks.group(runs, every.train_rows[splits:], every.X.shape[1], first=splits)


def values(fit: Fitted) -> Tensor:
    """Return what a record keeps of a further fit: its parameters (P,), NaN if it diverged."""
    return fit.values if fit.diverged < 0 else torch.full_like(fit.values, torch.nan)


def add(record: Record, fits: Sequence[Tensor], k: int) -> Record:
    """Add the values (P,) of its further fits, in the order of the pairs of folds, to the record of a run.

    Args:
        record: the run's.
        fits: from `values`.
        k: the number of features.
    """
    named = parameters.named(torch.stack(list(fits)), parameters.shapes(record.run.variant, k))
    return replace(record, inner={name: tensor.contiguous().numpy() for name, tensor in named.items()})
