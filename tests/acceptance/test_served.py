"""The champion behind `mlflow models serve`: over HTTP, the bits of the pipeline's own predictions."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import HANG_SECONDS, default_store, environment, free_port, run, serving
from mlflow import MlflowClient
from numpy.typing import NDArray
from ruamel.yaml import YAML

NAME = "regression-scores"
CHAMPION = f"models:/{NAME}@champion"
COLUMNS = ["quiz1", "quiz2", "quiz3"]
# Kernels and threads that are not ours, and a model that may not unpickle anything.
OUTSIDE = {
    "MKL_CBWR": "AVX512",
    "ATEN_CPU_CAPABILITY": "default",
    "OPENBLAS_CORETYPE": "Nehalem",
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 X86_V3 AVX2 FMA3",
    "OMP_NUM_THREADS": "3",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
}


@contextmanager
def served(uri: str, folder: Path, model: str = CHAMPION, **extra: str) -> Iterator[str]:
    """Serve a registered model as docs/models.md shows, from a folder that is not the repository; yield the address."""
    port = free_port()
    command = ["mlflow", "models", "serve", "-m", model, "--env-manager", "local", "--port", str(port)]
    log = (folder / "serve.log").open("w")
    told = environment(MLFLOW_TRACKING_URI=uri, **extra)
    server = subprocess.Popen(command, cwd=folder, env=told, stdout=log, stderr=log, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            assert server.poll() is None, (folder / "serve.log").read_text()
            try:
                with urllib.request.urlopen(f"{address}/ping", timeout=5):
                    break
            except OSError:
                time.sleep(0.5)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(HANG_SECONDS)


def ask(address: str, body: object, kind: str = "application/json") -> tuple[int, Any]:
    """Send a request for predictions; return the status and the answer."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(f"{address}/invocations", content, {"Content-Type": kind})
    try:
        with urllib.request.urlopen(request, timeout=HANG_SECONDS) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def split(columns: list[str], *rows: list[Any]) -> Mapping[str, object]:
    return {"dataframe_split": {"columns": columns, "data": rows}}


def table(rows: int) -> NDArray[np.float64]:
    return np.random.default_rng(0).normal(75, 20, size=(rows, 3))


def by_the_pipeline(repository: Path, X: NDArray[np.float64], *options: str) -> NDArray[np.float32]:
    """Predict with `pipeline predict`."""
    rows = "".join(f"{','.join(map(repr, row))}\n" for row in X.tolist())
    (repository / "data/new.csv").write_text(f"{','.join(COLUMNS)}\n{rows}")
    said = run("pipeline", "predict", "data/new.csv", *options, cwd=repository).stdout
    (repository / "data/new.csv").unlink()
    return np.array([row["final_pred"] for row in csv.DictReader(io.StringIO(said))], dtype=np.float32)


@pytest.fixture(scope="module")
def address(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The small repository's champion, served with another's kernels."""
    with served(default_store(small), tmp_path_factory.mktemp("elsewhere"), **OUTSIDE) as found:
        yield found


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_a_server_answers_with_the_bits_of_the_pipeline_s_predictions(small: Path, address: str, rows: int) -> None:
    X = table(1000)[:rows]
    status, answer = ask(address, split(COLUMNS, *X.tolist()))
    assert status == 200
    y_pred = np.array([row["final"] for row in answer["predictions"]])
    assert y_pred.astype(np.float32).tolist() == y_pred.tolist()
    assert y_pred.astype(np.float32).tobytes() == by_the_pipeline(small, X).tobytes()


def test_columns_are_found_by_name_whatever_their_order_and_others_are_ignored(address: str) -> None:
    row = table(1)[0].tolist()
    expected = ask(address, split(COLUMNS, row))
    assert ask(address, split(["id", *reversed(COLUMNS)], ["a", *reversed(row)])) == expected
    assert ask(address, {"dataframe_records": [dict(zip(COLUMNS, row, strict=True))]}) == expected
    whole = ask(address, f"{','.join(COLUMNS)}\n73,80,75\n".encode(), "text/csv")
    assert whole == ask(address, split(COLUMNS, [73, 80, 75]))
    assert whole[0] == 200


GOOD = [73.0, 80.0, 75.0]
MALFORMED = {
    "a column is missing": (split(COLUMNS[:2], GOOD[:2]), "missing inputs ['quiz3']"),
    "a column has another name": (split(["quiz1", "quiz2", "quiz"], GOOD), "extra inputs: ['quiz']"),
    "a column occurs twice": (split(["quiz1", *COLUMNS], [1, *GOOD]), "Failed to enforce schema"),
    "text": (split(COLUMNS, [73, 80, "many"]), "Failed to convert column quiz3"),
    "null": (split(COLUMNS, GOOD, [73, None, 75]), "row 2, column 'quiz2'"),
    "NaN": (
        b'{"dataframe_split": {"columns": ["quiz1","quiz2","quiz3"], "data": [[1,2,NaN]]}}',
        "row 1, column 'quiz3'",
    ),
    "too large": (split(COLUMNS, [73, 80, 1e39]), "row 1, column 'quiz3'"),
    "a prediction that is too large": (split(COLUMNS, [3e38, 3e38, 3e38]), "row 1: its prediction"),
    "a short row": (split(COLUMNS, GOOD[:2]), "3 columns passed, passed data had 2"),
    "a long row": (split(COLUMNS, [*GOOD, 1]), "3 columns passed, passed data had 4"),
    "a cell that is a list": (split(COLUMNS, [73, 80, [75]]), "Failed to convert column quiz3"),
    "rows without names": ({"inputs": [GOOD]}, "missing inputs ['quiz1', 'quiz2', 'quiz3']"),
    "another key": ({"rows": [GOOD]}, "exactly one of the input fields"),
    "a number": (b"3", "must be a JSON dictionary"),
    "no JSON": (b"{", "valid JSON"),
}


@pytest.mark.parametrize(("body", "reason"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_request_is_the_client_s_fault_and_says_why(address: str, body: object, reason: str) -> None:
    status, answer = ask(address, body)
    assert status == 400
    assert reason in answer["message"]
    assert ask(address, split(COLUMNS, GOOD))[0] == 200


def test_a_server_registers_serves_and_predicts_as_the_default_store_does(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    X = table(7)
    expected = by_the_pipeline(small, X)
    with serving(tmp_path) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
        remote = {"MLFLOW_TRACKING_URI": server}
        said = run("pipeline", "sync", cwd=small, extra=remote).stdout
        assert f"{NAME}: version 1 is the champion" in said
        assert f"{server}/#/models/{NAME}?" in said
        assert "version" not in run("pipeline", "sync", cwd=small, extra=remote).stdout
        version = MlflowClient(server).get_model_version_by_alias(NAME, "champion")
        assert version.source.startswith("mlflow-artifacts:/")
        [output] = MlflowClient(server).get_run(version.run_id).outputs.model_outputs
        assert output.model_id in version.source
        (small / "new.csv").write_text("quiz1,quiz2,quiz3\n73,80,75\n")
        there = run("pipeline", "predict", "new.csv", cwd=small, extra=remote).stdout
        assert there == run("pipeline", "predict", "new.csv", cwd=small).stdout
        (small / "new.csv").unlink()
        with served(server, tmp_path) as address:
            answer = ask(address, split(COLUMNS, *X.tolist()))[1]
        y_pred = np.array([row["final"] for row in answer["predictions"]], dtype=np.float32)
        assert y_pred.tobytes() == expected.tobytes()


MLP = '''"""A multilayer perceptron."""

from torch import Tensor, nn


class Model(nn.Module):
    """One hidden layer of 8."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(k, 8)
        self.output = nn.Linear(8, 1)

    def forward(self, X: Tensor) -> Tensor:
        """Predict y_pred (m, 1) from X (m, k)."""
        y_pred: Tensor = self.output(self.hidden(X).relu())
        return y_pred
'''


LOAD = """
import sys, mlflow, pandas
model = mlflow.pyfunc.load_model(sys.argv[1])
model.predict(pandas.DataFrame({"quiz1": [73.0], "quiz2": [80.0], "quiz3": [75.0]}))
import torch
print(torch.backends.cpu.get_cpu_capability(), torch.get_num_threads())
"""


def test_a_model_that_is_not_linear_is_served_with_the_code_that_it_carries_and_pinned_kernels(
    clone: Path, tmp_path: Path
) -> None:
    (clone / "pipeline/variants/mlp.py").write_text(MLP)
    settings = YAML(typ="safe").load(clone / "params.yaml")
    settings["variants"] = ["mlp"]
    settings["data"]["standardize"] = True
    settings["train"] |= {"init": "default", "epochs": 50}
    settings["sweep"]["lr"] = [1e-3]
    YAML().dump(settings, clone / "params.yaml")
    run("dvc", "repro", cwd=clone)
    X = table(1000)
    (clone / "new.csv").write_text("".join(f"{','.join(map(str, row))}\n" for row in [COLUMNS, *X.tolist()]))
    predict = (sys.executable, "-m", "pipeline", "predict", "new.csv")  # the clone's own, which has the variant
    said = run(*predict, cwd=clone).stdout
    expected = np.array([row["final_pred"] for row in csv.DictReader(io.StringIO(said))], dtype=np.float32)
    with served(default_store(clone), tmp_path, **OUTSIDE) as address:
        for rows in (1, 7, 1000):
            status, answer = ask(address, split(COLUMNS, *X[:rows].tolist()))
            assert status == 200
            y_pred = np.array([row["final"] for row in answer["predictions"]], dtype=np.float32)
            np.testing.assert_allclose(y_pred, expected[:rows], rtol=1e-6)
    assert "not pinned" not in (tmp_path / "serve.log").read_text()
    outside = {**OUTSIDE, "MLFLOW_TRACKING_URI": default_store(clone)}
    pinned = run("python", "-c", LOAD, CHAMPION, cwd=tmp_path, extra=outside)
    assert (pinned.stdout, "not pinned" in pinned.stderr) == ("AVX2 1\n", False)
    late = run("python", "-c", f"import torch\n{LOAD}", CHAMPION, cwd=tmp_path, extra=outside)
    assert "torch was loaded before this model, so that its kernels are not pinned" in late.stderr
    (clone / "pipeline/variants/mlp.py").write_text(MLP.replace(".relu()", ".tanh()"))
    refused = run(*predict, cwd=clone, check=False)
    assert refused.returncode == 1
    assert "its code here is not the one that trained this run" in refused.stderr
