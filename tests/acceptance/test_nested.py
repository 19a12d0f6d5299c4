"""Nested cross-validation as a person asks for it, after a sweep: only further fits train, and the sweep says it."""

import json
from pathlib import Path

import pytest
from conftest import default_store, environment, reproduce, run, search, shorten
from test_pipeline import stored


def test_an_experiment_says_what_choosing_costs_and_trains_no_known_run(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shorten(clone))
    monkeypatch.setenv("PATH", environment()["PATH"])
    reproduce()
    plain = {one.data.tags["fingerprint"]: one.data.metrics for one in stored(clone)}
    before = {name: (clone / name).read_bytes() for name in ("leaderboard.csv", "data/evaluated/runs.csv")}
    told = run("dvc", "exp", "run", "-S", "train.nested=true", cwd=clone).stdout
    assert told.count("0 runs trained, 2 known; 20 fits for train.nested") == 2
    assert {name: (clone / name).read_bytes() for name in before} == before
    summary = json.loads((clone / "metrics.json").read_text())
    nested, champion = summary["nested"], summary["champion"]
    assert nested["nested/cost"] == float(f"{nested['nested/mse'] - champion['cv/mse']:.9g}")
    assert (len(nested["chosen"]), nested["configurations"]) == (5, 4)
    said = (
        f"choosing the best of 4 configurations: cv/mse {champion['cv/mse']:.6g}, nested/mse {nested['nested/mse']:.6g}"
    )
    assert said in told
    assert said in (clone / "report.html").read_text()
    assert said in run("pipeline", "leaderboard", cwd=clone).stderr
    [parent] = search(default_store(clone), "tags.role = 'sweep'")  # the same sweep says more than before
    assert said in parent.data.tags["mlflow.note.content"]
    own = {key: value for key, value in parent.data.metrics.items() if key.startswith("nested/")}
    assert own == {key: value for key, value in nested.items() if key.startswith("nested/")}
    assert {one.data.tags["fingerprint"]: one.data.metrics for one in stored(clone)} == plain
    assert run("pipeline", "reproduce", stored(clone)[0].info.run_id, cwd=clone).stdout.endswith(": identical\n")
    assert run("pipeline", "sync", cwd=clone).stdout.startswith("4 runs, all stored")
