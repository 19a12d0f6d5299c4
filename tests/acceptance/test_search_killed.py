"""A search that is killed in the middle, again and again, ends as if undisturbed, and each run is stored once."""

import json
import shutil
import signal
from pathlib import Path

import optuna
import pytest
from conftest import HANG_SECONDS, default_store, points, run
from dvc.utils.hydra import apply_overrides
from test_recovery import DYING, EMPTY, start_training, store, stored, trained

from pipeline.search.storage import VARIABLE

__all__ = ["trained"]  # a fixture

OUTS = "data/trained/matrix"
SETTINGS = (
    "sweep.lr=[{from: 1e-7, to: 1e-4, num: 4, scale: log}]",
    "sweep.batch_size=[2,4]",
    "sweep.search.trials=12",
    "sweep.search.rounds=3",
    "train.epochs=150",
)


def written(repository: Path) -> dict[str, bytes]:
    """Take the outs away."""
    found = {path.name: path.read_bytes() for path in (repository / OUTS).iterdir()}
    shutil.rmtree(repository / OUTS)
    return found


def held(folder: Path) -> list[tuple[object, ...]]:
    """List what a store holds of each run, sorted."""
    runs = [one for one in stored(folder) if one.data.tags.get("role") == "run"]
    return sorted(
        (
            one.data.tags["fingerprint"],
            one.info.status,
            one.data.tags.get("left"),
            sorted(one.data.params.items()),
            points(default_store(folder), one),
        )
        for one in runs
    )


def studied(url: str) -> list[tuple[object, ...]]:
    [summary] = optuna.get_all_study_summaries(url)
    trials = optuna.load_study(study_name=summary.study_name, storage=url).trials
    return [(one.number, one.state, one.value, one.params, one.intermediate_values) for one in trials]


@pytest.mark.long
@pytest.mark.parametrize(("method", "deaths"), [("tpe", (375, 150)), ("halving", (85,))])
def test_a_killed_search_proposes_the_same_again_and_ends_with_the_same_bytes(
    trained: Path, tmp_path: Path, method: str, deaths: tuple[int, ...]
) -> None:
    apply_overrides(trained / "params.yaml", [*SETTINGS, f"sweep.search.method={method}"])
    alone, whole = f"sqlite:///{tmp_path}/alone.db", tmp_path / "undisturbed"
    whole.mkdir()
    shutil.copy(trained / EMPTY, whole / "mlflow.db")
    run("python", "-m", "pipeline.train", "matrix", cwd=trained, extra={**store(whole), VARIABLE: alone})
    undisturbed, trials = written(trained), studied(alone)
    killed = f"sqlite:///{tmp_path}/killed.db"
    code = f"import os\nos.environ[{VARIABLE!r}] = {killed!r}\n"
    for death in deaths:
        process = start_training(trained, tmp_path, code + DYING.format(death))
        assert process.wait(HANG_SECONDS) == -signal.SIGKILL
        known = len(json.loads((trained / OUTS / "study.json").read_text())["tried"])
        assert 0 < known < len(trials)
        assert studied(killed) == trials[:known]
    assert start_training(trained, tmp_path, code).wait(HANG_SECONDS) == 0
    assert written(trained) == undisturbed
    assert studied(killed) == trials
    runs = held(tmp_path)
    assert runs == held(whole)
    assert len({fingerprint for fingerprint, *_ in runs}) == len(runs) == len(trials)
