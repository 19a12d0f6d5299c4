"""`pipeline sync`: the runs that MLflow lacks."""

import json

import click

from pipeline.cli import in_repository
from pipeline.config.params import Params, load
from pipeline.errors import InputError
from pipeline.runs import outs, sweep


@click.command()
@in_repository
def sync() -> None:
    """Store the runs of the workspace that MLflow lacks.

    Use it in a fresh clone after `dvc pull`, with a new tracking server, or after a server was down while a stage ran.
    """
    from pipeline.runs.checked import check_prepared
    from pipeline.runs.records import read_evaluated
    from pipeline.tracking import sync as tracking

    params = load()
    with outs.required():
        evaluated = read_evaluated(params.variants)
        champion = outs.champion()
        current = is_current(params, {record.run.fingerprint for record in evaluated})
    check_prepared(params.data)
    if not current:
        raise InputError("the outs were made with other params, data or code; run: dvc repro")
    summary = json.loads(outs.SUMMARY.read_text(encoding="utf-8"))
    print("\n".join(tracking.sync(params, evaluated, outs.evaluation(), champion, summary)))


def is_current(params: Params, fingerprints: set[str]) -> bool:
    """Tell whether the records are those that params.yaml, the prepared data and the code would give now."""
    if params.train.nested != ("nested" in outs.summary()):
        return False
    if specified := sweep.specification(params):
        studies = (json.loads(outs.study(variant).read_text(encoding="utf-8")) for variant in params.variants)
        return all(study["sweep"] == sweep.sweep_id([], specified) for study in studies)
    return {run.fingerprint for run in sweep.plan(params)} == fingerprints
