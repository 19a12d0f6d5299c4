"""Records of older versions are still made again."""

from pathlib import Path

import pytest
from conftest import REPOSITORY, default_store, run, search

OLDER = {
    "278de49": {"fingerprint"},  # its records have no format number, no kernels and no seals
    "a7fc759": {"fingerprint", "record_format", "kernels", "mlflow.pipeline.seal"},
}


@pytest.mark.long
@pytest.mark.parametrize("older", OLDER)
def test_a_run_of_an_older_commit_still_comes_out_identical(older: str, tmp_path: Path) -> None:
    if run("git", "cat-file", "-e", f"{older}^{{commit}}", cwd=REPOSITORY, check=False).returncode != 0:
        pytest.skip(f"git does not have {older} here")
    folder = tmp_path / "repository"
    run("git", "clone", "--quiet", "--shared", str(REPOSITORY), str(folder), cwd=tmp_path)
    run("git", "checkout", "--quiet", "-b", "older", older, cwd=folder)
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
    known = {"fingerprint", "record_format", "kernels", "seal", "mlflow.pipeline.seal"}
    assert stored[0].data.tags.keys() & known == OLDER[older]
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
