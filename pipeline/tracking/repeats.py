"""A run that was computed again, beside one that is stored: the same bits, or the same within rounding."""

from dataclasses import replace

from safetensors import SafetensorError
from safetensors.numpy import load, save

from pipeline import outs
from pipeline.evaluation import rounding
from pipeline.records import CURVE, Array, Record
from pipeline.tracking.store import WEIGHTS, Store, StoredRun, is_complete, weights_md5


def has_weights(run: StoredRun, record: Record) -> bool:
    """Tell whether a stored run's weights have a record's bits."""
    return bool(run.data.tags.get("weights_md5") == weights_md5(save(dict(record.tensors))))


def is_same(store: Store, run: StoredRun, record: Record) -> bool:
    """Tell whether a stored run's weights and curve have a record's bits."""
    if not has_weights(run, record):
        return False
    points = store.client.get_metric_history(run.info.run_id, CURVE)
    return all(point.value == float(record.curve[point.step]) for point in points)


def agrees(store: Store, run: StoredRun, record: Record, table: rounding.Table) -> bool:
    """Tell whether a stored run's weights and curve are a record's but for rounding; `table` is of its data."""
    tensors = stored_tensors(store, run)
    points = {point.step: point.value for point in store.client.get_metric_history(run.info.run_id, CURVE)}
    if not is_complete(run) or not tensors or not all(0 <= step < len(record.curve) for step in points):
        return False
    return not rounding.compare(record, table, "diverged" in run.data.tags, tensors, points, {}).beyond


def stored_tensors(store: Store, run: StoredRun) -> dict[str, Array]:
    """Read a stored run's weights; none where they are gone, or are not those that its tag names."""
    try:
        content = store.artifact(run, WEIGHTS)
        return dict(load(content)) if weights_md5(content) == run.data.tags.get("weights_md5") else {}
    except (FileNotFoundError, SafetensorError, ValueError, KeyError):
        return {}


def figures(store: Store, run: StoredRun, record: Record) -> dict[str, float]:
    """Evaluate a stored run's own weights, where a record has others; its curve's last value is stored already."""
    from pipeline.evaluation import metrics  # noqa: PLC0415 - imports torch, 1 s
    from pipeline.training import data  # noqa: PLC0415

    own = replace(record, tensors=stored_tensors(store, run))
    return {key: value for key, value in metrics.compute(own, data.load(outs.PREPARED)).items() if key != CURVE}
