"""Which runs top, runs and leaderboard list, and in which form."""

import csv
import json
import shutil
import statistics
from pathlib import Path

import pytest
from conftest import copy_store, default_store, enter, run, search
from mlflow import MlflowClient

from pipeline.__main__ import main
from pipeline.config.params import load
from pipeline.errors import InputError
from pipeline.runs import outs, records
from pipeline.system.files import read_csv

Rows = list[dict[str, str | float | int | None]]


@pytest.fixture
def inside(small: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    enter(small, monkeypatch)
    return small


def listed(capsys: pytest.CaptureFixture[str], *command: str) -> Rows:
    """Run a command with --json."""
    main([*command, "--json"])
    rows: Rows = json.loads(capsys.readouterr().out)
    return rows


def own_fingerprints() -> set[str]:
    return {one.run.fingerprint for one in records.read_evaluated(load().variants)}


def test_by_default_only_the_workspaces_runs_are_ranked_and_with_all_every_stored_one(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    every = {one.data.tags["fingerprint"] for one in search(default_store(inside))}
    assert len(every) == 6
    for command in ("top", "runs"):
        assert {row["fingerprint"] for row in listed(capsys, command)} == own_fingerprints()
        assert {row["fingerprint"] for row in listed(capsys, command, "--all")} == every


@pytest.mark.usefixtures("inside")
def test_a_sweep_is_listed_with_all_of_its_runs(capsys: pytest.CaptureFixture[str]) -> None:
    sweeps = {str(row["sweep"]) for row in listed(capsys, "top", "--all")}
    assert len(sweeps) == 2
    sizes = {len(listed(capsys, "top", "--sweep", sweep)) for sweep in sweeps}
    assert sizes == {2, 4}
    with pytest.raises(InputError, match=r"leaderboard --all"):
        main(["top", "--sweep", "0" * 12])


@pytest.mark.usefixtures("inside")
def test_conditions_and_data_narrow_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    rows = listed(capsys, "top", "--all", "--where", "variant = linear", "--where", "lr < 1e-5")
    assert sorted(str(row["lr"]) for row in rows) == ["1e-06", "2e-06"]
    assert {row["run"] for row in listed(capsys, "runs", "--where", "batch_size = 2")} == {
        "matrix bs=2 lr=1e-05 epochs=20 seed=1",
        "linear bs=2 lr=1e-05 epochs=20 seed=1",
    }
    label = str(listed(capsys, "top", "-n", "1")[0]["data"])
    assert label.startswith("scores ")
    assert len(listed(capsys, "top", "--data", label)) == len(listed(capsys, "top", "--data", "scores")) == 6
    assert listed(capsys, "top", "--data", "line") == []
    for command in ("top", "runs", "leaderboard"):
        with pytest.raises(InputError, match=r"misspelt.*cv/mse|misspelt.*variant"):
            main([command, "--where", "misspelt = 1"])


@pytest.mark.usefixtures("inside")
def test_leaderboard_prints_what_the_file_holds_in_each_form(capsys: pytest.CaptureFixture[str]) -> None:
    held = read_csv(outs.LEADERBOARD)
    main(["leaderboard", "--csv"])
    read = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [row["configuration"] for row in read] == [row["configuration"] for row in held]
    assert [float(row["cv/mse mean"]) for row in read] == [float(row["cv/mse mean"]) for row in held]
    [best] = listed(capsys, "leaderboard", "-n", "1")
    assert (best["configuration"], best["cv/mse mean"]) == (held[0]["configuration"], float(held[0]["cv/mse mean"]))
    linear = listed(capsys, "leaderboard", "--where", "variant = linear", "--where", "cv/mse mean > 0")
    assert {row["variant"] for row in linear} == {"linear"}


def test_the_leaderboards_of_all_sweeps_are_ranked_together_and_altered_ones_come_last(
    inside: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = listed(capsys, "leaderboard", "--all")
    assert len(rows) == 6
    assert [row["cv/mse mean"] for row in rows] == sorted(float(row["cv/mse mean"] or 0) for row in rows)
    assert {row["seal"] for row in rows} == {"sealed"}
    mine = [row for row in rows if row["sweep"] == rows[0]["sweep"]]
    assert [row["configuration"] for row in listed(capsys, "leaderboard", "--sweep", str(rows[0]["sweep"]))] == [
        row["configuration"] for row in mine
    ]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri := copy_store(inside, tmp_path / "mlflow.db"))
    [parent] = [one for one in search(uri, "tags.role = 'sweep'") if one.data.tags["sweep"] == rows[0]["sweep"]]
    MlflowClient(uri).set_tag(parent.info.run_id, "mlflow.pipeline.seal_files", "0" * 64)
    altered = listed(capsys, "leaderboard", "--all")
    assert [row["seal"] for row in altered] == ["sealed"] * (6 - len(mine)) + ["altered"] * len(mine)


@pytest.mark.usefixtures("inside")
def test_top_ends_with_a_link_to_the_best_run_apart_from_its_table(capsys: pytest.CaptureFixture[str]) -> None:
    main(["top", "-n", "2"])
    out, err = capsys.readouterr()
    best = out.splitlines()[1].split()[-1]
    assert f"/runs/{best}?" in err
    assert len(out.splitlines()) == 3


def test_without_outs_a_command_says_how_to_get_them_and_what_else_there_is(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("git", "clone", "--quiet", str(small), str(tmp_path / "fresh"), cwd=tmp_path)
    enter(tmp_path / "fresh", monkeypatch)
    for command in ("top", "leaderboard"):
        with pytest.raises(InputError, match=r"dvc repro.*--all"):
            main([command])
    with pytest.raises(InputError, match=r"no champion.*dvc repro"):
        main(["show"])
    with pytest.raises(InputError, match=r"the workspace.*run: dvc repro$"):
        main(["runs"])
    with pytest.raises(InputError, match=r"nonsense.*dvc exp list"):
        main(["runs", "nonsense"])


def test_commands_work_from_any_folder_of_the_repository(small: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(small / "pipeline", tmp_path / "elsewhere")
    assert (
        run("pipeline", "leaderboard", cwd=small / "data/raw").stdout
        == run("pipeline", "leaderboard", cwd=small).stdout
    )
    assert "no repository is here" in run("pipeline", "leaderboard", cwd=folder, check=False).stderr


@pytest.mark.usefixtures("inside")
def test_top_fits_a_narrow_terminal_and_starts_with_the_champions_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    main(["top", "-n", "1"])
    out, err = capsys.readouterr()
    assert "not shown, for lack of width: seal, excess_mse, cv/mae, train/mse, cv/r2" in err
    assert out.splitlines()[1].startswith(outs.champion())  # matrix, of which linear is the equal


@pytest.mark.usefixtures("inside")
def test_top_says_why_it_lists_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    main(["top", "--data", "nonsense"])
    out, err = capsys.readouterr()
    assert out == "no runs\n"
    assert "pipeline runs" in err


@pytest.mark.usefixtures("inside")
def test_top_ranks_groups_of_runs_by_axes_and_tags(capsys: pytest.CaptureFixture[str]) -> None:
    runs = listed(capsys, "top", "--all", "-n", "100")
    for keys in ("batch_size,lr", "sweep"):
        rows = listed(capsys, "top", "--all", "--group", keys)
        means = [float(row["cv/mse mean"] or 0) for row in rows]
        assert means == sorted(means)
        assert sum(int(row["runs"] or 0) for row in rows) == len(runs)
        for row in rows:
            own = [run for run in runs if all(run[key] == row[key] for key in keys.split(","))]
            values = [float(run["cv/mse"] or 0) for run in own]
            assert (row["runs"], row["diverged"], row["best run"]) == (len(own), 0, own[0]["run"])
            assert row["cv/mse mean"] == pytest.approx(statistics.mean(values))
            assert row["cv/mse best"] == min(values)
            spread = statistics.stdev(values) if len(values) > 1 else None
            assert row["cv/mse std"] == (spread if spread is None else pytest.approx(spread))
    [best] = listed(capsys, "top", "--all", "--group", "lr", "--by", "cv/r2", "-n", "1")
    assert best["cv/r2 best"] == max(float(run["cv/r2"] or 0) for run in runs)
    with pytest.raises(InputError, match=r"--group misspelt.*variant"):
        main(["top", "--group", "lr,misspelt"])
