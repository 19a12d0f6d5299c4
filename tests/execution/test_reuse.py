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

from pipeline import train
from pipeline.errors import InputError
from pipeline.execution import reuse
from pipeline.execution.engine import Here
from pipeline.execution.listener import Listeners
from pipeline.execution.trainer import Trainer, plan
from pipeline.runs import outs, records
from pipeline.runs.fingerprints import fingerprint
from pipeline.runs.run import Run
from pipeline.system import machine
from pipeline.system.files import write_json
from pipeline.training.stacks import Stack

STAGE = {"DVC_STAGE": "train@matrix"}
FOLDER = outs.TRAINED / "matrix"
TABLE = sweeps.table()
EVERY = TABLE.with_pairs(standardize=False)


def runs_with(lrs: Sequence[float], seeds: Sequence[int]) -> list[Run]:
    values = {"variant": "matrix", "epochs": 9, "init": "default", "device": "cpu"}
    grid = [{"batch_size": size, "lr": lr, "seed": seed} for size in (2, "full") for lr in lrs for seed in seeds]
    return [Run(**values, **one, fingerprint=fingerprint(values | one)) for one in grid]  # type: ignore[arg-type]


def trained(
    runs: Sequence[Run], found: dict[str, records.Record] | None = None, further: bool = False
) -> dict[str, bytes]:
    """Write the outs of runs, of which those found are not trained, if wanted with further fits; return the files."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    made = Trainer(TABLE, Here(TABLE)).train(runs, found)
    train.write(FOLDER, Trainer(EVERY, Here(EVERY)).nest(made, 4) if further else made)
    return {path.name: path.read_bytes() for path in FOLDER.iterdir()}


@pytest.fixture
def kept(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A repository whose cache holds the outs of 4 runs, if asked with further fits; their md5, as DVC gives it."""
    monkeypatch.chdir(tmp_path)
    with redirect_stdout(io.StringIO()), Repo.init(no_scm=True) as repo:
        trained(runs_with([0.01], [1, 2]), further=getattr(request, "param", False))
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
    assert [path.stem for path in reuse.MADE.iterdir()] == [kept]


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
    found = reuse.recall(runs, STAGE)
    assert len(found) == count
    assert trained(runs, found) == trained(runs)


class Started(Listeners):
    """Counts the fits that train, by whether they are a run's own."""

    def __init__(self) -> None:
        super().__init__()
        self.fits = {True: 0, False: 0}

    def start(self, stack: Stack) -> None:
        for _, split in stack.fits:
            self.fits[split < len(TABLE.train)] += 1


@pytest.mark.parametrize("kept", [False, True], ids=["without", "with"], indirect=True)
@pytest.mark.parametrize("wanted", [False, True], ids=["unwanted", "wanted"])
def test_only_what_is_missing_of_nested_cross_validation_trains(kept: str, wanted: bool) -> None:
    has = (reuse.cache(Path.cwd()) / kept[:2] / f"{kept[2:]}.dir").read_text().count(records.NESTED_FILE)
    runs, seen = runs_with([0.01, 0.05], [1, 2]), Started()
    found = reuse.recall(runs, STAGE, nested=wanted)
    assert len(found) == 4
    every = EVERY if wanted else TABLE
    for stack in plan(runs, found, TABLE, every):
        seen.start(stack)
    further = (24 - 12 * has) * wanted  # 8 runs, of which 4 are known, and 3 pairs of folds
    assert seen.fits == {True: 4 * 4, False: further}
    assert trained(runs, found, wanted) == trained(runs, further=wanted)
    assert (FOLDER / records.NESTED_FILE).exists() == wanted


@pytest.mark.parametrize("order", [[False, True], [True, False]])
def test_of_several_earlier_outs_those_with_further_fits_are_taken(
    order: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = runs_with([0.01], [1, 2])
    made = Trainer(TABLE, Here(TABLE)).train(runs)
    whole = Trainer(EVERY, Here(EVERY)).nest(made, 4)
    monkeypatch.setattr(reuse, "earlier", lambda *_: map(str, order))
    monkeypatch.setattr(reuse, "_read", lambda md5, _: whole if md5 == "True" else made)
    found = reuse.recall(runs, STAGE, nested=True)
    assert all(found[one.fingerprint].inner for one in runs)


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
    assert reuse.recall(runs_with([0.01], [1, 2]), STAGE) == {}
    assert (path.exists(), f"{path}: was damaged" in capsys.readouterr().err) == (False, True)


@pytest.mark.parametrize("changed", [{"kernels": "default"}, {"torch": "2.12.0"}, {"architecture": "aarch64"}, None])
def test_outs_of_another_machine_and_of_an_unknown_one_are_not_mixed_in(
    kept: str, changed: dict[str, str] | None
) -> None:
    written = reuse.MADE / f"{kept}.json"
    if changed is None:
        written.unlink()
        Path("dvc.lock").write_text(
            f"stages: {{train@matrix: {{outs: [{{path: {FOLDER}, md5: {kept}.dir}}]}}}}\n", encoding="utf-8"
        )
        assert list(reuse.locked("matrix")) == [kept]
    else:
        write_json(written, json.loads(written.read_text()) | changed)
    assert reuse.recall(runs_with([0.01], [1, 2]), STAGE) == {}


@pytest.mark.usefixtures("kept")
def test_a_gpus_runs_and_native_kernels_always_train(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = runs_with([0.01], [1, 2])
    assert reuse.recall([replace(run, device="cuda") for run in runs], STAGE) == {}
    monkeypatch.setattr(machine, "KERNELS", "native")
    assert reuse.recall(runs, STAGE) == {}


@pytest.mark.usefixtures("kept")
def test_a_person_can_ask_for_training() -> None:
    runs = runs_with([0.01], [1, 2])
    assert reuse.recall(runs, {}) == {}
    assert reuse.recall(runs, STAGE | {"PIPELINE_RETRAIN": "1"}) == {}
    with pytest.raises(InputError, match="PIPELINE_RETRAIN: got 'yes', takes 1"):
        reuse.recall(runs, STAGE | {"PIPELINE_RETRAIN": "yes"})


def test_the_cache_may_lie_elsewhere(kept: str, tmp_path: Path) -> None:
    shutil.move(".dvc/cache", tmp_path / "elsewhere")
    Path(".dvc/config.local").write_text("[cache]\n    dir = ../elsewhere\n")
    reuse.cache.cache_clear()
    assert (reuse.cache(tmp_path) / kept[:2]).is_dir()
    assert len(reuse.recall(runs_with([0.01], [1, 2]), STAGE)) == 4
