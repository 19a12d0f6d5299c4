"""Trains the runs of one variant: their fits on an engine, stack by stack, and their records out of these."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from pipeline.execution.engine import Engine
from pipeline.execution.listener import Listener, Listeners
from pipeline.runs.records import Record
from pipeline.runs.run import Run
from pipeline.table.prepared import Prepared
from pipeline.training import nested, stacks
from pipeline.training.stacks import Fitted, Stack

Fits = dict[tuple[Run, int], Fitted]  # (run, split) -> its fit so far


@dataclass(frozen=True)
class Trainer:
    """Trains runs of one variant.

    prepared: the data. engine: where stacks train on them. listener: hears how they get on; by default, nobody does.
    """

    prepared: Prepared
    engine: Engine
    listener: Listener = field(default_factory=Listeners)

    def fit(self, planned: Sequence[Stack], seed: int) -> Iterator[tuple[Stack, list[Fitted]]]:
        """Train stacks and yield each with its fits, in any order; the paths of the runs with `seed` are kept."""
        for stack, fits in self.engine.train(planned, self.listener, seed):
            self.listener.end(stack)
            yield stack, fits

    def train(self, runs: Sequence[Run], found: Mapping[str, Record] | None = None) -> list[Record]:
        """Train runs of one variant; return their records in the order of the runs.

        Args:
            runs: the paths of those with the first one's seed are kept.
            found: the records of runs that need not train again, by fingerprint.
        """
        done, fits = dict(found or {}), Fits()
        splits = range(len(self.prepared.train))
        planned = stacks.group(unknown(runs, done), self.prepared.train_rows, self.prepared.X.shape[1])
        for stack, fitted in self.fit(planned, runs[0].seed):
            fits |= zip(stack.fits, fitted, strict=True)
            own = dict.fromkeys(run for run, _ in stack.fits)
            whole = [run for run in own if all((run, split) in fits for split in splits)]
            made = [stacks.collect(run, [fits.pop((run, split)) for split in splits], self.prepared) for run in whole]
            done |= {record.run.fingerprint: record for record in made}
            if made:
                self.listener.finish(made)
        return [done[run.fingerprint] for run in runs]

    def go_on(self, runs: Sequence[Run], fits: Fits, until: Callable[[Run], int], seed: int) -> list[Record]:
        """Train runs of one variant from their fits so far; replace the fits, and return the runs' records there.

        Args:
            runs: of one variant.
            fits: those of the runs, or none, if they start.
            until: returns the number of epochs that a run is to have done; the same for runs of as many epochs.
            seed: of the runs whose paths are kept.
        """
        planned = []
        for epochs in sorted({run.epochs for run in runs}):
            alike = [run for run in runs if run.epochs == epochs]
            for stack in stacks.group(alike, self.prepared.train_rows, self.prepared.X.shape[1]):
                begin = tuple(fits[one] for one in stack.fits) if fits else ()
                planned.append(replace(stack, begin=begin, until=until(alike[0])))
        for stack, fitted in self.fit(planned, seed):
            fits |= zip(stack.fits, fitted, strict=True)
        splits = range(len(self.prepared.train))
        return [stacks.collect(run, [fits[run, split] for split in splits], self.prepared) for run in runs]

    def nest(self, records: Sequence[Record], splits: int) -> list[Record]:
        """Train the further fits of nested cross-validation for those records that lack them; return all, in order.

        Args:
            records: one variant's.
            splits: the number of the runs' own splits, after which the data have the pairs of folds.
        """
        lacking = [record.run for record in records if not record.inner]
        values = dict[tuple[Run, int], Tensor]()
        for stack, fitted in self.fit(nested.group(lacking, self.prepared, splits), records[0].run.seed):
            values |= zip(stack.fits, map(nested.values, fitted), strict=True)
        k, pairs = self.prepared.X.shape[1], range(splits, len(self.prepared.train))
        return [one if one.inner else nested.add(one, [values[one.run, pair] for pair in pairs], k) for one in records]


def plan(runs: Sequence[Run], found: Mapping[str, Record], prepared: Prepared, every: Prepared) -> list[Stack]:
    """List the stacks that are to train for one variant's runs.

    Args:
        runs: the variant's.
        found: records that need not train again, by fingerprint; some without the fits of nested cross-validation.
        prepared: the data.
        every: the same, with the pairs of folds if they are wanted.
    """
    own = stacks.group(unknown(runs, found), prepared.train_rows, prepared.X.shape[1])
    whole = {fingerprint: record for fingerprint, record in found.items() if record.inner}
    return own + nested.group(unknown(runs, whole), every, len(prepared.train))


def unknown(runs: Sequence[Run], found: Mapping[str, Record]) -> list[Run]:
    """List the runs that have no record among those found, by fingerprint."""
    return [run for run in runs if run.fingerprint not in found]
