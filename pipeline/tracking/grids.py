"""Which experiments of DVC belong to one grid, as `dvc exp run --queue -S train.epochs=100,200` queues them.

DVC keeps no word of it: it queues one experiment a combination, and runs each by itself. Does not import MLflow.
"""

import os
import re
from pathlib import Path

from pipeline.config.yaml import parse
from pipeline.errors import InputError
from pipeline.system import repository
from pipeline.tracking.values import flat

FILE = "params.yaml"


def grid() -> str:
    """Name the grid that this process's experiment belongs to; empty if it is no experiment.

    A grid that was given a name has experiments NAME-1, NAME-2, …; all of another change the same keys of its
    baseline's params.yaml, unless a value is the baseline's own: such a grid needs a name.

    Returns:
        what joins them, and the first digits of the baseline's commit: `NAME 1a2b3c4` or `train.epochs 1a2b3c4`.
    """
    name, baseline = os.environ.get("DVC_EXP_NAME"), os.environ.get("DVC_EXP_BASELINE_REV")
    if not name or not baseline:
        return ""
    numbered = re.fullmatch(r"(.+)-[1-9][0-9]*", name)
    joined = numbered[1] if numbered else ",".join(changed_keys(baseline))
    return f"{joined} {baseline[:7]}" if joined else ""


def changed_keys(baseline: str) -> list[str]:
    """List the keys of params.yaml whose values are not those of a commit; none if one of the two cannot be read."""
    before = repository.git("show", f"{baseline}:./{FILE}")
    try:
        texts = [before or "", Path(FILE).read_text(encoding="utf-8")]
        read = [parse(text, FILE) for text in texts]
    except (OSError, ValueError, InputError):
        return []
    old, new = (flat(one) if isinstance(one, dict) else {} for one in read)
    return sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
