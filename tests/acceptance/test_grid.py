"""DVC's own commands for experiments: a queued grid on two workers, and what people do with it."""

import csv
import io
import json
from pathlib import Path

import pytest
from conftest import copy_checkout, run, shorten, until
from test_pipeline import stored, tree

# A range and a sample of learning rates; of each two at batch size 2, and the range's first at all, but not its second.
RANGE, SAMPLE = "{from: 1e-6, to: 2e-6, num: 2}", "{sample: 2, from: 3e-6, to: 4e-6, scale: log, seed: 0}"
ENTRIES = (
    *("-S", f"sweep.lr=[{RANGE}],[{SAMPLE}]", "-S", "variants=[linear]"),
    *("-S", "sweep.only=[{batch_size: 2},{lr: 1e-6}]", "-S", "sweep.skip=[{lr: 2e-6, batch_size: [2, full]}]"),
)


def wait_for_queue(folder: Path) -> str:
    """Wait until no experiment of the queue waits or runs; return its status."""

    def ended() -> str:
        said = run("dvc", "queue", "status", cwd=folder).stdout
        return "" if any(state in said for state in ("Queued", "Running")) else said

    return until(ended)


@pytest.fixture(scope="module")
def grids(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository without a store, after two grids of two that two workers ran at once."""
    folder = shorten(copy_checkout(tmp_path_factory.mktemp("grids")))
    run("dvc", "repro", "prepare", cwd=folder)  # as docs/sweeps.md says: DVC's workers may collide in its cache
    (folder / "dvc.lock").unlink()  # which this checkout has not; the cache is what counts
    run("dvc", "exp", "run", "--queue", "--name", "long", "-S", "train.epochs=21,22", cwd=folder)
    run("dvc", "exp", "run", "--queue", *ENTRIES, cwd=folder)
    assert run("dvc", "queue", "status", cwd=folder).stdout.count("Queued") == 4
    run("dvc", "queue", "start", "-j", "2", cwd=folder)
    assert wait_for_queue(folder).count("Success") == 4
    return folder


def shown(folder: Path) -> list[dict[str, str]]:
    """Return the experiments of `dvc exp show`, oldest first."""
    rows = csv.DictReader(io.StringIO(run("dvc", "exp", "show", "--csv", cwd=folder).stdout))
    return sorted((row for row in rows if row["rev"]), key=lambda row: row["Created"])


def names(folder: Path) -> list[str]:
    return run("dvc", "exp", "list", "--name-only", cwd=folder).stdout.split()


def test_two_workers_at_once_store_every_run_once(grids: Path) -> None:
    runs = stored(grids)
    assert {one.info.status for one in runs} == {"FINISHED"}
    fingerprints = [one.data.tags["fingerprint"] for one in runs]
    assert len(fingerprints) == len(set(fingerprints)) == 4 + 4 + 2 + 2
    sweeps = stored(grids, "sweep")
    assert len({one.data.tags["sweep"] for one in sweeps}) == len(sweeps) == 4
    assert {one.info.status for one in sweeps} == {"FINISHED"}
    assert all("champion" in one.data.tags for one in sweeps)
    assert tree(grids) == ""


def test_a_grid_s_experiments_share_a_tag_that_another_grid_has_not(grids: Path) -> None:
    baseline = run("git", "rev-parse", "--short=7", "HEAD", cwd=grids).stdout.strip()
    tags = {one.data.tags["dvc_experiment"]: one.data.tags["dvc_grid"] for one in stored(grids, "sweep")}
    assert tags.keys() == set(names(grids))
    long, keys = f"train.epochs {baseline}", f"sweep.lr,sweep.only,sweep.skip,variants {baseline}"
    assert (tags["long-1"], tags["long-2"]) == (long, long)
    assert sorted(tags.values()) == [keys, keys, long, long]
    found = run("pipeline", "runs", "--all", "--where", f"dvc_grid = {keys}", "--json", cwd=grids)
    points = sorted((one["lr"], str(one["batch_size"])) for one in json.loads(found.stdout))
    assert points[:2] == [(1e-6, "2"), (1e-6, "full")]
    assert [size for _, size in points[2:]] == ["2", "2"]
    assert all(3e-6 < lr < 4e-6 and f"{lr:.6g}" == repr(lr) for lr, _ in points[2:])


def test_show_diff_apply_branch_and_remove(grids: Path) -> None:
    rows = {row["Experiment"]: row for row in shown(grids) if row["Experiment"]}
    assert (rows["long-1"]["train.epochs"], rows["long-2"]["train.epochs"]) == ("21", "22")
    figures = json.loads(run("dvc", "exp", "diff", "long-1", "long-2", "--json", cwd=grids).stdout)
    changed = figures["params"]["params.yaml"]["train.epochs"]
    assert (changed["old"], changed["new"], changed["diff"]) == (21, 22, 1)
    assert figures["metrics"]["metrics.json"]["champion.cv/mse"]["diff"]

    run("dvc", "exp", "apply", "long-2", cwd=grids)
    assert "epochs: 22" in (grids / "params.yaml").read_text(encoding="utf-8")
    assert "didn't change" in run("dvc", "repro", cwd=grids).stdout  # apply brought its outs
    mine = json.loads(run("pipeline", "runs", "--json", cwd=grids).stdout)
    assert {(one["epochs"], one["status"], one["dvc_experiment"]) for one in mine} == {(22, "FINISHED", "long-2")}
    run("git", "stash", "--include-untracked", cwd=grids)

    run("dvc", "exp", "branch", "long-2", "longer", cwd=grids)
    assert "epochs: 22" in run("git", "show", "longer:params.yaml", cwd=grids).stdout
    of_branch = json.loads(run("pipeline", "runs", "longer", "--json", cwd=grids).stdout)
    assert {one["dvc_experiment"] for one in of_branch} == {"long-2"}

    before = len(stored(grids))
    run("dvc", "exp", "remove", "long-1", cwd=grids)
    assert "long-1" not in names(grids)
    assert len(stored(grids)) == before


def test_a_grid_beside_the_workspace_needs_the_queue(grids: Path) -> None:
    refused = run("dvc", "exp", "run", "--temp", "-S", "train.epochs=20,21", cwd=grids, check=False)
    assert "Sweep overrides can't be used without `--queue`" in refused.stderr
