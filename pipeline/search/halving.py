"""Successive halving: runs train rung by rung, and at each rung the worse half of the configurations stops.

See: Jamieson and Talwalkar, Non-stochastic Best Arm Identification and Hyperparameter Optimization, 2016.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from pipeline.config.axes import OF_CONFIGURATION
from pipeline.execution.trainer import Fits, Trainer
from pipeline.metrics import of_loss
from pipeline.runs.fingerprints import left_fingerprint
from pipeline.runs.records import BEHIND, Record
from pipeline.runs.run import Run
from pipeline.search.space import Value
from pipeline.search.storage import Trial
from pipeline.search.study import loss

RATE = 2  # at each rung, one configuration in RATE goes on, for RATE times the epochs


def halve(
    runs: Sequence[Run],
    trainer: Trainer,
    most: int,
    metric: str,
    score: Callable[[Record], Record],
    report: Callable[[Sequence[Trial]], object],
) -> list[Record]:
    """Train runs rung by rung; return the records of all runs, in their order.

    A configuration goes on or stops with all its seeds. A run that goes on has the bits that it would have alone.

    Args:
        runs: those of one variant.
        trainer: trains them, and lets its listener know of each that ends.
        most: the number of rungs; there are no more than give each run a new epoch.
        metric: what configurations are compared by, as its mean over the seeds.
        score: fills in a record's metrics.
        report: called after each rung with the trials that have ended so far.
    """
    going, ended, trials = list(runs), dict[Run, Record](), list[Trial]()
    fits, scores = Fits(), dict[str, dict[int, float]]()
    last = min(most, min(run.epochs for run in runs).bit_length())
    for rung in range(1, last + 1):
        until = partial(epochs, further=last - rung)
        records = trainer.go_on(going, fits, until, runs[0].seed)
        losses = losses_of([score(so_far(one, until(one.run))) for one in records], metric)
        leave = set(losses) if rung == last else leaving(losses)
        ended |= {one.run: end(one, until(one.run)) for one in records if one.run.configuration in leave}
        for one, run in {run.configuration: run for run in going}.items():
            own = scores.setdefault(one, {})
            own[until(run)] = reached = of_loss(metric, losses[one])
            if one in leave:
                trials.append(Trial(configured(run), reached, rung, own, pruned=rung < last))
        trainer.listener.finish([ended[run] for run in going if run in ended])
        report(trials)
        going = [run for run in going if run not in ended]
    return [ended[run] for run in runs]


def epochs(run: Run, further: int) -> int:
    """Return the epoch up to which a run trains at a rung: its last at the last rung, half of the next at the others.

    Args:
        run: the run.
        further: the number of rungs that follow.
    """
    return -(-run.epochs // int(RATE**further))


def configured(run: Run) -> dict[str, Value]:
    """Return the values of a run's configuration."""
    return {axis.name: getattr(run, axis.name) for axis in OF_CONFIGURATION}


def end(record: Record, epoch: int) -> Record:
    """Return the record of a run that ends after an epoch.

    One that falls behind is another than the whole run, and has a fingerprint of its own.
    """
    if epoch == record.run.epochs:
        return record
    left = f"{BEHIND}, after epoch {epoch} of {record.run.epochs}"
    return replace(record, left=left, run=replace(record.run, fingerprint=left_fingerprint(record.run, left)))


def so_far(record: Record, epoch: int) -> Record:
    """Cut a record's curve at the last trained epoch, whose loss is that of its weights."""
    return replace(record, curve=record.curve[:epoch])


def losses_of(records: Sequence[Record], metric: str) -> dict[str, float]:
    """Return each configuration's loss, from records with their metrics."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.run.configuration, []).append(record)
    return {one: loss(group, metric) for one, group in groups.items()}


def leaving(losses: Mapping[str, float]) -> set[str]:
    """Choose the configurations that stop: the worse half, rounded down, and those with a diverged run.

    Of equal configurations the later ones stop.
    """
    order = sorted(losses, key=lambda one: losses[one])
    kept = math.ceil(len(order) / RATE)
    return {one for place, one in enumerate(order) if place >= kept or math.isinf(losses[one])}
