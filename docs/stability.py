"""Print the largest stable lr, 2/λ, of the prepared table; λ is the largest eigenvalue of the loss's Hessian.

A step multiplies the error along an eigenvector by 1 - lr · λ. See: Goh, Why Momentum Really Works (Distill, 2017).
"""

import torch
from torch import Tensor

from pipeline import outs
from pipeline.training import data


def largest_lr(X: Tensor) -> float:
    """Return 2/λ for the mean squared error of y_pred = X W + b on X (n, k); its Hessian is 2/n · X1ᵀX1."""
    X1 = torch.cat([X, torch.ones(len(X), 1)], dim=1).double()  # (n, k + 1): b is the weight of a column of ones
    hessian = 2 / len(X) * X1.mT @ X1
    return 2 / float(torch.linalg.eigvalsh(hessian)[-1])


if __name__ == "__main__":
    prepared = data.load(outs.PREPARED)
    for split, rows in enumerate(prepared.train):
        X = prepared.standardized(split)[rows]
        print(f"{f'fold {split}' if split else 'all rows'}: {len(X)} rows, largest stable lr {largest_lr(X):.3g}")
    alone = [f"{largest_lr(row[None]):.3g}" for row in prepared.standardized(0)]
    print(f"each row alone: {' '.join(alone)}")
