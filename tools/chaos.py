"""Kill the pipeline at random moments, run it again, and check that nothing is lost, stored twice or wrong.

After every other kill a bare `dvc repro` resumes, which fails if DVC was killed while it wrote a lock file;
`make repro` resumes after the others, and after a failed bare one.

`make chaos` kills 50 times, starts sixteen stages at once 20 times and alters 40 records; it prints the tally.
Tests do each a few times.
"""

import argparse
import hashlib
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import alterations
import psutil
from conftest import copy_checkout, environment, run
from mlflow import MlflowClient

from pipeline.commands import locks

OUTS = (
    "data/prepared",
    "data/trained",
    "data/evaluated",
    "leaderboard.csv",
    "metrics.json",
    "plots",
    "report.html",
    "dvc.lock",
)
TARGETS = ("dvc", "stage", "both")
COMMANDS = {"dvc repro": ["dvc", "repro"], "make repro": ["make", "--assume-old", "setup", "repro"]}
STOPPED = "stopped at a lock file"


def prepare(folder: Path, variants: str = "handwritten, matrix, linear, module") -> Path:
    """Make a repository with a small sweep: 4 runs of 50 epochs per variant."""
    folder.mkdir()
    copy_checkout(folder)
    params = folder / "params.yaml"
    text = params.read_text().replace("epochs: 1000", "epochs: 50").replace("- 1\n  - 2\n  - 3\n", "- 1\n")
    params.write_text(re.sub("variants:\n(- .*\n)+", f"variants: [{variants}]\n", text))
    run("git", "commit", "--quiet", "--all", "--message", "A small sweep", cwd=folder)
    return folder


def wipe(repository: Path) -> None:
    """Restore a repository to its state before the first run."""
    run("git", "checkout", "--quiet", ".", cwd=repository)
    run("git", "clean", "--quiet", "-dffx", cwd=repository)


def outs(repository: Path) -> dict[str, str]:
    """Hash every out."""
    files = [path for name in OUTS for path in [repository / name, *(repository / name).rglob("*")] if path.is_file()]
    return {str(path.relative_to(repository)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def kill_at(repository: Path, moment: float, target: str) -> str:
    """Start `dvc repro`; kill it, its stage, or both and the storing process; return the stage that was hit."""
    dvc = subprocess.Popen(
        ["dvc", "repro"],
        cwd=repository,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    time.sleep(moment)
    try:
        below = psutil.Process(dvc.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return "done"
    stages = {process: words[2] for process in below if (words := _words(process)) and "pipeline." in words[2]}
    doomed = [process for process, name in stages.items() if target == "both" or name != "pipeline.tracking"]
    if target in {"dvc", "both"} or not doomed:
        doomed = [psutil.Process(dvc.pid), *(doomed if target == "both" else [])]
    hit = next((name for name in stages.values() if name != "pipeline.tracking"), "dvc alone")
    for process in doomed:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    dvc.wait()
    return hit


def _words(process: psutil.Process) -> list[str]:
    try:
        words = process.cmdline()
    except psutil.Error:
        return []
    return words if len(words) > 2 and words[1] == "-m" else []


def faults(repository: Path, expected: dict[str, str], count: int) -> list[str]:
    """List what is wrong after recovery with the outs, and with the store, which should have `count` runs."""
    here = outs(repository)
    found = [f"{path}: differs" for path in sorted({*here, *expected}) if here.get(path) != expected.get(path)]
    return found + store_faults(f"sqlite:///{repository / 'mlflow.db'}", count)


def store_faults(uri: str, count: int, metric: str = "cv/mse") -> list[str]:
    """List what is wrong in a store that should have `count` runs of 50 epochs, each once, complete and finished."""
    client = MlflowClient(uri)
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    everything = client.search_runs(ids, max_results=1000)
    runs = [one for one in everything if one.data.tags["role"] == "run"]
    times = Counter(one.data.tags["fingerprint"] for one in runs)
    found = [f"{fingerprint}: stored {number} times" for fingerprint, number in times.items() if number != 1]
    if (len(runs), len(everything)) != (count, count + 1):
        found.append(f"{len(runs)} runs and {len(everything) - len(runs)} parents in the store")
    done = {"FINISHED"} if metric == "cv/mse" else {"FINISHED", "SCHEDULED"}
    found += [f"{one.info.run_name}: says {one.info.status}" for one in everything if one.info.status not in done]
    for one in runs:
        parts = {"params": len(one.data.params) > 10, "weights": "weights_md5" in one.data.tags}
        parts["datasets"] = len(one.inputs.dataset_inputs) == 2
        found += [f"{one.info.run_name}: lacks its {part}" for part, there in parts.items() if not there]
        points = client.get_metric_history(one.info.run_id, "train/mse")
        steps = Counter(point.step for point in points)
        if set(steps) != set(range(50)) or max(steps.values()) > 1 or metric not in one.data.metrics:
            found.append(f"{one.info.run_name}: has {len(points)} points, metrics {sorted(one.data.metrics)}")
    return found


def start_at_once(repository: Path, folder: Path, processes: int) -> list[str]:
    """Start stages of one sweep together without a store; list what went wrong."""
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    command = [sys.executable, "-m", "pipeline.train", "matrix"]
    started = [
        subprocess.Popen(command, cwd=repository, env=environment(MLFLOW_TRACKING_URI=uri), stderr=subprocess.PIPE)
        for _ in range(processes)
    ]
    errors = [process.communicate()[1].decode() for process in started]
    failed = [error for process, error in zip(started, errors, strict=True) if process.returncode or "WARNING" in error]
    return failed + store_faults(uri, 4, "train/mse")


def recover(repository: Path, command: Sequence[str], expected: dict[str, str], count: int) -> list[str]:
    """Run a command after a kill; list what is wrong afterwards, or where the command stopped."""
    again = run(*command, cwd=repository, check=False)
    if again.returncode == 0:
        return faults(repository, expected, count)
    readable = locks.lock_is_readable(repository) and locks.rwlock_is_readable(repository)
    return [again.stdout + again.stderr if readable else STOPPED]


def tally(repository: Path, kills: int, seed: int, count: int = 16) -> list[str]:
    """Kill `kills` times, print each outcome and how many kills each command recovered; return what went wrong."""
    begin = time.monotonic()
    run("dvc", "repro", cwd=repository)
    length, expected = time.monotonic() - begin, outs(repository)
    chance, wrong = random.Random(seed), []
    tried, recovered = Counter[str](), Counter[str]()
    for number in range(kills):
        wipe(repository)
        moment, target = chance.uniform(0.5, length), TARGETS[number % len(TARGETS)]
        hit, outcomes = kill_at(repository, moment, target), []
        for name, command in list(COMMANDS.items())[number % 2 :]:
            found = recover(repository, command, expected, count)
            tried[name] += 1
            recovered[name] += not found
            outcomes.append(f"{name}: {'; '.join(found) or 'recovered'}")
            if found != [STOPPED]:
                break
        print(f"{number + 1:3} after {moment:5.1f} s, {target:5} in {hit:18} {', then '.join(outcomes)}", flush=True)
        wrong += found[:1]
    for name in COMMANDS:
        print(f"{name} recovered {recovered[name]} of {tried[name]} kills", flush=True)
    return wrong


def main() -> None:
    """Kill, start at once and alter, as often as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--starts", type=int, default=20, help="how often sixteen stages start together")
    parser.add_argument("--alterations", type=int, default=40, help="how many recorded things are altered")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    wrong = []
    with tempfile.TemporaryDirectory() as temporary:
        repository = prepare(Path(temporary) / "repository")
        if options.kills:
            wrong += tally(repository, options.kills, options.seed)
        wipe(repository)
        run("python", "-m", "pipeline.prepare", cwd=repository)
        for number in range(options.starts):
            (folder := Path(temporary) / f"start {number}").mkdir()
            found = start_at_once(repository, folder, 16)
            print(f"{number + 1:3} sixteen at once: {'; '.join(found) or 'each run once'}", flush=True)
            wrong += found[:1]
        if options.alterations:
            recorded = prepare(Path(temporary) / "recorded", "matrix, linear")
            (recorded / "README.md").write_text("changed, so that the record has a patch\n")
            run("dvc", "repro", cwd=recorded)
            (scratch := Path(temporary) / "stores").mkdir()
            missed = alterations.tally(recorded, scratch, options.alterations, options.seed)
            print(f"{options.alterations - len(missed)} of {options.alterations} alterations found", flush=True)
            wrong += missed
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
