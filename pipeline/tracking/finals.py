"""How many champions were measured on the final rows of a table: the more, the less these rows are unseen.

It is history, so it stands in MLflow, and in no out. Does not import MLflow.
"""

from collections.abc import Mapping

from pipeline.tracking.pages.figures import FINAL_MSE
from pipeline.tracking.runs import StoredRun
from pipeline.tracking.store import Store

SAME = ("data.target", "data.split.seed", "data.split.final_test")  # with the same table, these draw the same rows


def measured(store: Store, parent: StoredRun, champion: str, final: Mapping[str, float]) -> int:
    """Count the champions that were measured on the final rows of a sweep, with its own.

    One that several sweeps found counts once, as it was measured to the same figure: nothing was learnt again.

    Args:
        store: with all sweeps.
        parent: the sweep's run.
        champion: its configuration.
        final: what that reaches, by final/mse and so on.
    """
    key, own = FINAL_MSE.removeprefix("champion/"), parent.tags["source_md5"]
    known = {(champion, final[key])}
    here = next((run for run in store.sweeps(parent.tags["sweep"]) if run.run_id == parent.run_id), parent)
    for other in store.all_sweeps():
        same = other.tags.get("source_md5") == own and all(other.params.get(k) == here.params.get(k) for k in SAME)
        if same and FINAL_MSE in other.metrics:
            known.add((other.tags.get("champion", ""), other.metrics[FINAL_MSE]))
    return len(known)
