"""A copy of a search's study in a storage that the user names, for optuna-dashboard; it is written and never read.

PIPELINE_OPTUNA_STORAGE, such as sqlite:////home/me/studies.db, names the place; without it there is no copy.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import optuna
from optuna.exceptions import OptunaError
from optuna.trial import TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError

from pipeline.search.space import Configuration, Space, shown
from pipeline.system import addresses

VARIABLE = "PIPELINE_OPTUNA_STORAGE"
FAILURES = (OptunaError, SQLAlchemyError, ImportError, OSError, ValueError)


@dataclass(frozen=True)
class Trial:
    """A configuration and its score, infinite if a run diverged.

    round: the round in which it was tried; in halving, its last rung. rungs: in halving, epochs -> score. pruned:
    whether it stopped early; its score is then that of its last rung.
    """

    configuration: Configuration
    score: float
    round: int
    rungs: Mapping[int, float] = field(default_factory=dict)
    pruned: bool = False


def copy(url: str, name: str, higher: bool, space: Space, trials: Sequence[Trial]) -> bool:
    """Add the trials that a stored study lacks; if it cannot be stored, warn and return False.

    Args:
        url: the storage's.
        name: the study's.
        higher: whether a higher score is better.
        space: what is searched.
        trials: all so far, in the order that they have whenever the search runs again.
    """
    direction: Literal["minimize", "maximize"] = "maximize" if higher else "minimize"
    distributions = {axis: shown(values) for axis, values in space.items()}
    try:
        stored = optuna.create_study(storage=url, study_name=name, direction=direction, load_if_exists=True)
        stored.add_trials(
            create_trial(
                state=TrialState.PRUNED if trial.pruned else TrialState.COMPLETE,
                value=trial.score,
                params=dict(trial.configuration),
                distributions=distributions,
                user_attrs={"round": trial.round},
                intermediate_values=dict(trial.rungs),
            )
            for trial in trials[len(stored.get_trials(deepcopy=False)) :]
        )
    except FAILURES as error:
        reason = addresses.shown(error, url).splitlines()[0]
        print(f"WARNING: {VARIABLE}: the study could not be stored: {reason}", file=sys.stderr)
        return False
    return True
