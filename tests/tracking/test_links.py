"""Links open MLflow's training pages, where they are served, and hold no password."""

import pytest

from pipeline.tracking.pages import links


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIPELINE_UI", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.mark.parametrize(
    ("store", "pages", "address"),
    [
        ("", "", "http://127.0.0.1:5000"),
        ("sqlite:///mlflow.db", "", "http://127.0.0.1:5000"),
        ("postgresql://user:secret@db/runs", "", "http://127.0.0.1:5000"),
        ("http://tracking:8080/", "", "http://tracking:8080"),
        ("https://me:se@cret@tracking/mlflow/", "", "https://tracking/mlflow"),
        ("http://tracking:8080", "http://127.0.0.1:5001", "http://127.0.0.1:5001"),
        ("sqlite:///mlflow.db", "http://me:secret@pages", "http://pages"),
        ("sqlite:///mlflow.db", "http://secret@pages/mlflow?token=secret", "http://pages/mlflow"),
        ("sqlite:///mlflow.db", "http://me:sec/ret@pages", "http://127.0.0.1:5000"),
        ("sqlite:///mlflow.db", "http://me:sec#ret@pages", "http://127.0.0.1:5000"),
    ],
)
def test_a_link_leads_to_where_the_pages_are_served(
    store: str, pages: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("PIPELINE_UI", pages)
    assert links.address() == address


def test_a_link_opens_model_training() -> None:
    training = "workflowType=machine_learning"
    base = "http://127.0.0.1:5000/#"
    assert links.runs_link("7") == f"{base}/experiments/7/runs?{training}"
    assert links.runs_link("7", "a b") == f"{base}/experiments/7/runs?{training}&viewStateShareKey=a+b"
    assert links.run_link("7", "f" * 32) == f"{base}/experiments/7/runs/{'f' * 32}?{training}"
    assert links.model_link("a/b") == f"{base}/models/a%2Fb?{training}"
