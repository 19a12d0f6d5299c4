"""The prepared data as a Dataset, and the minibatch order.

A stack trains R runs side by side: whatever a plain Dataset and sampler yield for one run has a leading axis of
length R here.
"""

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from itertools import chain, repeat

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from pipeline.table.prepared import Prepared

Minibatch = tuple[Tensor, Tensor]
BLOCK = 2**16  # positions fetched at once: few enough for their rows to stay in the processor's cache


class TrainingRows(Dataset[Minibatch]):
    """The training rows of R runs, each with its own split, fetched a minibatch at a time."""

    def __init__(self, prepared: Prepared, splits: Sequence[int], device: str = "cpu") -> None:
        """Keep each differently standardized X once, however many runs train on it.

        Args:
            prepared: the data.
            splits: R split numbers, all with the same number of training rows, n.
            device: where the minibatches go.
        """
        tables = {split: prepared.table(split) for split in set(splits)}
        distinct = sorted(set(tables.values()))
        X = np.concatenate([prepared.standardized(split) for split in distinct])
        self.X = torch.from_numpy(X).to(device)  # (distinct · N, k)
        self.y = torch.from_numpy(np.tile(prepared.y, (len(distinct), 1))).to(device)  # (distinct · N, 1)
        offset = {split: distinct.index(table) * len(prepared.X) for split, table in tables.items()}
        rows = [np.flatnonzero(prepared.train[split]) + offset[split] for split in splits]
        self.rows = torch.from_numpy(np.stack(rows)).to(device)  # (R, n), into X and y

    def __len__(self) -> int:
        """Return n, the number of training rows of each run."""
        return self.rows.shape[1]

    def __getitems__(self, positions: Tensor) -> Minibatch:
        """Fetch a minibatch of every run: positions (R, m) -> X (R, m, k), y (R, m, 1), float32."""
        rows = self.rows.gather(1, positions.to(self.rows.device))
        return self.X[rows], self.y[rows]


class MinibatchOrder(Sampler[Tensor]):
    """The minibatches of every epoch; an epoch's last one is short if the batch size does not divide n.

    A run's order depends only on its seed, the epoch and n: it is the same for every variant and in every stack.
    A minibatch of all rows keeps the table's order.

    Yields positions (R, c), int64: a block of whole minibatches, side by side. A block is part of an epoch or several
    epochs, about BLOCK positions: DataLoader takes 75 µs per item, and training on a small minibatch 120 µs.
    """

    def __init__(self, seeds: Sequence[int], n: int, batch_size: int, epochs: range) -> None:
        self.seeds = sorted(set(seeds))
        self.seed_of_run = torch.tensor([self.seeds.index(seed) for seed in seeds])  # (R,)
        self.n = n
        self.batch_size = min(batch_size, n)
        self.steps = -(-n // self.batch_size)  # minibatches per epoch
        self.epochs = epochs

    def __iter__(self) -> Iterator[Tensor]:
        per_run = max(1, BLOCK // len(self.seed_of_run))
        together = max(1, per_run // self.n)
        for first in range(0, len(self.epochs), together):
            orders = self._orders(self.epochs[first : first + together])
            whole = together * self.n if together > 1 else max(1, per_run // self.batch_size) * self.batch_size
            yield from orders.split(whole, dim=1)

    def _orders(self, epochs: range) -> Tensor:
        """Return the positions (R, len(epochs) · n) of whole epochs."""
        if self.steps == 1:
            return torch.arange(self.n).repeat(len(epochs)).expand(len(self.seed_of_run), -1)
        orders = [torch.cat([permutation(seed, epoch, self.n) for epoch in epochs]) for seed in self.seeds]
        return torch.stack(orders)[self.seed_of_run]


def permutation(seed: int, epoch: int, n: int) -> Tensor:
    """Return the order (n,), int64, of a run's rows in an epoch."""
    # The CPU generator keeps only 32 bits of its seed, so seed and epoch are hashed into 32 bits, not added.
    digest = blake2b(f"{seed} {epoch}".encode(), digest_size=4).digest()
    return torch.randperm(n, generator=torch.Generator().manual_seed(int.from_bytes(digest, "big")))


def minibatches(rows: TrainingRows, order: MinibatchOrder, copies: int = 1) -> Iterator[Minibatch]:
    """Yield the minibatches of all epochs, one by one: X (R, m, k), y (R, m, 1), float32; of one run, any copies."""
    # The sampler yields blocks as tensors, and TrainingRows fetches and collates them itself.
    blocks = DataLoader(rows, batch_sampler=order, collate_fn=lambda block: block)  # type: ignore[arg-type]
    for each in blocks:
        X, y = (part.expand(copies * len(part), -1, -1) for part in each)
        for X_epoch, y_epoch in zip(X.split(order.n, dim=1), y.split(order.n, dim=1), strict=True):
            yield from zip(X_epoch.split(order.batch_size, dim=1), y_epoch.split(order.batch_size, dim=1), strict=True)


def steps(counts: Sequence[int], batch_size: int) -> list[range]:
    """Tell which groups of runs take each step of an epoch: those with a whole minibatch left; at its end, short ones.

    Args:
        counts: the number of rows of each group's runs, falling.
        batch_size: at most the last of them.

    Returns:
        the groups, by place, neighbours each time.
    """
    whole, together = [*(rows // batch_size for rows in counts), 0], list[range]()
    for groups in range(len(counts), 0, -1):
        together += [range(groups)] * (whole[groups - 1] - whole[groups])
    return together + [range(group, group + 1) for group, rows in enumerate(counts) if rows % batch_size]


def together(streams: Sequence[Iterator[Minibatch]], steps: Sequence[range], epochs: int) -> Iterator[Minibatch]:
    """Yield each step's minibatch, of the groups that take it, from a stream for each group."""
    for groups in chain.from_iterable(repeat(steps, epochs)):
        each = [next(streams[group]) for group in groups]
        yield each[0] if len(each) == 1 else (torch.cat([X for X, _ in each]), torch.cat([y for _, y in each]))
