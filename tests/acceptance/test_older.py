"""Records of older versions are still made again."""

from pathlib import Path

import pytest
from conftest import REPOSITORY, default_store, run, search

OLDER = "278de49"  # its records have no format number, no kernels and no seals


def test_a_run_of_a_commit_before_pins_seals_and_formats_still_comes_out(tmp_path: Path) -> None:
    if run("git", "cat-file", "-e", f"{OLDER}^{{commit}}", cwd=REPOSITORY, check=False).returncode != 0:
        pytest.skip(f"git does not have {OLDER} here")
    folder = tmp_path / "repository"
    run("git", "clone", "--quiet", "--shared", str(REPOSITORY), str(folder), cwd=tmp_path)
    run("git", "checkout", "--quiet", "-b", "older", OLDER, cwd=folder)
    settings = (
        "-S",
        "variants=[matrix]",
        "-S",
        "sweep.batch_size=[2]",
        "-S",
        "sweep.seed=[1,2]",
        "-S",
        "train.epochs=50",
    )
    # The commit's own pipeline, which the tests' environment does not hold.
    run("dvc", "exp", "run", *settings, cwd=folder, extra={"PYTHONPATH": str(folder)})
    stored = search(default_store(folder))
    assert len(stored) == 2
    assert not {"record_format", "kernels", "seal"} & stored[0].data.tags.keys()
    run("git", "stash", "--quiet", cwd=folder)
    run(
        "git",
        "checkout",
        "--quiet",
        "--detach",
        run("git", "rev-parse", "HEAD", cwd=REPOSITORY).stdout.strip(),
        cwd=folder,
    )
    answer = run("pipeline", "reproduce", *(one.info.run_id for one in stored), cwd=folder).stdout
    assert sorted(answer.splitlines()) == sorted(f"{one.info.run_id}: identical" for one in stored)
