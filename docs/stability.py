"""Print the curvatures of the loss on the prepared table, and the largest stable lr, 2/λ, where λ is the largest.

A step multiplies the error along an eigenvector by 1 - lr · λ. See: Goh, Why Momentum Really Works (Distill, 2017).
"""

import torch
from torch import Tensor

from pipeline.runs import outs
from pipeline.table.prepared import Prepared


def curvatures(X: Tensor) -> list[float]:
    """Return the eigenvalues, rising, of the Hessian 2/n · X1ᵀX1 of the mean squared error on X (n, k)."""
    X1 = torch.cat([X, torch.ones(len(X), 1)], dim=1).double()  # (n, k + 1): b is the weight of a column of ones
    return [float(value) for value in torch.linalg.eigvalsh(2 / len(X) * X1.mT @ X1)]


def largest_lr(X: Tensor) -> float:
    """Return the largest stable lr on X (n, k)."""
    return 2 / curvatures(X)[-1]


if __name__ == "__main__":
    prepared = Prepared.load(outs.PREPARED)
    tables = [torch.from_numpy(prepared.standardized(split)[rows]) for split, rows in enumerate(prepared.train)]
    print(f"curvatures: {' '.join(f'{value:.3g}' for value in curvatures(tables[0]))}")
    for split, X in enumerate(tables):
        print(f"{f'fold {split}' if split else 'all rows'}: {len(X)} rows, largest stable lr {largest_lr(X):.3g}")
    alone = [f"{largest_lr(row[None]):.3g}" for row in torch.from_numpy(prepared.standardized(0))]
    print(f"each row alone: {' '.join(alone)}")
