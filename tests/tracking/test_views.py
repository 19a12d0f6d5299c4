"""Saved views are kept up to date, and are left alone once a person has changed or deleted them."""

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import pytest
from conftest import copy_store, enter, search
from mlflow import MlflowClient

from pipeline.__main__ import main
from pipeline.tracking import queries
from pipeline.tracking.pages import views
from pipeline.tracking.store.database import Database
from pipeline.tracking.store.store import Store


@pytest.fixture
def store(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    uri = copy_store(small, tmp_path / "mlflow.db")
    enter(small, monkeypatch)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return Store.open("regression")


def tags(store: Store) -> dict[str, str]:
    return dict(MlflowClient(store.backend.uri).get_experiment(store.experiment.experiment_id).tags)


def label(store: Store) -> str:
    return str(search(store.backend.uri)[0].data.params["data"])


def unpacked(tag: str) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(
        zlib.decompress(base64.b64decode(json.loads(tag)["state"].removeprefix("deflate;")))
    )
    return state


def test_a_sweep_leaves_its_views_whose_searches_find_its_runs(store: Store) -> None:
    found = {key.removeprefix(views.VIEW): tag for key, tag in tags(store).items() if key.startswith(views.VIEW)}
    code = label(store).split()[1]
    assert set(found) == {f"leaderboard-{code}", f"loss-{code}", f"lr-{code}", "sweeps", "wrong"}
    assert all(len(tag) < 5000 for tag in found.values())  # MLflow's limit
    counts = {key: len(search(store.backend.uri, unpacked(tag)["searchFilter"])) for key, tag in found.items()}
    everything = len(search(store.backend.uri))
    sensible = sum(one.data.metrics.get("cv/r2", -1) > 0 for one in search(store.backend.uri))
    assert counts == {f"leaderboard-{code}": everything, f"loss-{code}": everything, f"lr-{code}": sensible} | {
        "sweeps": len(search(store.backend.uri, "tags.role = 'sweep'")),
        "wrong": 0,
    }


def test_views_follow_what_they_should_be_but_not_over_a_persons_change(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, experiment = MlflowClient(store.backend.uri), store.experiment.experiment_id
    mine = json.dumps(json.loads(tags(store)[f"{views.VIEW}sweeps"]) | {"name": "My sweeps"})
    client.set_experiment_tag(experiment, f"{views.VIEW}sweeps", mine)
    client.delete_experiment_tag(experiment, f"{views.VIEW}wrong")
    before = tags(store)
    main(["sync"])  # nothing has changed
    assert tags(store) == before
    monkeypatch.setattr(views, "AXES", ("variant", "lr"))
    monkeypatch.setattr(views, "wrong", lambda: views.sweeps("cv/r2"))
    links = views.update(store, label(store), "cv/r2", 1e9)
    after = tags(store)
    assert after[f"{views.VIEW}sweeps"] == mine
    assert f"{views.VIEW}wrong" not in after
    assert "What went wrong" not in links
    key = views.VIEW + views.leaderboard_key(label(store))
    assert unpacked(after[key])["orderByKey"] == "metrics.`cv/r2`"
    times = [json.loads(state[key]) for state in (before, after)]
    assert times[0]["createdAt"] == times[1]["createdAt"]
    assert times[1]["updatedAt"] == 1e12


def test_no_view_is_written_for_another_version_of_mlflow(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    key, before = views.leaderboard_key(label(store)), tags(store)
    monkeypatch.setattr(Database, "mlflow_version", lambda _: "9.9.9")
    assert views.update(store, label(store), "cv/r2", 1e9) == {}
    assert tags(store) == before
    assert key not in queries.leaderboard_link("regression", json.loads(Path("data/prepared/summary.json").read_text()))


def test_the_link_leads_to_the_leaderboard_of_the_workspaces_data(store: Store) -> None:
    summary = json.loads(Path("data/prepared/summary.json").read_text())
    key = views.leaderboard_key(label(store))
    assert queries.leaderboard_link("regression", summary).endswith(f"&viewStateShareKey={key}")
    assert "viewStateShareKey" not in queries.leaderboard_link("regression", summary | {"target": "another"})
    assert "viewStateShareKey" not in queries.leaderboard_link("regression", None)
