"""A run's record comes back from the disk as it was, to the bit."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.config.axes import BatchSize
from pipeline.errors import InputError
from pipeline.runs import outs, records
from pipeline.runs.records import Record
from pipeline.runs.run import Run

SPECIAL = np.array([0.1, -0.0, 1e-45, 3.4028235e38, np.nan, np.inf], dtype=np.float32)
OUTS = ["curves.safetensors", "paths.safetensors", "runs.csv", "weights.safetensors"]


def record(seed: int, batch_size: BatchSize = 2, lr: float = 1e-5, diverged: str = "", splits: int = 3) -> Record:
    random = np.random.default_rng(seed)

    def values(*shape: int) -> NDArray[np.float32]:
        return random.normal(size=shape).astype(np.float32)

    tensors = {"W": values(splits, 4, 1), "b": values(splits, 1), "grad_W": values(4, 1), "grad_b": values(1)}
    tensors |= {"mean": values(splits, 4), "scale": values(splits, 4)}
    run = Run("matrix", batch_size, lr, seed, 6, "zeros", "cpu", f"{seed:032x}")
    return Record(run, diverged, np.roll(SPECIAL, seed), tensors, path=values(6, 5) if seed == 3 else None)


RECORDS = [
    record(3),
    record(1, "full", 0.1 + 0.2, "all training rows, epoch 7; fold 2, epoch 11"),
    record(2, 64, 1.2345678901234567e-300),
]


def test_records_come_back_in_order_with_exact_bits_and_types(tmp_path: Path) -> None:
    records.write(tmp_path / "matrix", RECORDS)
    for before, after in zip(RECORDS, records.read(tmp_path / "matrix"), strict=True):
        assert after.run == before.run
        for key, value in asdict(before.run).items():
            assert type(getattr(after.run, key)) is type(value), key
        assert after.diverged == before.diverged
        assert after.metrics == {}
        assert after.tensors.keys() == before.tensors.keys()
        arrays = [(before.tensors[name], after.tensors[name]) for name in before.tensors]
        assert (before.path is None) == (after.path is None)
        paths = [] if before.path is None or after.path is None else [(before.path, after.path)]
        for one, other in [*arrays, *paths, (before.curve, after.curve)]:
            assert (other.dtype, other.shape, other.tobytes()) == (one.dtype, one.shape, one.tobytes())


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    records.write(tmp_path / "one", RECORDS)
    records.write(tmp_path / "two", RECORDS)
    for name in OUTS:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_one_bit_of_a_weight_changes_the_bytes(tmp_path: Path) -> None:
    changed = record(3)
    changed.tensors["W"].view(np.uint32)[0, 0, 0] ^= 1
    records.write(tmp_path / "one", [record(3)])
    records.write(tmp_path / "two", [changed])
    same = [(tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in OUTS]
    assert same == [True, True, True, False]


def test_writing_again_replaces_what_was_there(tmp_path: Path) -> None:
    records.write(tmp_path, RECORDS)
    records.write(tmp_path, RECORDS[:1])
    assert [one.run for one in records.read(tmp_path)] == [RECORDS[0].run]
    assert sorted(path.name for path in tmp_path.iterdir()) == OUTS


def test_missing_outs_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as missing:
        records.read(tmp_path / "matrix")
    assert missing.value.filename == str(tmp_path / "matrix/runs.csv")


def test_outs_of_earlier_versions_have_no_paths(tmp_path: Path) -> None:
    records.write(tmp_path, RECORDS)
    (tmp_path / "paths.safetensors").unlink()
    assert [one.path for one in records.read(tmp_path)] == [None, None, None]
    assert [one.run for one in records.read(tmp_path)] == [one.run for one in RECORDS]


@pytest.mark.parametrize("splits", [1, 6])
def test_any_number_of_splits_will_do(tmp_path: Path, splits: int) -> None:
    records.write(tmp_path, [record(5, splits=splits)])
    (back,) = records.read(tmp_path)
    np.testing.assert_array_equal(back.tensors["W"], record(5, splits=splits).tensors["W"])


@pytest.mark.parametrize("damaged", [b"f,1.5?2\n", b"\xff,1\n"])
def test_damaged_outs_are_refused_in_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    outs.EVALUATED.parent.mkdir(parents=True)
    outs.EVALUATED.write_bytes(b"fingerprint,cv/mse\n" + damaged)
    with pytest.raises(InputError, match="damaged"):
        records.read_evaluated(["matrix"])
