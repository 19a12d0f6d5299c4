"""Successive halving: runs train rung by rung, and at each the worse half of the configurations leaves.

See: Jamieson and Talwalkar, Non-stochastic Best Arm Identification and Hyperparameter Optimization, 2016.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from pipeline.records import BEHIND, Record
from pipeline.search.rounds import loss
from pipeline.sweep import Run, left_fingerprint
from pipeline.training import data, stacks
from pipeline.training.engines import Engine, Watch
from pipeline.training.stacks import Fitted, Stack

RATE = 2  # of the configurations, one in so many goes on, for so many times the epochs
Fits = Mapping[tuple[Run, int], Fitted]  # (run, split) -> its fit so far


@dataclass(frozen=True)
class Rung:
    """One of the steps at which runs are compared, from 1 to `last`."""

    place: int
    last: int

    def epochs(self, run: Run) -> int:
        """Return up to which epoch a run trains: at the last rung to its end, at each before to half of the next."""
        return -(-run.epochs // int(RATE ** (self.last - self.place)))


def rungs(runs: Sequence[Run], most: int) -> list[Rung]:
    """Return the rungs: as many as wanted, but no more than give each run a new epoch."""
    last = min(most, min(run.epochs for run in runs).bit_length())
    return [Rung(place, last) for place in range(1, last + 1)]


def halve(
    runs: Sequence[Run],
    prepared: data.Prepared,
    watch: Watch,
    engine: Engine,
    most: int,
    metric: str,
    score: Callable[[Record], Record],
) -> list[Record]:
    """Train runs rung by rung; return the records of all, in their order.

    A configuration stays or leaves with all its seeds. The bits of those that stay are those that they have alone.

    Args:
        runs: of one variant.
        prepared: the data.
        watch: told of each run that ends.
        engine: where stacks train.
        most: the number of rungs.
        metric: decides, as the mean over the seeds.
        score: fills in a record's metrics.
    """
    going, fits, ended = list(runs), dict[tuple[Run, int], Fitted](), dict[Run, Record]()
    splits = range(len(prepared.train))
    for rung in rungs(runs, most):
        planned = climbing(going, fits, rung, prepared)
        for stack, fitted in engine.train(planned, watch, runs[0].seed):
            watch.end(stack)
            fits |= zip(stack.fits, fitted, strict=True)
        records = [stacks.collect(run, [fits[run, split] for split in splits], prepared) for run in going]
        why = leaving([score(so_far(record, rung)) for record in records], metric) if rung.place < rung.last else set()
        for run, record in zip(going, records, strict=True):
            if rung.place == rung.last:
                ended[run] = record
            elif run.configuration in why:
                ended[run] = behind(record, rung)
        watch.finish([ended[run] for run in going if run in ended])
        going = [run for run in going if run not in ended]
    return [ended[run] for run in runs]


def behind(record: Record, rung: Rung) -> Record:
    """Mark a run that fell behind: it is another than the whole run, and has its own fingerprint."""
    left = f"{BEHIND}, after epoch {rung.epochs(record.run)} of {record.run.epochs}"
    return replace(record, left=left, run=replace(record.run, fingerprint=left_fingerprint(record.run, left)))


def climbing(runs: Sequence[Run], fits: Fits, rung: Rung, prepared: data.Prepared) -> list[Stack]:
    """Stack runs that go on, from their fits so far, up to a rung."""
    planned = []
    for _, alike in groupby(sorted(runs, key=lambda run: run.epochs), key=lambda run: run.epochs):
        for stack in stacks.group(list(alike), prepared.train_rows, prepared.X.shape[1]):
            begin = tuple(fits[one] for one in stack.fits) if fits else ()
            planned.append(replace(stack, begin=begin, until=rung.epochs(stack.fits[0][0])))
    return planned


def so_far(record: Record, rung: Rung) -> Record:
    """Cut a record's curve where its training stands, so that the last loss is that of its weights."""
    return replace(record, curve=record.curve[: rung.epochs(record.run)])


def leaving(records: Sequence[Record], metric: str) -> set[str]:
    """Choose the configurations that leave: the worse half, rounded down, and all of which a run diverged.

    Of equals those leave that stand last.

    Args:
        records: of all that go on, with their metrics.
        metric: decides, as the mean over the seeds.
    """
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.run.configuration, []).append(record)
    losses = {one: loss(group, metric) for one, group in groups.items()}
    order = sorted(losses, key=lambda one: losses[one])
    kept = math.ceil(len(order) / RATE)
    return {one for place, one in enumerate(order) if place >= kept or math.isinf(losses[one])}
