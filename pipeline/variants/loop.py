"""The training loop as a tutorial writes it, for any of the models: `python -m pipeline.variants.loop matrix`.

Reads data/prepared, which `dvc repro prepare` writes. `--batch-size 2` trains on shuffled minibatches.
"""

import argparse
import sys
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim
from torch.utils.data import DataLoader, TensorDataset

from pipeline.config.params import variant_names
from pipeline.runs import outs
from pipeline.table.prepared import Prepared
from pipeline.variants import Model, make

Loader = DataLoader[tuple[Tensor, ...]]


def train(model: Model, loader: Loader, lr: float, epochs: int) -> Iterator[tuple[int, int, float]]:
    """Train a model on the minibatches of a loader; yield epoch, minibatch and its loss before the step."""
    optimizer = optim.SGD(model.parameters(), lr=lr)
    for epoch in range(epochs):
        for i, (X, y) in enumerate(loader):  # X (batch_size, k), y (batch_size, 1)
            y_pred = model(X)
            loss = F.mse_loss(y_pred, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield epoch, i, loss.item()


def main() -> None:
    """Train one model on all training rows, and print its weights and cost every 100 epochs."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.variants.loop", description=main.__doc__)
    parser.add_argument("variant", choices=variant_names(), help="a file of pipeline/variants: %(choices)s")
    parser.add_argument("--batch-size", type=int, help="rows of a minibatch (default: all rows)")
    parser.add_argument("--lr", type=float, default=1e-5, help="learning rate (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=1000, help="passes over all rows (default: %(default)s)")
    parser.add_argument("--init", choices=["zeros", "default"], default="zeros", help="how the parameters begin")
    parser.add_argument("--seed", type=int, default=1, help="of initial values and minibatches (default: %(default)s)")
    told = parser.parse_args()
    if not outs.PREPARED.exists():
        sys.exit(f"{outs.PREPARED}: no such file here; run: dvc repro prepare")

    torch.manual_seed(told.seed)
    prepared = Prepared.load(outs.PREPARED)
    rows = prepared.train[0]
    X, y = prepared.standardized(0)[rows], prepared.y[rows]
    dataset = TensorDataset(torch.from_numpy(X), torch.from_numpy(y))
    loader: Loader = DataLoader(dataset, told.batch_size or len(dataset), shuffle=told.batch_size is not None)

    model = make(told.variant, prepared.X.shape[1])
    if told.init == "zeros":
        for parameter in model.parameters():
            nn.init.zeros_(parameter)
    for epoch, i, loss in train(model, loader, told.lr, told.epochs):
        if epoch % 100 == 0:
            weights = " ".join(f"{value:.6f}" for p in model.parameters() for value in p.flatten().tolist())
            print(f"epoch {epoch:4d}/{told.epochs} minibatch {i + 1}/{len(loader)} weights {weights} cost {loss:.6f}")


if __name__ == "__main__":
    main()
