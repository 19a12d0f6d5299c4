"""The check that prepared data, by their summary, are those that params.yaml asks for."""

import json
from pathlib import Path

from pipeline.config.params import Data
from pipeline.errors import InputError, brief, printable, refuse
from pipeline.runs import outs
from pipeline.system.files import file_md5

DESCRIBED = ("features", "target", "split", "standardize")


def check_prepared(data: Data) -> list[int]:
    """Refuse prepared data of another table, other columns or another split.

    DVC prepares data again by itself; a stage run by hand would train on the old data and record the wrong source.

    Returns:
        the number of training rows of each split.

    Raises:
        InputError: the data differ; the message says how.
    """
    again = "run: dvc repro prepare"
    try:
        summary = json.loads(outs.SUMMARY.read_text(encoding="utf-8"))
        prepared = {key: summary[key] for key in DESCRIBED}
        md5, rows = summary["source_md5"], [int(count) for count in summary["train_rows"]]
    except FileNotFoundError as error:
        raise InputError(f"{outs.SUMMARY}: no such file; {again}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{outs.SUMMARY}: is malformed; {again}") from error
    wanted = data.model_dump() | {"split": data.split.model_dump(exclude_defaults=True)}
    faults = [
        f"data.{key}: {brief(prepared[key])}, and params.yaml has {brief(wanted[key])}"
        for key in DESCRIBED
        if prepared[key] != wanted[key]
    ]
    # After `dvc pull` of the outs alone the table is missing; that is no fault.
    source = Path(data.source)
    if source.is_file() and (found := file_md5(source)) != md5:
        faults.append(f"source_md5: {md5}, and {printable(source)} has {found}")
    refuse(str(outs.PREPARED.parent), [f"was prepared from other data: {fault}; {again}" for fault in faults])
    return rows
