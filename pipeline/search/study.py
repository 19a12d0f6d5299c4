"""A search's study: Optuna proposes rounds of configurations, and takes their scores.

It lives in memory and is made again by each search, so that nothing but its settings decides what it proposes. Of 6,000
proposals, 139 differed in their last bits between AVX2 and AVX-512, and none once rounded to six digits.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.samplers import BaseSampler, CmaEsSampler, RandomSampler, TPESampler
from optuna.trial import TrialState, create_trial

from pipeline.metrics import as_loss, summarized
from pipeline.runs.records import Record
from pipeline.search.space import Configuration, Space, rounded, searched, value

ASKED = 20  # proposals for each that is needed; further ones only repeat known configurations
Key = tuple[tuple[str, object], ...]


class Study:
    """Proposes configurations, no two alike, and learns from their losses."""

    def __init__(
        self, space: Space, method: str, seed: int, population: int, allowed: Callable[[Configuration], bool]
    ) -> None:
        """Make a study without trials.

        Args:
            space: what is searched.
            method: tpe, random or cmaes.
            seed: of Optuna's chance.
            population: the configurations of a round, one generation of CMA-ES.
            allowed: tells whether the sweep may train a configuration.
        """
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.space, self.allowed = space, allowed
        self.count = math.prod(axis.count for axis in space.values())
        self.distributions = {name: searched(axis) for name, axis in space.items()}
        self.study = optuna.create_study(sampler=sampler(method, seed, population))
        self.numbers: dict[Key, list[int]] = {}  # configuration -> its trials
        self.losses: dict[Key, float] = {}

    def propose(self, count: int) -> list[dict[str, Any]]:
        """Propose `count` new configurations, or fewer if the space seems to have no more.

        One that was proposed before gets its known score, and one that is not allowed an infinite loss; neither
        counts.
        """
        found: list[dict[str, Any]] = []
        for _ in range(ASKED * count):
            if len(found) == count or len(self.numbers) == self.count:
                break
            number, one = self._ask()
            known = key(one) in self.numbers
            self.numbers.setdefault(key(one), []).append(number)
            if key(one) in self.losses:
                self.study.tell(number, self.losses[key(one)])
            elif not known and self.allowed(one):
                found.append(one)
            elif not known:
                self.tell({key(one): math.inf})
        return found

    def _ask(self) -> tuple[int, dict[str, Any]]:
        # Optuna keeps all digits of its proposals, and processors may differ in the last: replace each with a rounded
        # copy, so that a difference does not spread to later proposals.
        asked = self.study.ask(self.distributions)
        raw = self.study.tell(asked, state=TrialState.FAIL)
        params = {name: rounded(domain, raw.params[name]) for name, domain in self.space.items()}
        copy = create_trial(
            state=TrialState.RUNNING,
            params=params,
            distributions=self.distributions,
            system_attrs={name: raw.system_attrs[name] for name in raw.system_attrs if name.startswith("cma:")},
        )
        self.study.add_trial(copy)
        return asked.number + 1, {name: value(domain, params[name]) for name, domain in self.space.items()}

    def tell(self, losses: Mapping[Key, float]) -> None:
        """Learn the losses of proposed configurations: smaller is better, and infinity means that a run diverged."""
        for one, loss in losses.items():
            self.losses[one] = loss
            for number in self.numbers[one]:
                self.study.tell(number, loss)


def key(one: Configuration) -> Key:
    """Return a configuration as a key of a dict."""
    return tuple(one.items())


def sampler(method: str, seed: int, population: int) -> BaseSampler:
    """Return Optuna's sampler; a round is asked at once, so each allows for trials that are still in training."""
    if method == "random":
        return RandomSampler(seed=seed)
    if method == "cmaes":
        # The first round is random: Optuna infers the space from trials that have ended.
        return CmaEsSampler(seed=seed, popsize=max(population, 2), warn_independent_sampling=False)
    return TPESampler(seed=seed, constant_liar=True)


def sizes(trials: int, rounds: int) -> list[int]:
    """Divide trials into rounds as evenly as possible."""
    return [trials // rounds + (place < trials % rounds) for place in range(min(rounds, trials))]


def loss(records: Sequence[Record], metric: str) -> float:
    """Return a configuration's loss: its metric's mean over the seeds, or infinity if a run diverged.

    It has nine digits, as the metrics have: further digits depend on rounding.
    """
    mean, _ = summarized(record.metrics.get(metric, math.nan) for record in records)
    return as_loss(metric, float(f"{mean:.9g}"))
