"""`pipeline plan`: what a sweep would do, before it runs."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
from safetensors.numpy import load_file

from pipeline.commands import measure
from pipeline.config.axes import BatchSize
from pipeline.config.params import Params, check, load
from pipeline.config.yaml import parse
from pipeline.errors import InputError
from pipeline.evaluation.predictions import is_linear
from pipeline.execution import reuse, trainer
from pipeline.execution.checkpoints import Checkpoints
from pipeline.execution.choice import choose
from pipeline.execution.processes import Workers
from pipeline.runs import outs, rounding, sweep
from pipeline.runs.checked import check_prepared
from pipeline.runs.fingerprints import PACKAGE
from pipeline.runs.run import Run, curve_steps
from pipeline.system import repository
from pipeline.table.prepared import Prepared
from pipeline.table.raw import BAD_CELLS
from pipeline.tracking import queries
from pipeline.training import parameters
from pipeline.training.stacks import Stack

FILE = "params.yaml"
AS_DVC = {"DVC_STAGE": "train"}  # a stage that a person starts by hand reuses nothing


@dataclass(frozen=True)
class Beyond:
    """Learning rates of a batch size that are not below its largest stable one."""

    batch_size: BatchSize
    stable: float
    lrs: list[float]


@dataclass(frozen=True)
class Work:
    """What a sweep would train, and its cost.

    runs, stacks: their numbers. seconds: of training, in at most `workers` processes. whole: seconds of the sweep, from
    the stages' start to the last run's evaluation. bytes: of memory that the largest stage takes, without the table.
    available: free memory, in bytes.
    """

    runs: int
    stacks: int
    seconds: float
    whole: float
    workers: int
    bytes: int
    available: int


@dataclass(frozen=True)
class Plan:
    """What a sweep would do.

    sweep: its id. runs, fits: their numbers; for a search that proposes runs as it goes, those of the first round, as
    are all that follow. most: the most runs that the sweep may have. stored: runs in MLflow. known: runs whose records
    are in DVC's cache.
    """

    sweep: str
    variants: list[str]
    runs: int
    most: int
    fits: int
    stored: int
    known: int
    training: Work
    beyond: list[Beyond]


def plan(params: Params) -> Plan:
    """Plan a sweep.

    Raises:
        InputError: the table cannot be prepared, a search needs data that are not prepared yet, or the store fails.
    """
    with prepared_for(params) as path:
        runs, prepared, table = runs_of(params, path), Prepared.load(path), rounding.table(load_file(path))
        identity = sweep.sweep_id(runs, sweep.specification(params, path))
    by_variant = {variant: list(own) for variant, own in groupby(runs, lambda run: run.variant)}
    nested = params.train.nested
    found = {variant: reuse.recall(own, AS_DVC, nested) for variant, own in by_variant.items()}
    lacking = queries.health(params.track.experiment, {run.fingerprint: run.name for run in runs}).lacking
    every = prepared.with_pairs(params.data.standardize) if nested else prepared
    planned = {variant: trainer.plan(own, found[variant], prepared, every) for variant, own in by_variant.items()}
    known = sum(map(len, found.values()))
    return Plan(
        identity,
        list(by_variant),
        len(runs),
        most_runs(params, len(runs)),
        len(runs) * len(every.train),
        len(runs) - len(lacking),
        known,
        training(by_variant, len(runs) - known, list(filter(None, planned.values())), every, params.track.points),
        list(beyond(runs, table, prepared.X.shape[1])),
    )


def runs_of(params: Params, prepared: Path) -> list[Run]:
    """List the runs of a sweep; for a search that proposes runs as it goes, those of the first round."""
    if runs := sweep.plan(params, prepared):
        return runs
    if prepared != outs.PREPARED:
        raise InputError("a search cannot be planned before its data are prepared; run: dvc repro prepare")
    from pipeline.search.stage import Searcher  # noqa: PLC0415 - loads Optuna

    return [run for variant in params.variants for run in Searcher(params, variant).likely()]


def most_runs(params: Params, listed: int) -> int:
    """Return the most runs that a sweep may have, `listed` of which are known."""
    trials = len(params.variants) * params.sweep.search.trials * len(params.sweep.seed)
    return trials if params.sweep.search.method in sweep.PROPOSED else listed


def training(
    by_variant: Mapping[str, Sequence[Run]],
    missing: int,
    planned: Sequence[Sequence[Stack]],
    prepared: Prepared,
    points: int,
) -> Work:
    """Estimate the cost of training the missing runs; DVC runs one variant's stage after another's."""
    runs = [run for own in by_variant.values() for run in own]
    counts = [len(curve_steps(run.epochs, points)) for run in runs]
    workers = [workers_for(own, prepared) for own in planned]
    seconds = sum(measure.seconds(own, prepared, count) for own, count in zip(planned, workers, strict=True))
    file = repository.sqlite_file(repository.store_uri())
    # DVC with prepare counts as one stage, evaluate as one, and making a store's tables as two.
    stages = len(planned) + 2 + 2 * bool(file and not file.exists())
    return Work(
        missing,
        sum(map(len, planned)),
        seconds,
        seconds + measure.rest(stages, len(runs), sum(counts), planned[0], prepared) if planned else 0.0,
        max(workers, default=0),
        measure.memory(list(by_variant.values()), len(prepared.train), max(counts), max(workers, default=0)),
        psutil.virtual_memory().available,
    )


def workers_for(planned: Sequence[Stack], prepared: Prepared) -> int:
    """Return the number of processes that would train a stage's stacks."""
    engine = choose(os.environ, planned, prepared, Checkpoints())
    return min(engine.count, len(planned)) if isinstance(engine, Workers) else 1


def beyond(runs: Sequence[Run], table: rounding.Table, k: int) -> Iterator[Beyond]:
    """List the learning rates of linear variants at which training may diverge."""
    lrs: dict[BatchSize, list[float]] = {}
    for run in runs:
        # Only for plain gradient descent of a linear model's mse is the stable learning rate known.
        bounded = not rounding.unlike_plain(run) and is_linear(parameters.shapes(run.variant, k))
        if bounded and run.lr not in lrs.setdefault(run.batch_size, []):
            lrs[run.batch_size].append(run.lr)
    for run in {run.batch_size: run for run in runs if run.batch_size in lrs}.values():
        stable = rounding.largest_stable_lr(run, table)
        if high := [lr for lr in lrs[run.batch_size] if lr >= stable]:
            yield Beyond(run.batch_size, stable, high)


def overridden(given: Sequence[str]) -> list[tuple[str, Params]]:
    """Return the overrides and params of each experiment that `dvc exp run` would run with these values of -S.

    A choice such as `train.epochs=100,200` gives an experiment for each combination, as with --queue.

    Raises:
        InputError: DVC refuses an override, or the params that result are wrong.
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
            raise InputError(f"-S: got a key of {min(others)}, takes the keys of {FILE}")
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


@contextmanager
def prepared_for(params: Params) -> Iterator[Path]:
    """Yield the path of prepared data that fit the params: the workspace's, or else temporary ones."""
    try:
        check_prepared(params.data)
    except InputError:
        with TemporaryDirectory() as folder:
            _prepare(params, Path(folder))
            yield Path(folder) / outs.PREPARED
    else:
        yield outs.PREPARED


def _prepare(params: Params, folder: Path) -> None:
    source = str(Path(params.data.source).resolve())
    values = params.model_dump() | {"data": params.data.model_dump() | {"source": source}}
    (folder / "params.yaml").write_text(json.dumps(values), encoding="utf-8")  # JSON is YAML
    command, package = [sys.executable, "-m", "pipeline.prepare"], str(PACKAGE.parent)
    own = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))}
    done = subprocess.run(command, cwd=folder, env=own, capture_output=True, text=True, errors="replace", check=False)
    if (folder / BAD_CELLS).exists():
        (repository.root() / BAD_CELLS).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / BAD_CELLS, repository.root() / BAD_CELLS)
    print(done.stderr.replace(str(folder.resolve()), str(repository.root())), end="", file=sys.stderr)
    if done.returncode != 0:
        raise InputError(f"{params.data.source}: cannot be prepared; see above")
