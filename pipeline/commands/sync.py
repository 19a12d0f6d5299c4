"""`pipeline sync`: stores the workspace's runs that MLflow lacks, and registers the champion's model."""

import json
from collections.abc import Sequence

from pipeline.config.params import Params, load
from pipeline.errors import InputError
from pipeline.runs import outs, records, sweep
from pipeline.runs.checked import check_prepared
from pipeline.runs.records import Record
from pipeline.tracking import sync as tracking


def sync() -> str:
    """Store what MLflow lacks, and register the champion; return what was done, and links to the sweep.

    Raises:
        InputError: outs are missing or are not those of params.yaml, or the store fails.
    """
    params = load()
    with outs.required():
        evaluated = records.read_evaluated(params.variants)
        champion = outs.champion()
        current = is_current(params, evaluated)
    check_prepared(params.data)
    if not current:
        raise InputError("the outs were made with other params, data or code; run: dvc repro")
    summary = json.loads(outs.SUMMARY.read_text(encoding="utf-8"))
    return "\n".join(tracking.sync(params, evaluated, outs.evaluation(), champion, summary))


def is_current(params: Params, evaluated: Sequence[Record]) -> bool:
    """Tell whether the records are those that params.yaml, the prepared data and the code would give now."""
    if params.train.nested != ("nested" in outs.summary()):
        return False
    if specified := sweep.specification(params):
        studies = (json.loads(outs.study(variant).read_text(encoding="utf-8")) for variant in params.variants)
        return all(study["sweep"] == sweep.sweep_id([], specified) for study in studies)
    return {run.fingerprint for run in sweep.plan(params)} == {record.run.fingerprint for record in evaluated}
