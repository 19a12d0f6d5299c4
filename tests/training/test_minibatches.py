"""The minibatches: which rows, in which order, whatever else trains beside them."""

from collections import Counter
from itertools import product

import pytest
import torch
from sweeps import unscaled

from pipeline.table.prepared import Prepared
from pipeline.training import minibatches
from pipeline.training.minibatches import MinibatchOrder, TrainingRows

Epochs = list[list[tuple[int, ...]]]  # of one run: epochs, of minibatches, of rows


def table(n: int, splits: int = 1, k: int = 1) -> Prepared:
    """Return n rows whose X and y tell which row they are; every split but the first leaves a row of its own out."""
    numbers = torch.arange(n, dtype=torch.float32).view(n, 1)
    train = torch.ones(splits, n, dtype=torch.bool)
    for split in range(1, splits):
        train[split, split - 1] = False
    return unscaled(numbers.repeat(1, k), 10 * numbers, train)


def read(order: MinibatchOrder, rows: TrainingRows) -> list[Epochs]:
    """Read the rows of each run's minibatches from their X."""
    read = [X[..., 0].int().tolist() for X, _ in minibatches.minibatches(rows, order)]
    return [
        [[tuple(minibatch[r]) for minibatch in read[first : first + order.steps]]
         for first in range(0, len(read), order.steps)]
        for r in range(len(read[0]))
    ]  # fmt: skip


def sequences(seeds: list[int], n: int, batch_size: int, epochs: range) -> list[Epochs]:
    return read(MinibatchOrder(seeds, n, batch_size, epochs), TrainingRows(table(n), [0] * len(seeds)))


def flat(epoch: list[tuple[int, ...]]) -> list[int]:
    return [row for minibatch in epoch for row in minibatch]


@pytest.mark.parametrize(("n", "batch_size"), [(1, 1), (5, 1), (5, 2), (7, 3), (8, 4), (9, 64)])
def test_every_epoch_takes_every_row_once_and_its_last_minibatch_may_be_short(n: int, batch_size: int) -> None:
    sizes = [batch_size] * (n // batch_size) + [n % batch_size] * (n % batch_size > 0)
    for run in sequences([3, 4, 3], n, batch_size, range(6)):
        assert len(run) == 6
        for epoch in run:
            assert [len(minibatch) for minibatch in epoch] == sizes
            assert sorted(flat(epoch)) == list(range(n))


def test_seed_and_epoch_change_the_order() -> None:
    orders = [tuple(minibatches.permutation(seed, epoch, 20).tolist()) for seed, epoch in product(range(30), range(30))]
    assert len(set(orders)) == 900


def test_every_order_is_equally_likely() -> None:
    counts = Counter(tuple(minibatches.permutation(7, epoch, 3).tolist()) for epoch in range(6000))
    assert len(counts) == 6
    assert sum((count - 1000) ** 2 / 1000 for count in counts.values()) < 20.5  # chi squared, 5 degrees: p = 0.001


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_a_run_s_order_is_the_same_whatever_is_stacked_beside_it(batch_size: int) -> None:
    epochs = range(4)
    (alone,) = sequences([2], 7, batch_size, epochs)
    assert sequences([9, 2, 2, 0], 7, batch_size, epochs)[1] == alone
    assert sequences([2, *range(50)], 7, batch_size, epochs)[0] == alone


def test_a_run_s_order_is_the_same_whatever_the_batch_size() -> None:
    whole = [sequences([5], 7, batch_size, range(4))[0] for batch_size in (1, 2, 3, 6)]
    orders = [[flat(epoch) for epoch in run] for run in whole]
    assert all(order == orders[0] for order in orders)
    assert orders[0] == [minibatches.permutation(5, epoch, 7).tolist() for epoch in range(4)]


@pytest.mark.parametrize("batch_size", [5, 8, 10**12])
def test_a_minibatch_of_all_rows_keeps_the_table_s_order(batch_size: int) -> None:
    assert sequences([1, 2], 5, batch_size, range(3)) == [[[(0, 1, 2, 3, 4)]] * 3] * 2


@pytest.mark.parametrize(("batch_size", "block"), list(product([1, 2, 3, 7], [1, 2, 5, 7, 13, 14, 15, 100, 10**9])))
def test_the_size_of_a_block_changes_no_minibatch(monkeypatch: pytest.MonkeyPatch, batch_size: int, block: int) -> None:
    whole = sequences([1, 2], 7, batch_size, range(5))
    monkeypatch.setattr(minibatches, "BLOCK", block)
    assert sequences([1, 2], 7, batch_size, range(5)) == whole


@pytest.mark.parametrize("batch_size", [1, 2, 7])
@pytest.mark.parametrize("begin", [1, 3, 5])
def test_resuming_at_an_epoch_yields_the_minibatches_that_were_left(batch_size: int, begin: int) -> None:
    whole = sequences([1, 2], 7, batch_size, range(6))
    rest = sequences([1, 2], 7, batch_size, range(begin, 6))
    assert rest == [run[begin:] for run in whole]


def test_every_run_of_a_stack_trains_on_its_own_split_s_rows() -> None:
    n, splits = 5, [3, 1, 2, 1]
    rows = TrainingRows(table(n, splits=4), splits)
    assert len(rows) == n - 1
    for split, run in zip(splits, read(MinibatchOrder([0] * 4, n - 1, 2, range(3)), rows), strict=True):
        for epoch in run:
            assert sorted(flat(epoch)) == [row for row in range(n) if row != split - 1]


def test_x_and_y_of_a_minibatch_are_of_the_same_rows() -> None:
    rows = TrainingRows(table(6, splits=3, k=2), [1, 2])
    for X, y in minibatches.minibatches(rows, MinibatchOrder([0, 1], 5, 2, range(2))):
        assert X.shape[:2] == y.shape[:2]
        torch.testing.assert_close(y, 10 * X[..., :1], rtol=0, atol=0)


def test_every_run_sees_x_as_its_own_split_standardizes_it() -> None:
    plain = table(5, splits=3, k=2)
    mean, scale = torch.tensor([[0.0, 1], [2, 3], [2, 3]]), torch.tensor([[1.0, 2], [4, 5], [4, 8]])
    rows = TrainingRows(Prepared(plain.X, plain.y, plain.train, mean.numpy(), scale.numpy()), [1, 2, 1])
    (X, y), *others = minibatches.minibatches(rows, MinibatchOrder([0, 0, 0], 4, 4, range(1)))
    assert not others
    for run, split in enumerate((1, 2, 1)):
        kept = plain.train[split]
        expected = (torch.from_numpy(plain.X[kept]) - mean[split]) / scale[split]
        torch.testing.assert_close(X[run], expected, rtol=0, atol=0)
        torch.testing.assert_close(y[run], torch.from_numpy(plain.y[kept]), rtol=0, atol=0)


@pytest.mark.parametrize("counts", [[5], [5, 4], [17, 12, 7], [8, 4], [100, 80, 79]])
def test_in_an_epoch_of_a_stack_each_group_takes_its_rows_in_whole_minibatches_and_a_last_short_one(
    counts: list[int],
) -> None:
    for batch_size in range(1, counts[-1] + 1):
        taken: list[list[int]] = [[] for _ in counts]
        streams = []
        for number, rows in enumerate(counts):
            parts = torch.arange(rows).view(1, rows, 1).split(batch_size, dim=1)
            streams.append(iter([(number + 10 * part, part) for part in parts] * 2))
        steps = minibatches.steps(counts, batch_size)
        for groups, (X, y) in zip(steps * 2, minibatches.together(streams, steps, 2), strict=True):
            assert ((X - 10 * y)[:, 0, 0] == torch.tensor(list(groups))).all()
            for group in groups:
                taken[group].append(X.shape[1])
        for sizes, rows in zip(taken, counts, strict=True):
            assert sizes == [len(part) for part in torch.arange(rows).split(batch_size)] * 2
        assert len(steps) <= sum(-(-rows // batch_size) for rows in counts)
