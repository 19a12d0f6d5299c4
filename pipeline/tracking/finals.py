"""How many champions were measured on the final rows of a table: the more, the less these rows are unseen.

It is history, so it stands in MLflow, and in no out. Does not import MLflow.
"""

from collections.abc import Mapping

from pipeline.tracking.pages.figures import FINAL_MSE
from pipeline.tracking.runs import StoredRun
from pipeline.tracking.store.store import Store

SAME = ("data.target", "data.split.seed", "data.split.final_test")  # with the same table, these draw the same rows


def measured(store: Store, parent: StoredRun, final: Mapping[str, float]) -> int:
    """Count the champions that were measured on the final rows of a sweep, with its own.

    Champions with the same figure count once: nothing was learnt again. A sweep that was evaluated several times, each
    time with another champion, has a history of figures.

    Args:
        store: with all sweeps.
        parent: the sweep's run.
        final: what its champion reaches, by final/mse and so on.
    """
    own = parent.tags["source_md5"]
    here = next((run for run in store.sweeps(parent.tags["sweep"]) if run.run_id == parent.run_id), parent)
    alike = [
        other
        for other in store.all_sweeps()
        if FINAL_MSE in other.metrics
        and other.tags.get("source_md5") == own
        and all(other.params.get(key) == here.params.get(key) for key in SAME)
    ]
    known = {point.value for points in store.histories(alike, FINAL_MSE).values() for point in points}
    return len(known | {final[FINAL_MSE.removeprefix("champion/")]})
