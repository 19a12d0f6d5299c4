"""The verdict on a reproduced run: identical to its record, the same within rounding, or what differs."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from safetensors.numpy import load, save

from pipeline.config.axes import AXES
from pipeline.evaluation import outcome
from pipeline.metrics import RUN_METRICS
from pipeline.runs import rounding
from pipeline.runs.names import FIELDS
from pipeline.runs.records import CURVE, Array, Record
from pipeline.system import machine
from pipeline.system.files import md5_of
from pipeline.table.prepared import Prepared
from pipeline.tracking import seals
from pipeline.tracking.runs import WEIGHTS, status_of, text
from pipeline.tracking.validation import StoredRecord, parse_params
from pipeline.tracking.values import flat

GONE = "params: the code, data and params.yaml on record give no run with this fingerprint or these params"


@dataclass(frozen=True)
class Answer:
    """The result of reproducing a run: a verdict, and each difference from the record."""

    verdict: str
    differences: list[str]


def compare(stored: StoredRecord, record: Record | None, prepared: Prepared) -> Answer:
    """Compare a reproduced run with its record.

    Bits must be the same if the record was made with the kernels, architecture and torch of this process; otherwise
    they may differ by rounding.

    Args:
        stored: the record.
        record: the reproduced run; None if the record gives no such run.
        prepared: the data that it was trained on.
    """
    if record is None:
        return Answer("differs", [GONE])
    exact, bits = compare_exactly(stored, record), compare_bits(stored, record)
    if not exact + bits:
        return Answer("identical", [])
    here = machine.numeric_tags()
    if exact or not machine.may_differ(stored.tags, here, record.run.device):
        return Answer("differs", exact + bits)
    agreement = compare_within_rounding(stored, record, prepared)
    if agreement.beyond:
        return Answer("differs", agreement.beyond)
    found = f"largest difference {agreement.largest:.1e}"
    if agreement.unbounded:
        found = f"only whether it diverged is compared, as {agreement.unbounded}"
    there, now = machine.name_kernels(stored.tags, here), machine.name_kernels(here, stored.tags)
    return Answer(f"same within rounding: {found}, made with {there}, here {now}", [])


def compare_exactly(stored: StoredRecord, record: Record) -> list[str]:
    """List the differences in what is the same on every machine."""
    differences = differing_params(stored, record)
    if stored.seal == seals.ALTERED:
        differences.append("seal: does not match; the record was altered after its run ended")
    pairs: dict[str, tuple[str | None, str | None]] = {
        "fingerprint": (stored.tags["fingerprint"], record.run.fingerprint),
        "status": (stored.status, status_of(record.diverged)),
    }
    if stored.weights:
        pairs["weights_md5"] = (stored.tags.get("weights_md5"), md5_of(stored.weights))
    return differences + differing(pairs)


def differing(pairs: Mapping[str, tuple[str | None, str | None]]) -> list[str]:
    """List the differing pairs of texts: on record, now."""
    return [
        f"{key}: {there or 'nothing'} on record, {here or 'nothing'} now"
        for key, (there, here) in pairs.items()
        if there != here
    ]


def differing_params(stored: StoredRecord, record: Record) -> list[str]:
    """List the params on record that differ from those of the reproduced run, or of the data in params.yaml."""
    later = {axis.name: axis.default for axis in AXES if axis.name not in stored.params}  # than the record
    own = {key: getattr(record.run, key) for key in FIELDS}
    own = {key: value for key, value in own.items() if value is not None and value != later.get(key)}
    expected = {key: text(value) for key, value in (own | flat({"data": parse_params(stored)["data"]})).items()}
    return [
        f"{key}: {stored.params.get(key)!a} on record, {value!r} now"
        for key, value in expected.items()
        if stored.params.get(key) != value
    ]


def compare_bits(stored: StoredRecord, record: Record) -> list[str]:
    """List every difference in the bits of weights, curve and metrics."""
    ends = {"diverged": record.diverged, "left": record.left}
    differences = differing({key: (stored.tags.get(key), value or None) for key, value in ends.items()})
    differences += [] if stored.weights else [f"{WEIGHTS}: is missing from MLflow"]
    if stored.weights:
        tensors = compare_tensors(load(stored.weights), record.tensors)
        same = stored.weights == save(dict(record.tensors))
        differences += tensors or (
            [] if same else [f"{WEIGHTS}: the tensors are the same, the file around them is not"]
        )
    differences += compare_curves(stored.points, curve_points(stored, record))
    return differences + compare_metrics(*metrics(stored, record))


def compare_within_rounding(stored: StoredRecord, record: Record, prepared: Prepared) -> rounding.Agreement:
    """Compare a reproduced run with its record, allowing for rounding."""
    (held, made), steps = metrics(stored, record), curve_points(stored, record)
    agreement = rounding.compare(
        record,
        rounding.table(vars(prepared)),
        "diverged" in stored.tags,
        load(stored.weights) if stored.weights else {},
        {step: value for step, value in stored.points.items() if step in steps},
        {key: value for key, value in held.items() if key in made},
        lambda one: outcome.of(one, prepared),
    )
    if agreement.unbounded:
        return agreement
    lost = compare_curves({step: steps.get(step, value) for step, value in stored.points.items()}, steps)
    lost += compare_metrics({key: made.get(key, value) for key, value in held.items()}, made)
    return replace(agreement, beyond=lost + agreement.beyond)


def curve_points(stored: StoredRecord, record: Record) -> dict[int, float]:
    """Choose the points of a run's curve, step -> train/mse, that its record should have."""
    steps = record.steps(parse_params(stored)["track"]["points"])
    return {step: float(record.curve[step]) for step in steps if np.isfinite(record.curve[step])}


def metrics(stored: StoredRecord, record: Record) -> tuple[dict[str, float], dict[str, float]]:
    """Return the metrics on record and those made; of a run that is not evaluated yet, only the curve's last value."""
    made = {key: value for key, value in record.metrics.items() if key != CURVE}
    if not stored.evaluated and not set(stored.metrics) & set(made):
        made = {}
    if curve := curve_points(stored, record):
        made[CURVE] = curve[max(curve)]
    return {key: value for key, value in stored.metrics.items() if key in made or key in RUN_METRICS}, made


def compare_metrics(held: Mapping[str, float], made: Mapping[str, float]) -> list[str]:
    """List the metrics that differ, are missing or were added."""
    return [
        f"{key}: {held.get(key, 'nothing')} on record, {made.get(key, 'nothing')} now"
        + (" (its last value)" if key == CURVE else "")
        for key in sorted({*made, *held})
        if held.get(key) != made.get(key)
    ]


def compare_curves(stored: Mapping[int, float], made: Mapping[int, float]) -> list[str]:
    """Count the points, step -> train/mse, that differ, are missing or were added, and say by how much."""
    wrong = [step for step in sorted({*made, *stored}) if made.get(step) != stored.get(step)]
    if not wrong:
        return []
    step, both = wrong[0], [step for step in wrong if step in made and step in stored]
    most = f", by at most {max(abs(made[step] - stored[step]) for step in both):.3g}" if both else ""
    first = f"the first, step {step}: {stored.get(step)} on record, {made.get(step)} now"
    return [f"{CURVE}: {len(wrong)} of {len(made)} points differ{most}; {first}"]


def compare_tensors(stored: Mapping[str, Array], made: Mapping[str, Array]) -> list[str]:
    """List the tensors that differ in any bit, in how many values and by how much."""
    differences = []
    for name in sorted({*stored, *made}):
        if name not in stored or name not in made or stored[name].shape != made[name].shape:
            differences.append(f"{name}: is missing on one side, or has another shape")
        elif stored[name].tobytes() != made[name].tobytes():
            apart = stored[name].view(np.uint32) != made[name].view(np.uint32)
            with np.errstate(invalid="ignore", over="ignore"):
                most = np.abs(stored[name].astype(np.float64) - made[name])[apart].max()
            differences.append(f"{name}: {apart.sum()} of {apart.size} values differ, by at most {most:.3g}")
    return differences
