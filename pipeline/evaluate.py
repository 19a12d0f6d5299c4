"""Stage evaluate: records -> metrics of each run, leaderboard, the champion, pictures and the report.

Reads data/prepared and data/trained; writes data/evaluated/runs.csv, leaderboard.csv, metrics.json, plots/ and
report.html.
"""

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace

from pipeline.metrics import RUN_METRICS
from pipeline.system import repository
from pipeline.system.files import replacing, write_csv, write_json
from pipeline.tracking import tracker

if __name__ == "__main__":  # first, so that both load at once; a new champion's model is registered by MLflow
    tracker.launch_ahead(*(() if repository.in_experiment() else ("pipeline.tracking.store.client",)))

import pandas as pd

from pipeline.config.params import Params, load
from pipeline.errors import leave
from pipeline.evaluation import boards, choice, leaderboard, nested, outcome, pictures, report
from pipeline.evaluation.results import Results
from pipeline.runs import outs, records, sweep
from pipeline.runs.checked import check_prepared
from pipeline.runs.records import Record
from pipeline.system.kernels import check_pins
from pipeline.system.progress import Display, count, unheard
from pipeline.table.prepared import Prepared


def main() -> None:
    """Run the stage."""
    check_pins()
    params = load()
    check_prepared(params.data)
    forget_other_variants(params.variants)
    trained = [record for variant in params.variants for record in records.read(outs.TRAINED / variant)]
    runs = [record.run for record in trained]
    with Display("evaluate") as display, tracker.Tracker(params, runs, display) as tracking:
        prepared = Prepared.load(outs.PREPARED)
        evaluated = [replace(one, metrics=outcome.metrics(one, prepared)) for one in display.evaluating(trained)]
        tracking.measure([replace(one, inner={}) for one in evaluated])
        board = leaderboard.ranked(evaluated, prepared, params.evaluate)
        write(evaluated, board, prepared, params)
        tracking.conclude(outs.evaluation(), outs.champion())
    lacking = len(runs) - tracking.count_stored()
    display.say(f"{count(len(runs), 'run')} evaluated; " + (f"{lacking:,} not stored" if lacking else "all stored"))
    if "DVC_STAGE" in os.environ and os.environ.get("PIPELINE_SUMMARY") != "no":
        sweep_id = sweep.sweep_id(runs, sweep.specification(params))
        of = f" --sweep {sweep_id}" if "DVC_EXP_NAME" in os.environ else ""  # it may run in a copy of the workspace
        with unheard(sys.stdout):
            boards.print_best(f"pipeline leaderboard{of}")
            print(f"\n{tracking.news}" if tracking.news else "")


def forget_other_variants(variants: Sequence[str]) -> None:
    """Remove from data/trained the variants that params.yaml no longer lists.

    They are no longer any stage's outs, so DVC leaves them there, but hashes them with data/trained, on which this
    stage depends: dvc.lock would differ from a fresh clone's. No other stage runs when the list gets shorter.
    """
    for folder in outs.TRAINED.iterdir():
        if folder.is_dir() and folder.name not in variants:
            shutil.rmtree(folder)


def write(
    evaluated: Sequence[Record],
    board: pd.DataFrame,
    prepared: Prepared,
    params: Params,
) -> None:
    """Write the stage's outs."""
    groups = leaderboard.by_configuration(evaluated)
    runs = [{"name": one.run.name, "fingerprint": one.run.fingerprint, **one.metrics} for one in evaluated]
    write_csv(outs.EVALUATED, runs, ["name", "fingerprint", *RUN_METRICS])
    with replacing(outs.LEADERBOARD) as temporary:
        board.to_csv(temporary, index=False, float_format="%.9g")
    champion = [one for one in groups[board.iloc[0]["configuration"]] if one.is_whole]
    final = outcome.final(champion, prepared)
    summary = leaderboard.summary(board, params.evaluate.metric, final)
    if params.train.nested:
        summary["nested"] = nested.estimate(evaluated, board, prepared, params.data.standardize, params.evaluate)
    write_json(outs.METRICS, summary)
    results = Results(evaluated, board, prepared, params, final, choice.costs(summary))
    drawn = pictures.draw(results)
    pictures.write(drawn)
    with replacing(outs.REPORT) as temporary:
        temporary.write_text(report.render(results, drawn), encoding="utf-8")


if __name__ == "__main__":
    main()
    leave()
