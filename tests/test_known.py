"""What need not train again: earlier outs, as DVC's cache holds them."""

import io
import json
import shutil
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest
import sweeps
from dvc.repo import Repo

from pipeline import machine, outs, records, sweep, train
from pipeline.params import InputError
from pipeline.sweep import Run
from pipeline.training import known
from pipeline.training.engines import Unwatched
from pipeline.training.engines.here import Here

STAGE = {"DVC_STAGE": "train@matrix"}
FOLDER = outs.TRAINED / "matrix"
TABLE = sweeps.table()


def runs_with(lrs: Sequence[float], seeds: Sequence[int]) -> list[Run]:
    values = {"variant": "matrix", "epochs": 9, "init": "default", "device": "cpu"}
    grid = [{"batch_size": size, "lr": lr, "seed": seed} for size in (2, "full") for lr in lrs for seed in seeds]
    return [Run(**values, **one, fingerprint=sweep.fingerprint(values | one)) for one in grid]  # type: ignore[arg-type]


def trained(runs: Sequence[Run], found: dict[str, records.Record] | None = None) -> dict[str, bytes]:
    """Write the outs of runs, of which those found are not trained; return the files."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    train.write(FOLDER, train.complete(runs, found or {}, TABLE, Unwatched(), Here()))
    return {path.name: path.read_bytes() for path in FOLDER.iterdir()}


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A repository whose cache holds the outs of 4 runs; their md5, as DVC gives it."""
    monkeypatch.chdir(tmp_path)
    with redirect_stdout(io.StringIO()), Repo.init(no_scm=True) as repo:
        trained(runs_with([0.01], [1, 2]))
        [stage] = repo.add(str(FOLDER))
        md5: str = stage.outs[0].hash_info.value.removesuffix(".dir")
    shutil.rmtree(outs.TRAINED)  # as DVC does before a stage
    return md5


def cached(md5: str, name: str) -> Path:
    """Locate a file of the kept outs in DVC's cache."""
    listing = json.loads(Path(f".dvc/cache/files/md5/{md5[:2]}/{md5[2:]}.dir").read_text())
    [own] = [one["md5"] for one in listing if one["relpath"] == name]
    return Path(f".dvc/cache/files/md5/{own[:2]}/{own[2:]}")


def test_outs_are_noted_by_the_md5_that_dvc_gives_them(kept: str) -> None:
    assert [path.stem for path in known.MADE.iterdir()] == [kept]


@pytest.mark.parametrize(
    ("lrs", "seeds", "count"),
    [([0.01, 0.05], [1, 2], 4), ([0.05, 0.01], [1, 3, 2], 4), ([0.01, 0.05], [2, 1], 2), ([0.01], [3, 1], 2)],
    ids=["a rate more", "a seed more", "another first seed, whose path is lacking", "a new first seed"],
)
@pytest.mark.usefixtures("kept")
def test_a_wider_sweep_trains_what_is_missing_and_writes_the_same_bytes(
    lrs: list[float], seeds: list[int], count: int
) -> None:
    runs = runs_with(lrs, seeds)
    found = known.recall(runs, STAGE)
    assert len(found) == count
    assert trained(runs, found) == trained(runs)


@pytest.mark.parametrize("name", ["curves.safetensors", "weights.safetensors", "paths.safetensors", "runs.csv"])
def test_a_flipped_byte_in_the_cache_is_found_and_removed(
    kept: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = cached(kept, name)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(0o444)
    assert known.recall(runs_with([0.01], [1, 2]), STAGE) == {}
    assert (path.exists(), f"{path}: was damaged" in capsys.readouterr().err) == (False, True)


@pytest.mark.parametrize("changed", [{"kernels": "default"}, {"torch": "2.12.0"}, {"architecture": "aarch64"}, None])
def test_outs_of_another_machine_and_of_an_unknown_one_are_not_mixed_in(
    kept: str, changed: dict[str, str] | None
) -> None:
    written = known.MADE / f"{kept}.json"
    if changed is None:
        written.unlink()
        Path("dvc.lock").write_text(
            f"stages: {{train@matrix: {{outs: [{{path: {FOLDER}, md5: {kept}.dir}}]}}}}\n", encoding="utf-8"
        )
        assert list(known.locked("matrix")) == [kept]
    else:
        outs.write_json(written, json.loads(written.read_text()) | changed)
    assert known.recall(runs_with([0.01], [1, 2]), STAGE) == {}


@pytest.mark.usefixtures("kept")
def test_a_gpus_runs_and_native_kernels_always_train(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = runs_with([0.01], [1, 2])
    assert known.recall([replace(run, device="cuda") for run in runs], STAGE) == {}
    monkeypatch.setattr(machine, "KERNELS", "native")
    assert known.recall(runs, STAGE) == {}


@pytest.mark.usefixtures("kept")
def test_a_person_can_ask_for_training() -> None:
    runs = runs_with([0.01], [1, 2])
    assert known.recall(runs, {}) == {}
    assert known.recall(runs, STAGE | {"PIPELINE_RETRAIN": "1"}) == {}
    with pytest.raises(InputError, match="PIPELINE_RETRAIN: got 'yes', takes 1"):
        known.recall(runs, STAGE | {"PIPELINE_RETRAIN": "yes"})


def test_the_cache_may_lie_elsewhere(kept: str, tmp_path: Path) -> None:
    shutil.move(".dvc/cache", tmp_path / "elsewhere")
    Path(".dvc/config.local").write_text("[cache]\n    dir = ../elsewhere\n")
    known.cache.cache_clear()
    assert (known.cache(tmp_path) / kept[:2]).is_dir()
    assert len(known.recall(runs_with([0.01], [1, 2]), STAGE)) == 4
