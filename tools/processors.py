"""Train and evaluate on this processor and on emulated ones, and compare every byte of the outs.

`make processors` runs it. Debian's qemu-user emulates the processors; numpy and torch choose their kernels there as on
real ones. Nehalem has no AVX2, and is compared with this processor on the path without AVX2.
"""

import argparse
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from conftest import copy_checkout, environment
from ruamel.yaml import YAML

EMULATOR = "qemu-x86_64"
WITH_AVX2 = ("Haswell", "EPYC", "Skylake-Client")  # Intel, AMD, Intel
WITHOUT = "Nehalem"
OUTS = ("data/prepared", "data/trained", "data/evaluated", "plots", "leaderboard.csv", "metrics.json", "report.html")
# name: rows (0: those of scores.csv), features, batch sizes, learning rates, epochs. For products of 400 numbers or
# more, torch uses MKL. Only several learning rates draw all pictures; the largest of `rates` and `steep` diverges.
TABLES = {
    "default": (0, 3, [1, 2, 4, "full"], [1e-5], 20),
    "rates": (0, 3, [1, 2, "full"], [1e-6, 3e-6, 1e-5, 1e-3], 40),
    "tall": (2000, 8, [64, 500], [1e-3], 3),
    "steep": (1200, 8, [64, "full"], [1e-3, 1e-2, 1e1], 40),
    "wide": (60, 120, [32, "full"], [1e-3], 10),
    "both": (900, 60, [128, "full"], [1e-3], 3),
    "axes": (30, 4, [8, "full"], [1e-2], 20),
}
# What a table's sweep has besides.
AXES: dict[str, dict[str, object]] = {
    "axes": {
        "optimizer": ["nesterov", "adam"],
        "schedule": ["constant", "cosine"],
        "loss": ["mse", "huber"],
        "weight_decay": [0.01],
        "init": ["default"],
    }
}


def make_repository(folder: Path, table: str) -> Path:
    """Make a checkout with the sweep of one of TABLES."""
    folder.mkdir(parents=True)
    copy_checkout(folder)
    rows, k, sizes, rates, epochs = TABLES[table]
    params: dict[str, Any] = YAML(typ="safe", pure=True).load(folder / "params.yaml")
    params["train"]["epochs"] = epochs
    params["sweep"] = {"batch_size": sizes, "lr": rates, "seed": [1, 2], **AXES.get(table, {})}
    if rows:
        names = [f"x{i}" for i in range(k)]
        chance = random.Random(table)
        cells = [[str(chance.randrange(-3000, 3000) / 1000) for _ in range(k + 1)] for _ in range(rows)]
        (folder / "table.csv").write_text("\n".join(map(",".join, [[*names, "y"], *cells])) + "\n")
        params["data"] |= {"source": "table.csv", "features": names, "target": "y", "standardize": True}
        params["data"]["split"]["folds"] = 3
    YAML(typ="safe", pure=True).dump(params, folder / "params.yaml")
    return folder


def run_stages() -> None:
    """Run all stages in this process, in the working folder, without a store."""
    from pipeline import evaluate, prepare  # noqa: PLC0415
    from pipeline.config.params import load  # noqa: PLC0415
    from pipeline.evaluation import leaderboard, outcome  # noqa: PLC0415
    from pipeline.execution.engine import Here  # noqa: PLC0415
    from pipeline.execution.trainer import Trainer  # noqa: PLC0415
    from pipeline.runs import outs, records, sweep  # noqa: PLC0415
    from pipeline.table.prepared import Prepared  # noqa: PLC0415

    prepare.main()
    params = load()
    evaluated = []
    for variant in params.variants:
        runs = [run for run in sweep.plan(params) if run.variant == variant]
        prepared = Prepared.load(outs.PREPARED)
        trained = Trainer(prepared, Here(prepared)).train(runs)
        records.write(outs.TRAINED / variant, trained)
        prepared = Prepared.load(outs.PREPARED)
        evaluated += [replace(record, metrics=outcome.metrics(record, prepared)) for record in trained]
    board = leaderboard.rank(evaluated, params.evaluate.metric)
    evaluate.write(evaluated, board, prepared, params)


def outs_on(processor: str, table: str, folder: Path, **extra: str) -> dict[str, bytes]:
    """Run the stages on a processor, or on this one if its name is empty; return every out's bytes."""
    repository = make_repository(folder / f"{processor or 'native'}{'-'.join(extra.values())}" / table, table)
    emulator = [EMULATOR, "-cpu", processor] if processor else []
    command = [*emulator, os.path.realpath(sys.executable), str(Path(__file__).resolve()), "--stages"]
    packages = os.pathsep.join([str(repository), str(Path(__file__).parent.resolve()), *sys.path])
    result = subprocess.run(
        command, cwd=repository, env=environment(PYTHONPATH=packages, **extra), capture_output=True, check=False
    )
    if result.returncode != 0:
        sys.exit(f"{processor or 'this processor'}, {table}: ended with {result.returncode}\n{result.stderr.decode()}")
    files = [path for name in OUTS for path in (repository / name, *(repository / name).rglob("*")) if path.is_file()]
    return {str(path.relative_to(repository)): path.read_bytes() for path in files}


def main() -> None:
    """Compare the outs; exit with 1 if a byte differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stages", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--processors", default=",".join([*WITH_AVX2, WITHOUT]), help="default: %(default)s")
    parser.add_argument("--tables", default=",".join(TABLES), help="default: %(default)s")
    options = parser.parse_args()
    if options.stages:
        run_stages()
        return
    if platform.machine() != "x86_64" or not shutil.which(EMULATOR):
        sys.exit(f"{EMULATOR}: not on PATH of an x86-64 machine; on Debian or Ubuntu: apt-get install qemu-user")
    total, differing = 0, 0
    with tempfile.TemporaryDirectory() as temporary:
        for table in options.tables.split(","):
            here: dict[str, dict[str, bytes]] = {}
            for processor in options.processors.split(","):
                path = {"PIPELINE_KERNELS": "default"} if processor == WITHOUT else {}
                key = str(path)
                if key not in here:
                    here[key] = outs_on("", table, Path(temporary), **path)
                begin = time.monotonic()
                there = outs_on(processor, table, Path(temporary))
                names = sorted({*here[key], *there})
                wrong = [name for name in names if here[key].get(name) != there.get(name)]
                size = sum(map(len, here[key].values()))
                total, differing = total + size, differing + len(wrong)
                verdict = f"differs: {', '.join(wrong)}" if wrong else "the same"
                seconds = time.monotonic() - begin
                print(
                    f"{table:8} {processor:15} {len(names):3} files, {size:9,} bytes, {seconds:4.0f} s  {verdict}",
                    flush=True,
                )
    print(f"{total:,} bytes compared, {differing} files differ")
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()
