"""A variant of the user's own, from docs/models.md alone; and one that params.yaml no longer lists."""

import re
from pathlib import Path

from conftest import default_store, points, run, search, shorten
from mlflow import MlflowClient
from ruamel.yaml import YAML


def test_a_fifth_variant_written_from_the_documents_alone_trains_and_is_kept_account_of(clone: Path) -> None:
    section = (clone / "docs/models.md").read_text(encoding="utf-8").partition("## A variant of your own")[2]
    source, command = re.findall(r"```(?:python|bash)\n(.*?)```", section, re.DOTALL)[:2]
    assert source.startswith("# pipeline/variants/mlp.py\n")
    (clone / "pipeline/variants/mlp.py").write_text(source, encoding="utf-8")
    run(
        "bash",
        "-euc",
        f"{command.strip()} -S train.epochs=200 -S 'sweep.seed=[1]' -S 'sweep.batch_size=[2,full]'",
        cwd=clone,
    )
    stored = search(default_store(clone))
    assert {(one.data.params["variant"], one.info.status) for one in stored} == {("mlp", "FINISHED")}
    for one in stored:
        assert one.data.metrics["train/mse"] < points(default_store(clone), one)[0][1] / 10
        assert 0 < one.data.metrics["grad_error"] < 1e-4
        assert one.data.metrics.keys() >= {"cv/mse", "cv/r2", "excess_mse"}
    again = ("python", "-m", "pipeline", "reproduce", "--allow-patch")  # the clone's own pipeline has the variant
    answer = run(*again, *(one.info.run_id for one in stored), cwd=clone).stdout
    assert answer.splitlines() == [f"{one.info.run_id}: identical" for one in stored]
    [sweep] = search(default_store(clone), "tags.role = 'sweep'")
    for table in ("loss", "predicted"):
        drawn = MlflowClient(default_store(clone)).download_artifacts(sweep.info.run_id, f"{table}.csv")
        assert "\nmlp," in Path(drawn).read_text(encoding="utf-8")
    run("ruff", "check", "pipeline/variants/mlp.py", cwd=clone)
    run("ruff", "format", "--check", "pipeline/variants/mlp.py", cwd=clone)


def test_a_dropped_variant_leaves_no_trace_in_dvc_lock(clone: Path) -> None:
    params = shorten(clone) / "params.yaml"
    run("dvc", "repro", cwd=clone)
    text = params.read_text()
    assert "variants:\n- matrix\n- linear\n" in text
    params.write_text(text.replace("- matrix\n", ""))

    def evaluated() -> object:
        run("dvc", "repro", cwd=clone)
        return YAML(typ="safe").load(clone / "dvc.lock")["stages"]["evaluate"]

    dropped = evaluated()
    run("git", "clean", "--quiet", "-dfX", "data", "plots", "leaderboard.csv", "metrics.json", "report.html", cwd=clone)
    (clone / "dvc.lock").unlink()
    assert not (clone / "data/trained").exists()
    assert evaluated() == dropped
