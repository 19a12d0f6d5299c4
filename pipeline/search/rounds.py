"""A search: rounds of proposed configurations, trained and scored, until all trials are made."""

import math
from collections.abc import Callable, Sequence

from pipeline.config.params import Search
from pipeline.metrics import as_loss, of_loss, summarized
from pipeline.runs.records import Record
from pipeline.runs.run import Run
from pipeline.search.space import Configuration
from pipeline.search.storage import Trial
from pipeline.search.study import Study, key, sizes

Train = Callable[[Sequence[Run]], list[Record]]  # with their metrics


def search(
    study: Study,
    settings: Search,
    runs_of: Callable[[Configuration], Sequence[Run]],
    train: Train,
    report: Callable[[Sequence[Trial]], object] = len,
) -> list[Record]:
    """Train what a study proposes, round by round; return the records of all runs, in the order of the proposals.

    Args:
        study: proposes configurations, and takes their losses.
        settings: the number of trials and rounds, and the metric.
        runs_of: the runs of a configuration, one for each seed.
        train: trains and evaluates the runs of a round.
        report: called after each round with the trials so far.
    """
    records: list[Record] = []
    trials: list[Trial] = []
    for place, size in enumerate(sizes(settings.trials, settings.rounds), start=1):
        proposed = [(one, list(runs_of(one))) for one in study.propose(size)]
        if not proposed:
            break
        trained = train([run for _, runs in proposed for run in runs])
        made = {record.run: record for record in trained}
        losses = [loss([made[run] for run in runs], settings.metric) for _, runs in proposed]
        study.tell({key(one): worse for (one, _), worse in zip(proposed, losses, strict=True)})
        records += trained
        scores = [of_loss(settings.metric, worse) for worse in losses]
        trials += [Trial(one, score, place) for (one, _), score in zip(proposed, scores, strict=True)]
        report(trials)
    return records


def loss(records: Sequence[Record], metric: str) -> float:
    """Return a configuration's loss: its metric's mean over the seeds, or infinity if a run diverged.

    It has nine digits, as the metrics have: further digits depend on rounding.
    """
    mean, _ = summarized(record.metrics.get(metric, math.nan) for record in records)
    return as_loss(metric, float(f"{mean:.9g}"))
