"""What a sweep would do: counted, estimated, and for the params that DVC's -S would give."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import sweeps
from conftest import enter
from safetensors.numpy import load_file

from pipeline.__main__ import main
from pipeline.commands import measure
from pipeline.commands.plan import overridden
from pipeline.config.params import load
from pipeline.errors import InputError
from pipeline.execution.cost import work
from pipeline.runs import outs
from pipeline.runs.fingerprints import fingerprint
from pipeline.runs.run import Run
from pipeline.system.files import file_md5
from pipeline.table.raw import BAD_CELLS
from pipeline.training import stacks


@pytest.fixture
def inside(small: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    enter(small, monkeypatch)
    return small


def test_stored_and_known_runs_are_told_from_those_to_train(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (inside / "params.yaml").read_bytes()
    grid = ["-S", "sweep.seed=[1,2]", "-S", "train.epochs=20,30"]
    main(["plan", "--json", *grid])
    plans = json.loads(capsys.readouterr().out)
    assert [one["set"] for one in plans] == [f"sweep.seed=[1,2] train.epochs={epochs}" for epochs in (20, 30)]
    assert [(one["runs"], one["fits"]) for one in plans] == [(8, 48)] * 2
    assert [(one["stored"], one["known"], one["training"]["runs"]) for one in plans] == [(4, 4, 4), (0, 0, 8)]
    assert [one["training"]["stacks"] for one in plans] == [6, 6]  # 2 variants; of all rows, 5 and 4 apart
    assert 4 * 8 * 20 * 4 < plans[0]["training"]["bytes"] < plans[1]["training"]["bytes"]
    assert (inside / "params.yaml").read_bytes() == before
    main(["plan"])
    assert "to train  nothing" in capsys.readouterr().out


@pytest.mark.usefixtures("inside")
def test_the_further_fits_of_nested_cross_validation_count_and_known_runs_need_only_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["plan", "--json", "-S", "train.nested=true"])
    [planned] = json.loads(capsys.readouterr().out)
    assert (planned["runs"], planned["fits"], planned["known"], planned["stored"]) == (4, 4 * (6 + 10), 4, 4)
    training = planned["training"]
    assert (training["runs"], training["stacks"]) == (0, 4)
    main(["plan", "-S", "train.nested=true"])
    assert "to train  0 runs in 4 stacks: about" in capsys.readouterr().out


@pytest.mark.usefixtures("inside")
def test_ranges_samples_only_and_skip_come_through_s(capsys: pytest.CaptureFixture[str]) -> None:
    entries = "1e-6,{from: 1e-6, to: 3e-6, num: 3},{sample: 4, from: 4e-6, to: 5e-6, scale: log, seed: 7}"  # 3 and 4
    rules = ["-S", "sweep.only=[{batch_size: 2},{lr: [1e-6,2e-6]}]", "-S", "sweep.skip=[{lr: 3e-6},{batch_size: 3}]"]
    main(["plan", "--json", "-S", f"sweep.lr=[{entries}]", "-S", "sweep.batch_size=[2,2,3,full]", *rules])
    [planned] = json.loads(capsys.readouterr().out)
    assert planned["runs"] == 2 * (2 + 4 + 2)  # variants: batch size 2 of 2 from the range and 4 samples, and full of 2


@pytest.mark.usefixtures("inside")
def test_rates_at_which_gradient_descent_is_not_stable_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    held = load_file(outs.PREPARED)
    rows = [np.hstack([held["X"], np.ones((5, 1))])[train].astype(float) for train in held["train"].astype(bool)]
    stable = min(2 / float(np.linalg.eigvalsh(2 / len(x) * x.T @ x)[-1]) for x in rows)
    lrs = [float(f"{stable * share:.6g}") for share in (0.99, 1.01, 10)]
    main(["plan", "--json", "-S", "variants=[linear]", "-S", "sweep.batch_size=[full]", "-S", f"sweep.lr={lrs}"])
    [planned] = json.loads(capsys.readouterr().out)
    assert planned["beyond"] == [{"batch_size": "full", "stable": pytest.approx(stable), "lrs": lrs[1:]}]


@pytest.mark.usefixtures("inside")
def test_other_data_are_prepared_for_the_plan_alone(capsys: pytest.CaptureFixture[str]) -> None:
    before = file_md5(outs.PREPARED)
    main(["plan", "--json", "-S", "data.split.folds=3"])
    [planned] = json.loads(capsys.readouterr().out)
    assert (planned["runs"], planned["fits"], planned["known"]) == (4, 16, 0)
    assert file_md5(outs.PREPARED) == before


def test_where_all_bad_cells_are_listed_is_in_the_workspace(
    inside: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "bad.csv"
    table.write_text("quiz1,quiz2,quiz3,final\n" + "1,2,3,x\n" * 40)
    with pytest.raises(InputError, match="cannot be prepared"):
        main(["plan", "-S", f"data.source={table}"])
    listed = inside / BAD_CELLS
    assert f"all are in {listed}" in capfd.readouterr().err
    assert len(listed.read_text().splitlines()) == 41
    listed.unlink()


@pytest.mark.usefixtures("inside")
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("sweep.momentum=1", "DVC refuses this: .*momentum"),
        ("sweep.lr=[", "DVC refuses this"),
        ("sweep.lr=[-1]", r"^params\.yaml: sweep\.lr: got \[-1\.?0?\]"),
        ("other.yaml:sweep.lr=[1]", r"got a key of other\.yaml"),
    ],
)
def test_what_dvc_or_the_pipeline_refuses_is_refused(given: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        overridden([given])


@pytest.mark.usefixtures("inside")
def test_without_overrides_the_params_are_the_files() -> None:
    assert overridden([]) == [("", load())]
    assert overridden(["train.epochs=20"]) == [("train.epochs=20", load())]


def test_time_is_that_of_the_busiest_process(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"variant": "linear", "init": "zeros", "device": "cpu", "lr": 0.01, "seed": 1}
    runs = [
        Run(**values, epochs=epochs, batch_size=size, fingerprint=fingerprint({"run": [epochs, size]}))  # type: ignore[arg-type]
        for epochs, size in ((10, 1), (20, 2), (30, 4))
    ]
    prepared = sweeps.table()
    planned = [stack for run in runs for stack in stacks.group([run], prepared.train_rows, 2)]
    monkeypatch.setattr(measure, "epoch_seconds", lambda stack, _: work(stack, 2) / stack.fits[0][0].epochs)
    costs = [work(stack, 2) for stack in planned]
    assert measure.seconds(planned, prepared, 1) == pytest.approx(sum(costs))
    halves = (
        max(sum(cost for cost, own in zip(costs, places, strict=True) if own == side) for side in (0, 1))
        for places in product((0, 1), repeat=len(costs))
    )
    best = min(
        halves
    )  # See: Graham, Bounds on Multiprocessing Timing Anomalies, 1969: the longest first takes 7/6 of it
    assert best * (1 - 1e-9) <= measure.seconds(planned, prepared, 2) <= best * 7 / 6
    assert measure.seconds(planned, prepared, 100) == pytest.approx(max(costs))


@pytest.mark.parametrize(("epochs", "each"), [(50, 0.25), (2, 0.25), (1, 8.25)])  # of one epoch alone nobody knows more
def test_an_epoch_is_measured_without_what_comes_before_it(
    monkeypatch: pytest.MonkeyPatch, epochs: int, each: float
) -> None:
    now, begins = [0.0], iter([8.0, 8.0])

    def train(stack: stacks.Stack, _: object, follow: stacks.Follow) -> None:
        now[0] += next(begins)
        for epoch in range(stack.fits[0][0].epochs):
            now[0] += 0.25 + 3 * (epoch == 2)  # once, another program was at work
            follow(stack, np.zeros((1, 1), dtype=np.float32), epoch + 1)

    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(stacks, "train", train)
    run = Run("linear", 2, 0.01, 1, epochs, "zeros", "cpu", "0" * 32)
    [stack, *_] = stacks.group([run], sweeps.table().train_rows, 2)
    monkeypatch.setattr(measure, "WORTH_SECONDS", 10)
    assert measure.epoch_seconds(stack, sweeps.table()) == pytest.approx(each)


def test_the_whole_sweep_takes_as_long_as_the_machine_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run("linear", 2, 0.01, 1, 50, "zeros", "cpu", "0" * 32)
    prepared = sweeps.table()
    planned = stacks.group([run], prepared.train_rows, 2)
    took = {}
    for step in (1e-4, 3e-4):  # seconds
        monkeypatch.setattr(measure, "epoch_seconds", lambda stack, _, step=step: step * work(stack, 2) / 50)
        took[step] = [measure.rest(6, 1008, 1008 * points, planned, prepared) for points in (101, 1000)]
    assert took[3e-4] == pytest.approx([3 * seconds for seconds in took[1e-4]])
    assert 10 < took[1e-4][0] < 25  # a `dvc exp run` of 1,008 runs took 14 s, of which training is one or two
    assert took[1e-4][1] - took[1e-4][0] == pytest.approx(5, rel=0.5)  # storing 2,000 points took 10 ms more than 200


@pytest.mark.parametrize(  # as the processes of stages took it, together, when they were measured
    ("runs", "epochs", "points", "workers", "mib"),
    [
        (10, 200, 200, 1, 449),
        (2000, 200, 10, 1, 479),
        (2000, 200, 200, 1, 485),
        (2000, 2000, 200, 2, 765),
        (1000, 2000, 2000, 2, 958),
        (6000, 200, 200, 1, 705),
        (10_000, 200, 200, 1, 794),
    ],
)
def test_memory_is_about_what_stages_of_several_sizes_took(
    runs: int, epochs: int, points: int, workers: int, mib: int
) -> None:
    own = [Run("linear", "full", 1e-6, seed, epochs, "zeros", "cpu", "0" * 32) for seed in range(runs)]
    assert measure.memory([own], 6, points, workers) / 2**20 == pytest.approx(mib, rel=0.3)
