"""`pipeline promote`: the version of a registered model that is served."""

from pipeline.config.params import load
from pipeline.errors import InputError
from pipeline.runs import outs, records
from pipeline.tracking import models


def promote(run: str) -> str:
    """Make a run's model the champion; without a run, that of the workspace's sweep. Return what was done.

    Raises:
        InputError: the run cannot predict, there are no outs, or the store fails.
    """
    params = load()
    if run:
        return models.promote(params, run)
    with outs.required():
        evaluated, champion = records.read_evaluated(params.variants), outs.champion()
    if not champion:
        raise InputError(f"{outs.METRICS}: there is no champion, as every run diverged")
    done = models.update(params, evaluated, champion, insist=True)
    return done or "the sweep's champion is the version that is served already"
