"""`pipeline show`: all that is known of a run, from the workspace's outs or from its record in MLflow."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load

from pipeline.config.params import Params
from pipeline.errors import InputError, printable, shown
from pipeline.evaluation.choice import best_run
from pipeline.runs import outs, records, sweep
from pipeline.runs.names import FIELDS, run_name
from pipeline.runs.records import Record
from pipeline.runs.run import Run
from pipeline.system import repository
from pipeline.system.files import file_md5
from pipeline.tracking.values import data_label

BARS = " ▁▂▃▄▅▆▇█"
PREFIX = 8  # the fewest digits that name a run


@dataclass(frozen=True)
class Shown:
    """A run in plain values.

    weights, bias: in the table's units; empty and None if the model is not linear. shapes: of the parameters. curve:
    epoch -> train/mse. origin: where the run comes from, and how to make it again, in words.
    """

    name: str
    status: str
    configuration: Mapping[str, object]
    metrics: Mapping[str, float]
    target: str
    weights: Mapping[str, float]
    bias: float | None
    shapes: Mapping[str, Sequence[int]]
    curve: Mapping[int, float]
    origin: Mapping[str, str]


def in_workspace(params: Params, named: str | None) -> Shown | None:
    """Find a run in the workspace's outs; None if it is not there.

    Args:
        params: params.yaml.
        named: a fingerprint or the start of one; None for the champion.

    Raises:
        InputError: the outs are missing or damaged, the digits fit more than one run, or every run diverged.
    """
    try:
        evaluated = records.read_evaluated(params.variants)
        summary = json.loads(outs.SUMMARY.read_text(encoding="utf-8"))
        best = outs.champion()
    except FileNotFoundError as error:
        if named is not None:
            return None
        said = "no such file, so this workspace has no champion; run: dvc repro, or name a run in MLflow"
        raise InputError(f"{error.filename or error}: {said}") from error
    own = best_run(evaluated, best, params.evaluate.metric)
    found = [one for one in evaluated if one.run.fingerprint.startswith(named)] if named else [own] if own else []
    if not found and named is None:
        raise InputError("there is no champion: every run diverged; try a smaller sweep.lr, or data.standardize=true")
    if len(found) > 1 and named:
        same = [f"{one.run.fingerprint} ({one.run.name})" for one in found]
        raise InputError(f"{named}: is the start of {len(found)} fingerprints: {', '.join(same)}")
    return from_outs(found[0], summary, [one.run for one in evaluated], params) if found else None


def from_outs(record: Record, summary: Mapping[str, Any], runs: Sequence[Run], params: Params) -> Shown:
    """Describe a run of the workspace's outs."""
    run = record.run
    data = file_md5(outs.PREPARED)
    tags = repository.code_tags()
    here = f"the workspace's, commit {tags.get('git_commit', 'unknown')[:12]}"
    here += " with changes" if tags.get("git_dirty") == "true" else ""
    origin = {
        "from": "the workspace's outs",
        "code": here if sweep.is_current(run, record.left, data) else "not the workspace's as it is now",
        **data_origin(summary, data),
        "sweep": sweep.sweep_id(runs, sweep.specification(params)),
        "fingerprint": run.fingerprint,
    }
    configuration = {name: value for name in FIELDS if (value := getattr(run, name)) is not None}
    status = f"diverged: {record.diverged}" if record.diverged else "trained"
    status += f"; left early: {record.left}" if record.left else ""
    curve = {epoch: float(loss) for epoch, loss in enumerate(record.curve) if math.isfinite(loss)}
    about = Shown(run.name, status, configuration, record.metrics, "", {}, None, {}, curve, origin)
    return with_weights(about, record.tensors, summary)


def in_store(experiment: str, named: str) -> Shown:
    """Read a run's record in MLflow.

    Args:
        experiment: MLflow's.
        named: a run id, a fingerprint, or the start of either.

    Raises:
        InputError: there is no such run, or its record is malformed.
    """
    from pipeline.tracking import queries  # noqa: PLC0415 - loads MLflow, 1 s, which a run of the workspace does not need

    run_id, link = queries.identify(experiment, named)
    stored = queries.recall(experiment, run_id)
    summary = json.loads(stored.summary)
    tags = {key: shown(value)[1:-1] for key, value in stored.tags.items()}
    commit = tags.get("git_commit", "unknown")[:12]
    origin = {
        "from": f"MLflow run {run_id} ({stored.seal})",
        "code": f"commit {commit}" + (" with changes, which are in the record" if "git_changes" in tags else ""),
        "DVC experiment": tags.get("dvc_experiment", ""),
        **data_origin(summary, tags["data_md5"]),
        "sweep": tags["sweep"],
        "fingerprint": tags["fingerprint"],
        "torch": tags.get("torch", ""),
        "page": link,
    }
    configuration = {name: stored.params[name] for name in FIELDS if name in stored.params}
    status = f"diverged: {tags['diverged']}" if "diverged" in tags else stored.status
    status += f"; left early: {tags['left']}" if "left" in tags else ""
    curve = dict(sorted(stored.points.items()))
    about = Shown(run_name(configuration), status, configuration, stored.metrics, "", {}, None, {}, curve, origin)
    return with_weights(about, load(stored.weights), summary) if stored.weights else about


def data_origin(summary: Mapping[str, Any], md5: str) -> dict[str, str]:
    """Describe the data that a run was trained on."""
    source = f"{summary['rows']:,} rows of {printable(summary['source'])}, md5 {summary['source_md5']}"
    return {"data": data_label(summary), "table": source, "prepared": f"md5 {md5}"}


def with_weights(about: Shown, tensors: Mapping[str, NDArray[np.float32]], summary: Mapping[str, Any]) -> Shown:
    """Add the model fitted to all training rows: its shapes and, if it is linear, its weights in the table's units.

    Args:
        about: the run, without a model.
        tensors: the record's.
        summary: the prepared data's.
    """
    given = [name for name in tensors if not name.startswith("grad_") and name not in {"mean", "scale"}]
    shapes = {name: tensors[name].shape[1:] for name in given}
    features = summary["features"]
    about = replace(about, shapes=shapes, target=str(summary["target"]))
    if shapes != {"W": (len(features), 1), "b": (1,)}:
        return about
    W, b = (tensors[name][0].astype(np.float64).flatten() for name in ("W", "b"))
    W = W / tensors["scale"][0]  # undoes the standardization: X @ W in the table's units
    bias = float(b[0] - W @ tensors["mean"][0].astype(np.float64))
    return replace(about, weights=dict(zip(features, W.tolist(), strict=True)), bias=bias)


def formula(about: Shown) -> str:
    """Write a linear model in the table's units: `final = 0.80·quiz1 + 0.31·quiz2 − 1.2`."""
    terms = [(weight, f"·{printable(name)}") for name, weight in about.weights.items()] + [(about.bias or 0.0, "")]
    written = "".join(f" {'−' if value < 0 else '+'} {abs(value):.4g}{name}" for value, name in terms)
    return f"{printable(about.target)} = {'−' if written.startswith(' −') else ''}{written[3:]}"


def plot(curve: Mapping[int, float], width: int, height: int = 8) -> list[str]:
    """Draw a curve in lines of block characters, on a logarithmic scale if all losses are positive.

    Args:
        curve: epoch -> loss; finite.
        width: of the lines, in characters.
        height: the number of lines of bars.
    """
    losses = list(curve.values())
    low, high = min(losses), max(losses)
    scale = math.log if low > 0 else float
    labels = [f"{high:.4g}", f"{low:.4g}"]
    margin = max(map(len, labels)) + 1
    places = np.linspace(0, len(losses) - 1, max(2, width - margin)).round().astype(int)
    span = scale(high) - scale(low) or 1.0
    filled = [1 + (height * 8 - 1) * (scale(losses[place]) - scale(low)) / span for place in places]  # in eighths
    lines = []
    for level in reversed(range(height)):
        bars = "".join(BARS[min(8, max(0, round(value - 8 * level)))] for value in filled)
        label = labels[0] if level == height - 1 else labels[1] if level == 0 else ""
        lines.append(f"{label:>{margin - 1}} {bars}".rstrip())
    epochs = list(curve)
    axis = f"epoch {epochs[0]:,}"
    end = f"{epochs[-1]:,}"
    return [*lines, f"{'':{margin}}{axis}{end:>{max(1, len(places) - len(axis))}}"]
