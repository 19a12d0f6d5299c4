"""The training loop as a tutorial writes it, for any of the models: `python -m pipeline.variants.loop matrix`.

Reads data/prepared, which `dvc repro prepare` writes. `--batch-size 2` trains on shuffled minibatches.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn, optim
from torch.utils.data import DataLoader, TensorDataset

from pipeline.variants import Model, make, names

PREPARED = Path("data/prepared/tensors.safetensors")
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
    parser.add_argument("variant", choices=names(), help="a file of pipeline/variants: %(choices)s")
    parser.add_argument("--batch-size", type=int, help="rows of a minibatch (default: all rows)")
    parser.add_argument("--lr", type=float, default=1e-5, help="learning rate (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=1000, help="passes over all rows (default: %(default)s)")
    parser.add_argument("--init", choices=["zeros", "default"], default="zeros", help="how the parameters begin")
    parser.add_argument("--seed", type=int, default=1, help="of initial values and minibatches (default: %(default)s)")
    args = parser.parse_args()
    if not PREPARED.exists():
        sys.exit(f"{PREPARED}: no such file here; run: dvc repro prepare")

    torch.manual_seed(args.seed)
    prepared = load_file(PREPARED)
    rows = prepared["train"][0]  # of the first split, which trains on all rows
    X = (prepared["X"][rows] - prepared["mean"][0]) / prepared["scale"][0]  # (n, k)
    dataset = TensorDataset(X, prepared["y"][rows])  # y (n, 1)
    loader: Loader = DataLoader(dataset, args.batch_size or len(dataset), shuffle=args.batch_size is not None)

    model = make(args.variant, X.shape[1])
    if args.init == "zeros":
        for parameter in model.parameters():
            nn.init.zeros_(parameter)
    for epoch, i, loss in train(model, loader, args.lr, args.epochs):
        if epoch % 100 == 0:
            weights = " ".join(f"{value:.6f}" for p in model.parameters() for value in p.flatten().tolist())
            print(f"epoch {epoch:4d}/{args.epochs} minibatch {i + 1}/{len(loader)} weights {weights} cost {loss:.6f}")


if __name__ == "__main__":
    main()
