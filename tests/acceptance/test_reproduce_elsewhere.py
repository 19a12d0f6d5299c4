"""A run made on a machine that rounds otherwise is the same within rounding, and stays that machine's own.

PIPELINE_KERNELS=default stands in for such a machine, an emulated Nehalem for one without AVX2.
"""

import os
import platform
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from conftest import copy_store, default_store, enter, points, run, search
from mlflow import MlflowClient
from mlflow.entities import Run as StoredRun
from safetensors.numpy import load, save

from pipeline.__main__ import main
from pipeline.commands import reproduce, verdict
from pipeline.config import params
from pipeline.evaluation import outcome
from pipeline.metrics import Outcome
from pipeline.runs import outs, records, rounding
from pipeline.runs.records import Record
from pipeline.runs.run import Run
from pipeline.system import kernels, machine
from pipeline.system.files import md5_of
from pipeline.table.prepared import Prepared
from pipeline.tracking import queries, sync
from pipeline.tracking.session import Session
from pipeline.tracking.validation import StoredRecord

TRAIN = """
import sys
import pipeline
from pathlib import Path
from pipeline.table.prepared import Prepared
from pipeline.config import params
from pipeline.execution.engine import Here
from pipeline.execution.trainer import Trainer
from pipeline.runs import outs, records, sweep
runs = [run for run in sweep.plan(params.load()) if run.variant == "matrix"]
prepared = Prepared.load(outs.PREPARED)
records.write(Path(sys.argv[1]), Trainer(prepared, Here(prepared)).train(runs))
"""
AVX2 = {"architecture": "x86_64", "kernels": "avx2", "torch": "2.13.0"}
WITHOUT = {**AVX2, "kernels": "default"}
EMULATOR = "qemu-x86_64"
on_avx2 = pytest.mark.skipif(kernels.KERNELS != "avx2", reason="this machine's own path is that without AVX2")


def train_again(repository: Path, folder: Path, emulator: Sequence[str] = (), **extra: str) -> list[Record]:
    """Train the variant matrix of a repository's sweep on other kernels, and evaluate here."""
    program, packages = os.path.realpath(sys.executable), os.pathsep.join([str(repository), *sys.path])
    environment = {"PYTHONPATH": packages, **extra}
    run(*emulator, program, "-c", TRAIN, str(folder), cwd=repository, extra=environment)
    prepared = Prepared.load(repository / outs.PREPARED)
    return [replace(one, metrics=outcome.metrics(one, prepared)) for one in records.read(folder)]


@pytest.fixture(scope="module")
def others(small: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """The runs of the variant matrix, as a machine without AVX2 makes them."""
    return train_again(small, tmp_path_factory.mktemp("others"), PIPELINE_KERNELS="default")


@pytest.fixture
def own(small: Path, monkeypatch: pytest.MonkeyPatch) -> list[Record]:
    """The same runs as this machine made them, in their repository."""
    enter(small, monkeypatch)
    return records.read_evaluated(["matrix"])


def on_machine(monkeypatch: pytest.MonkeyPatch, tags: dict[str, str]) -> None:
    monkeypatch.setattr(machine, "numeric_tags", lambda: tags)


def direct(record: Record) -> Session:
    return Session(params.load(), [record.run], os.getpid())


def bits(record: Record) -> str:
    return md5_of(save(dict(record.tensors)))


def altered(record: Record) -> Record:
    """Alter a weight by a thousandth."""
    weights = record.tensors["W"].copy()
    weights[0, 0] *= np.float32(1.001)
    return replace(record, tensors={**record.tensors, "W": weights})


@on_avx2
def test_other_kernels_make_other_bits_which_agree_within_rounding(own: list[Record], others: list[Record]) -> None:
    prepared = Prepared.load(outs.PREPARED)
    table = rounding.table(vars(prepared))

    def reached(record: Record) -> Outcome:
        return outcome.of(record, prepared)

    assert [one.run for one in own] == [one.run for one in others]
    assert [bits(one) for one in own] != [bits(one) for one in others]
    for one, other in zip(own, others, strict=True):
        curve = dict(enumerate(other.curve.tolist()))
        found = rounding.compare(one, table, False, other.tensors, curve, other.metrics, reached)
        assert found.beyond == []
        assert 0 < found.largest < 1e-5


@pytest.mark.skipif(
    platform.machine() != "x86_64" or not shutil.which(EMULATOR), reason="qemu-user emulates the processor"
)
def test_a_processor_without_avx2_takes_the_path_that_stands_in_for_it(
    small: Path, others: list[Record], tmp_path: Path
) -> None:
    emulated = train_again(small, tmp_path / "matrix", [EMULATOR, "-cpu", "Nehalem"])
    assert [bits(one) for one in emulated] == [bits(one) for one in others]


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"


@pytest.fixture
def pair(own: list[Record], others: list[Record], uri: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Record, Record]:
    """A run that the store `uri` has never seen, as this machine and another made it."""
    fingerprint = uuid4().hex
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    here, there = [replace(one[1], run=replace(one[1].run, fingerprint=fingerprint)) for one in (own, others)]
    return here, there


def of(uri: str, record: Record) -> list[StoredRun]:
    return search(uri, f"tags.fingerprint = '{record.run.fingerprint}'")


def confirmations(runs: Sequence[StoredRun]) -> list[dict[str, str]]:
    """List the runs' own tags, but for times."""
    names = ("confirmed", "confirmed_within_rounding", "contradicts", "kernels")
    return [{key: one.data.tags[key] for key in names if key in one.data.tags} for one in runs]


@on_avx2
def test_a_repeat_elsewhere_is_counted_apart_and_leaves_the_record_that_of_its_machine(
    uri: str, pair: tuple[Record, Record], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    here, there = pair
    said: list[str] = []
    for tags, record in ((AVX2, here), (WITHOUT, there), (AVX2, here), (WITHOUT, there)):
        on_machine(monkeypatch, tags)
        stage = direct(record)
        stage.finish([record])
        stage.measure([record])
        stage.conclude([], "")
        said += stage.news
    assert confirmations(of(uri, here)) == [{"confirmed": "1", "confirmed_within_rounding": "2", "kernels": "avx2"}]
    [stored] = of(uri, here)
    assert stored.data.metrics == here.metrics
    assert here.metrics != there.metrics
    assert [value for _, value in points(uri, stored)] == here.curve.tolist()
    assert "WARNING" not in capfd.readouterr().err
    assert [line.startswith("1 of 1 runs were stored by another machine") for line in said] == [True, True]


@on_avx2
@pytest.mark.parametrize(
    ("first", "second", "change"), [(AVX2, WITHOUT, altered), (AVX2, AVX2, lambda one: one)], ids=["far", "same kind"]
)
def test_what_rounding_does_not_explain_contradicts(
    uri: str,
    pair: tuple[Record, Record],
    monkeypatch: pytest.MonkeyPatch,
    first: dict[str, str],
    second: dict[str, str],
    change: Callable[[Record], Record],
) -> None:
    here, there = pair
    on_machine(monkeypatch, first)
    direct(here).finish([here])
    on_machine(monkeypatch, second)
    direct(here).finish([change(there)])
    assert ["contradicts" in tags for tags in confirmations(of(uri, here))] == [False, True]


@on_avx2
def test_a_restored_run_is_confirmed_within_rounding_by_any_machine(
    uri: str, pair: tuple[Record, Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = pair
    direct(here).measure([here])
    direct(here).conclude([], "")
    on_machine(monkeypatch, AVX2)
    direct(there).finish([there])
    assert confirmations(of(uri, here)) == [{"confirmed_within_rounding": "1"}]


@on_avx2
def test_a_run_that_its_machine_did_not_evaluate_gets_the_figures_of_its_own_weights(
    uri: str, pair: tuple[Record, Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = pair
    on_machine(monkeypatch, AVX2)
    direct(here).finish([here])
    on_machine(monkeypatch, WITHOUT)
    direct(there).finish([there])
    direct(there).measure([there])
    direct(there).conclude([], "")
    [stored] = of(uri, here)
    assert stored.data.metrics == here.metrics


@on_avx2
def test_a_run_that_one_machine_began_and_another_made_holds_the_curve_of_the_second_alone(
    uri: str, pair: tuple[Record, Record]
) -> None:
    here, there = pair
    stage = direct(here)
    stage.start([here.run])
    stage.grow({here.run.fingerprint: dict(enumerate(here.curve[:19].tolist()))})
    stage.close("KILLED", "killed")
    [begun] = of(uri, here)
    assert points(uri, begun) == list(enumerate(here.curve[:19].tolist()))
    assert here.curve[:19].tolist() != there.curve[:19].tolist()
    direct(there).finish([there])
    left, stored = of(uri, here)
    assert (left.info.run_id, left.info.status, stored.info.status) == (begun.info.run_id, "KILLED", "FINISHED")
    assert points(uri, stored) == list(enumerate(there.curve.tolist()))


@on_avx2
def test_outs_of_another_machine_are_all_stored_where_they_agree_and_beside_the_others_where_not(
    uri: str,
    pair: tuple[Record, Record],
) -> None:
    here, there = pair
    settings = params.load()
    assert [sync.store_lacking(settings, [one], [], "c") for one in (here, here, there)] == [1, 0, 0]
    far = altered(there)
    far = replace(far, metrics=outcome.metrics(far, Prepared.load(outs.PREPARED)))
    assert [sync.store_lacking(settings, [one], [], "c") for one in (far, far, here, there)] == [1, 0, 0, 0]
    first, second = of(uri, here)
    assert second.data.tags["contradicts"] == first.info.run_id
    assert (first.data.metrics, second.data.metrics) == (here.metrics, far.metrics)


@pytest.fixture
def stored(own: list[Record], small: Path) -> StoredRecord:
    """A record, as it is read in its repository."""
    [one] = search(default_store(small), f"tags.fingerprint = '{own[0].run.fingerprint}'")
    recalled = queries.recall("regression", one.info.run_id)
    return replace(recalled, tags={**recalled.tags, **AVX2})


def answer(stored: StoredRecord, made: Record) -> verdict.Answer:
    return verdict.compare(stored, made, Prepared.load(outs.PREPARED))


@on_avx2
@pytest.mark.parametrize(
    ("there", "here", "named"),
    [
        (AVX2, WITHOUT, "made with x86-64 AVX2, here x86-64 without AVX2"),
        (AVX2, {**AVX2, "architecture": "aarch64", "kernels": "native"}, "made with x86-64 AVX2, here aarch64"),
        ({**AVX2, "kernels": "native"}, AVX2, "made with x86-64 native kernels, here x86-64 AVX2"),
        ({}, AVX2, "made with unknown, here x86-64 AVX2"),
        (
            {**AVX2, "torch": "1.0.0"},
            WITHOUT,
            "made with x86-64 AVX2 and torch 1.0.0, here x86-64 without AVX2 and torch 2.13.0",
        ),
    ],
)
def test_reproduce_names_both_machines_and_the_largest_difference(
    stored: StoredRecord,
    own: list[Record],
    others: list[Record],
    monkeypatch: pytest.MonkeyPatch,
    there: dict[str, str],
    here: dict[str, str],
    named: str,
) -> None:
    on_machine(monkeypatch, here)
    kept = {key: value for key, value in stored.tags.items() if key not in AVX2}
    moved = replace(stored, tags={**kept, **there})
    assert answer(moved, own[0]) == verdict.Answer("identical", [])
    said, differences = answer(moved, others[0]).verdict, answer(moved, others[0]).differences
    assert differences == []
    largest = said.removeprefix("same within rounding: largest difference ").removesuffix(f", {named}")
    assert 0 < float(largest) < 1e-5


@on_avx2
def test_the_same_kernels_must_make_the_same_bits(
    stored: StoredRecord, others: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_machine(monkeypatch, AVX2)
    found = answer(stored, others[0])
    assert found.verdict == "differs"
    assert any(" values differ, by at most " in one for one in found.differences)


def forged(stored: StoredRecord, **changes: Any) -> StoredRecord:  # noqa: ANN401
    """Forge a record; weights and their md5 together."""
    changed = replace(stored, **changes)
    return replace(changed, tags={**changed.tags, "weights_md5": md5_of(changed.weights)})


@on_avx2
@pytest.mark.parametrize(
    ("forge", "named"),
    [
        (lambda s, one: forged(s, weights=save(dict(altered(one).tensors))), "W, b: all training rows"),
        (lambda s, _: forged(s, weights=save({**load(s.weights), "scale": np.ones((6, 3), np.float32) * 2})), "scale"),
        (lambda s, _: replace(s, metrics={**s.metrics, "cv/mse": s.metrics["cv/mse"] * 0.999}), "cv/mse"),
        (lambda s, _: replace(s, metrics={"train/mse": s.metrics["train/mse"]}), "cv/mae: nothing on record"),
        (lambda s, _: replace(s, points={**s.points, 3: s.points[3] * 0.9}), "train/mse: step 3"),
        (lambda s, _: replace(s, points={**s.points, 40: 1.0}), "train/mse: 1 of 20 points differ"),
        (lambda s, _: replace(s, weights=b""), "its weights are missing"),
        (lambda s, _: replace(s, params={**s.params, "seed": "2"}), "seed: '2' on record"),
        (lambda s, _: replace(s, status="FAILED", tags={**s.tags, "diverged": "fold 1, epoch 2"}), "status: FAILED"),
    ],
)
def test_a_forged_record_differs_on_every_machine(
    stored: StoredRecord,
    own: list[Record],
    others: list[Record],
    monkeypatch: pytest.MonkeyPatch,
    forge: Any,  # noqa: ANN401
    named: str,
) -> None:
    on_machine(monkeypatch, WITHOUT)
    found = answer(forge(stored, own[0]), others[0])
    assert found.verdict == "differs"
    assert any(one.startswith(named) for one in found.differences)


@on_avx2
def test_beyond_the_largest_stable_lr_only_whether_it_diverged_is_compared(
    stored: StoredRecord, others: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_machine(monkeypatch, WITHOUT)
    steep = Run(**{**vars(others[0].run), "lr": 4e-5})
    moved = replace(stored, params={**stored.params, "lr": "4e-05"})
    found = answer(moved, replace(altered(others[0]), run=steep))
    assert found.differences == []
    assert found.verdict.startswith("same within rounding: only whether it diverged is compared, as lr 4e-05 is beyond")
    assert answer(moved, replace(others[0], run=steep, diverged="fold 1, epoch 2")).verdict == "differs"


def test_of_a_run_that_diverged_on_both_machines_the_epochs_may_differ(
    stored: StoredRecord, others: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = replace(stored, status="FAILED", tags={**stored.tags, "diverged": "fold 1, epoch 2"})
    again = replace(others[0], diverged="fold 1, epoch 3")
    on_machine(monkeypatch, WITHOUT)
    assert "only whether it diverged is compared, as it diverged" in answer(broken, again).verdict
    on_machine(monkeypatch, AVX2)
    assert "diverged: fold 1, epoch 2 on record, fold 1, epoch 3 now" in answer(broken, again).differences


@on_avx2
def test_the_command_makes_runs_again_on_other_kernels_and_with_another_torch_and_exits_0_or_1(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = copy_store(small, tmp_path / "mlflow.db")
    one = search(uri, "params.variant = 'matrix'")[0]
    MlflowClient(uri).set_tag(one.info.run_id, "torch", "1.0.0")
    MlflowClient(uri).delete_tag(one.info.run_id, "mlflow.pipeline.seal")  # which would find that
    asked = {"MLFLOW_TRACKING_URI": uri, "PIPELINE_KERNELS": "default"}
    said = run("pipeline", "reproduce", one.info.run_id, cwd=small, extra=asked).stdout
    assert f"{one.info.run_id}: same within rounding: largest difference " in said
    assert "made with x86-64 AVX2 and torch 1.0.0, here x86-64 without AVX2 and torch " in said
    enter(small, monkeypatch)
    wrong = verdict.Answer("differs", ["W, b: all training rows"])
    monkeypatch.setattr(reproduce, "reproduce", lambda *_: {one.info.run_id: wrong})
    with pytest.raises(SystemExit) as ended:
        main(["reproduce", one.info.run_id])
    assert ended.value.code == 1
    assert capsys.readouterr().out == f"{one.info.run_id}: differs\n  W, b: all training rows\n"
