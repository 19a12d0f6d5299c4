"""params.yaml as DVC's -S would change it: DVC's own parser, applied to a copy."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.config.params import Params, check, load
from pipeline.config.yaml import parse
from pipeline.errors import InputError

FILE = "params.yaml"


def apply(given: Sequence[str]) -> list[tuple[str, Params]]:
    """Return the params of each experiment that `dvc exp run` would run with these values of -S, and what changes.

    A choice such as `train.epochs=100,200` gives an experiment for each combination, as --queue does.

    Raises:
        InputError: DVC refuses an override, or the params that it gives are wrong.
    """
    if not given:
        return [("", load())]
    from dvc.exceptions import DvcException  # noqa: PLC0415 - DVC and hydra take 0.5 s
    from dvc.utils.cli_parse import to_path_overrides  # noqa: PLC0415
    from dvc.utils.hydra import get_hydra_sweeps  # noqa: PLC0415
    from hydra.errors import HydraException  # noqa: PLC0415

    try:
        by_path = to_path_overrides(given)
        if others := by_path.keys() - {FILE}:
            raise InputError(f"-S: got a key of {min(others)}, takes those of {FILE}")
        return [(" ".join(one[FILE]), _changed(one[FILE])) for one in get_hydra_sweeps(by_path)]
    except (DvcException, HydraException) as error:
        why = " ".join(str(error.__cause__ or error).split())
        raise InputError(f"-S {' -S '.join(given)}: DVC refuses this: {why}") from error


def _changed(overrides: list[str]) -> Params:
    from dvc.utils.hydra import apply_overrides  # noqa: PLC0415

    with TemporaryDirectory() as folder:
        shutil.copy(FILE, path := Path(folder) / FILE)
        apply_overrides(path, overrides)
        return check(parse(path.read_text(encoding="utf-8"), FILE), FILE)
