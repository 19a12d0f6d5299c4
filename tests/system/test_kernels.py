"""Kernels are pinned before numpy and torch are loaded, whatever the environment says."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import REPOSITORY, run

from pipeline.evaluation import outcome
from pipeline.metrics import round_to
from pipeline.system import kernels

FOUND = """
import json, os
import pipeline, numpy, torch
from pipeline.system import kernels
from numpy._core._multiarray_umath import __cpu_features__ as features
path = [kernels.KERNELS, torch.backends.cpu.get_cpu_capability(), features["AVX512F"], torch.get_num_threads()]
print(json.dumps([*path, os.environ.get("MKL_CBWR")]))
"""
OUTSIDE = {
    "ATEN_CPU_CAPABILITY": "avx512",
    "MKL_CBWR": "AVX512",
    "OPENBLAS_CORETYPE": "Prescott",
    "OMP_NUM_THREADS": "7",
    "NPY_DISABLE_CPU_FEATURES": "",
}
needs_avx2 = pytest.mark.skipif(not kernels.has_avx2(), reason="this processor has no AVX2")


def found(folder: Path, code: str = FOUND, **extra: str) -> list[Any]:
    outside = {**OUTSIDE, "PYTHONPATH": str(REPOSITORY), **extra}
    answer: list[Any] = json.loads(run("python", "-c", code, cwd=folder, extra=outside).stdout)
    return answer


@needs_avx2
def test_whatever_the_environment_says_all_libraries_take_the_avx2_path_in_one_thread(tmp_path: Path) -> None:
    kernels, torch_path, _, threads, mkl = found(tmp_path)
    assert (kernels, torch_path, threads, mkl) == ("avx2", "AVX2", 1, "COMPATIBLE")


@needs_avx2
def test_the_override_takes_the_path_without_avx2_or_leaves_the_environment_alone(tmp_path: Path) -> None:
    assert found(tmp_path, PIPELINE_KERNELS="default")[:2] == ["default", "DEFAULT"]
    assert found(tmp_path, PIPELINE_KERNELS="native", MKL_CBWR="AVX2")[4] == "AVX2"


def test_native_kernels_take_one_thread_unless_the_user_says_otherwise(tmp_path: Path) -> None:
    asked = {"PYTHONPATH": str(REPOSITORY), "PIPELINE_KERNELS": "native"}

    def threads(imports: str, **extra: str) -> str:
        code = f"import {imports}\nprint(torch.get_num_threads())"
        return run("python", "-c", code, cwd=tmp_path, extra=asked | extra).stdout

    assert threads("pipeline, torch") == "1\n"
    assert threads("pipeline, torch", OMP_NUM_THREADS="2") == threads("torch", OMP_NUM_THREADS="2")


@pytest.mark.parametrize("module", ["train", "evaluate", "tracking.store.store"])
def test_whatever_is_imported_first_mlflow_is_told_the_same_unless_the_user_says_otherwise(
    tmp_path: Path, module: str
) -> None:
    read = "MLFLOW_HTTP_REQUEST_TIMEOUT.get(), MLFLOW_HTTP_REQUEST_MAX_RETRIES.get(), logging.getLogger('mlflow').level"
    code = (
        f"import json, logging, pipeline.{module}\n"
        "from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES, MLFLOW_HTTP_REQUEST_TIMEOUT\n"
        f"print(json.dumps([{read}]))"
    )
    extra = {"PYTHONPATH": str(REPOSITORY), "MLFLOW_HTTP_REQUEST_TIMEOUT": "7"}
    assert json.loads(run("python", "-c", code, cwd=tmp_path, extra=extra).stdout) == [7, 1, 30]


def test_an_unknown_override_is_refused(tmp_path: Path) -> None:
    extra = {"PIPELINE_KERNELS": "fastest", "PYTHONPATH": str(REPOSITORY)}
    result = run("python", "-m", "pipeline.prepare", cwd=tmp_path, extra=extra, check=False)
    assert result.returncode == 1
    assert result.stderr == "PIPELINE_KERNELS: got 'fastest', takes native or default; or unset it\n"


@pytest.mark.parametrize("stage", ["prepare", "train", "evaluate"])
def test_a_stage_refuses_libraries_that_were_loaded_before_the_pins(tmp_path: Path, stage: str) -> None:
    code = f"import numpy\nfrom pipeline import {stage}\n{stage}.main()"
    result = run("python", "-c", code, cwd=tmp_path, extra={"PYTHONPATH": str(REPOSITORY)}, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("numpy: loaded before the pipeline")
    assert "Traceback" not in result.stderr


def test_a_process_that_is_to_choose_for_itself_gets_the_environment_as_it_was(tmp_path: Path) -> None:
    code = "import json\nfrom pipeline.system import kernels\nprint(json.dumps(sorted(kernels.unpinned().items())))"
    inherited = dict(found(tmp_path, code))
    assert {key: inherited[key] for key in OUTSIDE} == OUTSIDE
    assert "MKL_NUM_THREADS" not in inherited


def test_a_product_is_that_of_blas_within_rounding() -> None:
    chance = np.random.default_rng(0)
    X, W = chance.normal(size=(50, 7)), chance.normal(size=(7, 1))
    np.testing.assert_allclose(outcome.product(X, W), X @ W, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize(
    ("value", "unit", "rounded"),
    [(2.04348158e-07, 1e-13, 2.043482e-07), (1.5e-16, 1e-13, 0.0), (123.456, 1.0, 123.0), (1.25, 0.0, 1.25)],
)
def test_a_figure_keeps_the_digits_that_its_terms_support(value: float, unit: float, rounded: float) -> None:
    assert round_to(value, unit) == pytest.approx(rounded, rel=1e-15, abs=0)


def test_this_test_run_is_pinned_itself() -> None:
    assert kernels.LOADED == []
