"""The search of the stage train: params.yaml -> one variant's runs, chosen while they train, and their study.json.

Reads the environment variable PIPELINE_OPTUNA_STORAGE; writes data/trained/VARIANT/study.json.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from pipeline.config.axes import OF_CONFIGURATION
from pipeline.config.params import Params
from pipeline.errors import refuse
from pipeline.evaluation import outcome
from pipeline.execution.trainer import Trainer
from pipeline.metrics import HIGHER_IS_BETTER, of_loss
from pipeline.runs import outs, sweep
from pipeline.runs.records import Record
from pipeline.runs.run import Run
from pipeline.search import halving, storage
from pipeline.search.space import Choice, Configuration, Domain, Interval, Space, refused
from pipeline.search.storage import Trial
from pipeline.search.study import Study, key, loss, sizes
from pipeline.system.files import write_json

Recall = Callable[[Sequence[Run]], Mapping[str, Record]]


class Searcher:
    """Chooses the runs of one variant."""

    def __init__(self, params: Params, variant: str) -> None:
        """Check that the method can search the axes of params.yaml.

        Raises:
            InputError: the method cannot search these axes.
        """
        self.params, self.variant, self.settings = params, variant, params.sweep.search
        self.space = space(params)
        self.copied = os.environ.get(storage.VARIABLE, "")
        refuse("params.yaml", refused(self.space, self.settings.method))

    def study(self) -> Study:
        """Make the study; it proposes the same each time."""
        size = max(sizes(self.settings.trials, self.settings.rounds))
        return Study(self.space, self.settings.method, self.settings.seed, size, lambda one: bool(self.runs(one)))

    def runs(self, one: Configuration) -> list[Run]:
        """Return a configuration's runs, one for each seed; none if the sweep leaves it out."""
        return sweep.runs_of(self.params, self.variant, one)

    @property
    def most(self) -> int:
        """The most runs that it may train."""
        if self.settings.method == "halving":
            return len(self.likely())
        return self.settings.trials * len(self.params.sweep.seed)

    def likely(self) -> list[Run]:
        """Return the runs of the first round, by which an engine is chosen; for halving, all runs."""
        if self.settings.method == "halving":
            return [run for run in sweep.plan(self.params) if run.variant == self.variant]
        first = self.study().propose(sizes(self.settings.trials, self.settings.rounds)[0])
        return [run for one in first for run in self.runs(one)]

    def run(self, trainer: Trainer, recall: Recall | None = None) -> list[Record]:
        """Search; return the records of all runs, and write the study.

        Args:
            trainer: trains the variant's runs.
            recall: returns the records of runs of a round that need not train again, by fingerprint.
        """

        def evaluated(record: Record) -> Record:
            return replace(record, metrics=outcome.metrics(record, trainer.prepared))

        def trained(runs: Sequence[Run]) -> list[Record]:
            return list(map(evaluated, trainer.train(runs, recall(runs) if recall else {})))

        if self.settings.method == "halving":
            most, metric = self.settings.rounds, self.settings.metric
            found = halving.halve(self.likely(), trainer, most, metric, evaluated, self.report)
        else:
            found = self.search(trained)
        return [replace(record, metrics={}) for record in found]

    def search(self, train: Callable[[Sequence[Run]], list[Record]]) -> list[Record]:
        """Train and evaluate what the study proposes, round by round; return the records in the order of proposals."""
        study, metric = self.study(), self.settings.metric
        records: list[Record] = []
        trials: list[Trial] = []
        for place, size in enumerate(sizes(self.settings.trials, self.settings.rounds), start=1):
            proposed = [(one, self.runs(one)) for one in study.propose(size)]
            if not proposed:
                break
            trained = train([run for _, runs in proposed for run in runs])
            made = {record.run: record for record in trained}
            losses = {key(one): loss([made[run] for run in runs], metric) for one, runs in proposed}
            study.tell(losses)
            trials += [Trial(one, of_loss(metric, losses[key(one)]), place) for one, _ in proposed]
            self.report(trials)
            records += trained
        return records

    def report(self, trials: Sequence[Trial]) -> None:
        """Write the trials so far, and copy them to the storage that the user names."""
        identity = sweep.sweep_id([], sweep.specification(self.params))
        rows = [
            {"round": one.round, **one.configuration, "score": one.score if math.isfinite(one.score) else None}
            for one in trials
        ]
        write_json(outs.study(self.variant), {"sweep": identity, **self.settings.model_dump(), "tried": rows})
        if self.copied:
            higher = self.settings.metric in HIGHER_IS_BETTER
            name = f"{self.variant} {identity}"
            self.copied = self.copied if storage.copy(self.copied, name, higher, self.space, trials) else ""


def space(params: Params) -> Space:
    """Return the space of a sweep: a list that is one range or sample is an interval, any other its values."""
    return {axis.name: domain(params, axis.name) for axis in OF_CONFIGURATION}


def domain(params: Params, axis: str) -> Domain:
    """Return the domain of one list; an interval of whole numbers has whole ends too."""
    values, entry = params.axis(axis), params.sweep.intervals.get(axis)
    if not entry:
        return Choice.of(values)
    kind = type(values[0])
    return Interval(kind(entry.low), kind(entry.high), entry.log)
