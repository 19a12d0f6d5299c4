"""`pipeline sync`: stores in MLflow what it lacks of the workspace's outs: runs, and the champion's model."""

import json
from collections.abc import Sequence

from pipeline.config.params import Params, load
from pipeline.errors import InputError
from pipeline.runs import outs, records, sweep
from pipeline.runs.checked import check_prepared
from pipeline.runs.records import Record
from pipeline.system import repository
from pipeline.tracking import sync as tracking


def sync() -> str:
    """Store what MLflow lacks, and register the champion if it is not; say what was done, and link to the sweep.

    Raises:
        InputError: outs are missing or are not those of params.yaml, or the store fails.
    """
    params = load()
    try:
        evaluated = records.read_evaluated(params.variants)
        champion = outs.champion()
        current = is_current(params, evaluated)
    except FileNotFoundError as error:
        raise InputError(f"{error.filename or error}: no such file here; {repository.make_or_pull()}") from error
    check_prepared(params.data)
    if not current:
        raise InputError("the outs were made with other params, data or code than those here; run: dvc repro")
    summary = json.loads(outs.SUMMARY.read_text(encoding="utf-8"))
    return "\n".join(tracking.sync(params, evaluated, outs.evaluation(), champion, summary))


def is_current(params: Params, evaluated: Sequence[Record]) -> bool:
    """Tell whether records are those that params.yaml, the prepared data and the code here make."""
    if params.train.nested != ("nested" in outs.summary()):
        return False
    if specified := sweep.specification(params):
        studies = (json.loads(outs.study(variant).read_text(encoding="utf-8")) for variant in params.variants)
        return all(study["sweep"] == sweep.sweep_id([], specified) for study in studies)
    return {run.fingerprint for run in sweep.plan(params)} == {record.run.fingerprint for record in evaluated}
