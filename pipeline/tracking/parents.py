"""The run in MLflow that stands for a sweep, and the list of what belongs to it, so that what was deleted shows."""

from collections.abc import Iterable
from hashlib import sha256

from pydantic import BaseModel, ValidationError

from pipeline.sweep import fingerprint
from pipeline.tracking import seals
from pipeline.tracking.store import Store, StoredRun, seal_state

CONTENTS = "contents.json"
CONTENTS_BYTES = 2**27  # of a million runs


class Contents(BaseModel):
    """What belongs to a sweep: its runs, fingerprint -> name, and its run's artifacts, name -> sha256."""

    runs: dict[str, str]
    files: dict[str, str]


def find(store: Store, sweep: str) -> StoredRun | None:
    """Find the run of a sweep; one that was altered since it ended is as if it were not there."""
    parents = store.search(f"tags.sweep = '{sweep}' and tags.role = 'sweep'", ["attributes.start_time"])
    return next((run for run in parents if is_sound(store, run)), None)


def is_sound(store: Store, parent: StoredRun) -> bool:
    """Tell whether a sweep's seal fits, and its list; one that has not ended has neither."""
    try:
        store.artifact_uri(parent)
    except FileNotFoundError:
        return False
    fits = seal_state(parent)
    return fits == seals.UNSEALED or (fits == seals.SEALED and contents(store, parent) is not None)


def contents(store: Store, parent: StoredRun) -> Contents | None:
    """Read a sweep's list; None where it is missing, or not the one that was sealed, or not of this sweep."""
    try:
        content = store.artifact(parent, CONTENTS, CONTENTS_BYTES)
        listed = Contents.model_validate_json(content)
    except (FileNotFoundError, ValidationError):
        return None
    sealed = sha256(content).hexdigest() == parent.data.tags.get("seal_files")
    return listed if sealed and sweep_of(listed.runs) == parent.data.tags.get("sweep") else None


def sweep_of(fingerprints: Iterable[str]) -> str:
    """Identify the sweep of runs, as `sweep.sweep_id` does."""
    return fingerprint({"runs": sorted(fingerprints)})[:12]
