"""Install the newest release of every direct dependency, run the tests, and say what broke.

`make newest` runs it, as `python tools/newest.py TORCH_INDEX`. It makes .newest: a clone of the last commit with an
environment of its own, whose constraints.txt pins the newest releases that pip can install together. Torch keeps its
pin where TORCH_INDEX, PyTorch's own for the CPU, does not answer: pip would take the build for CUDA, several GB.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch_build

REPOSITORY = Path(__file__).parents[1]
FOLDER = REPOSITORY / ".newest"
CONSTRAINTS = FOLDER / "constraints.txt"
LINTERS = (("ruff", "format", "--check", "."), ("ruff", "check", "."), ("mypy",))
PIN = re.compile(r"^([\w.-]+)==(\S+)$", re.MULTILINE)


class Dependency(NamedTuple):
    """A direct dependency: its version in constraints.txt, its newest release, and the version that pip takes."""

    name: str
    pinned: str
    newest: str
    taken: str


def normalized(name: str) -> str:
    """Return a package's name in its normalized spelling."""
    return re.sub(r"[-_.]+", "-", name).lower()


def direct(pyproject: str) -> list[str]:
    """List the packages that a pyproject.toml names itself, those for developers too."""
    project = tomllib.loads(pyproject)["project"]
    named = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    return sorted({normalized(re.split(r"[^\w.-]", one, maxsplit=1)[0]) for one in named})


def pins(constraints: str) -> dict[str, str]:
    """Read constraints.txt, package -> version."""
    return {normalized(name): version for name, version in PIN.findall(constraints)}


def moved(constraints: str, taken: Mapping[str, str]) -> str:
    """Return constraints.txt with the versions that pip takes; packages that it does not need here keep theirs."""
    known = pins(constraints)
    lines = PIN.sub(lambda pin: f"{pin[1]}=={taken.get(normalized(pin[1]), pin[2])}", constraints).splitlines()
    added = [f"{name}=={version}" for name, version in taken.items() if name not in known]
    return "\n".join(sorted([*lines, *added], key=str.lower)) + "\n"


def failures(output: str) -> list[str]:
    """List the tests that failed, from pytest's short summary."""
    return re.findall(r"^(?:FAILED|ERROR) (\S+?\.py(?:::[\w:]+(?:\[.*?\])?)?)(?: - .*)?$", output, re.MULTILINE)


def call(
    *command: str | Path, venv: Path = FOLDER / ".venv", folder: Path = FOLDER
) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder with an environment, and without the pins that the Makefile hands to pip."""
    own = {key: value for key, value in os.environ.items() if key not in {"PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT"}}
    own |= {"PATH": os.pathsep.join([str(venv / "bin"), own["PATH"]]), "PYTHONPATH": str(FOLDER)}
    return subprocess.run(command, cwd=folder, env=own, capture_output=True, text=True, check=False)


def demand(*command: str | Path, folder: Path = FOLDER) -> str:
    """Run a command; return its output.

    Raises:
        SystemExit: it failed.
    """
    done = call(*command, folder=folder)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def resolve(index: str, pinned: str) -> dict[str, str]:
    """Ask pip which releases it would install together, package -> version.

    Args:
        index: of torch's builds for the CPU.
        pinned: torch's version, which it keeps if the index does not answer.
    """
    newer = sys.platform != "linux" or torch_build.answers(index)
    torch = ["torch", "--extra-index-url", index] if newer else [f"torch=={pinned}"]
    asked = ["--dry-run", "--ignore-installed", "--quiet", "--report", "-", ".[dev]", *torch]
    found = json.loads(demand(sys.executable, "-m", "pip", "install", *asked))["install"]
    about = [one["metadata"] for one in found if "dir_info" not in one["download_info"]]
    return {normalized(one["name"]): one["version"].partition("+")[0] for one in about}


def install(index: str) -> list[Dependency]:
    """Make the clone and its environment; return the direct dependencies."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    demand("git", "clone", "--quiet", REPOSITORY, FOLDER, folder=REPOSITORY)
    constraints = CONSTRAINTS.read_text(encoding="utf-8")
    pinned = pins(constraints)
    taken = resolve(index, pinned["torch"])
    CONSTRAINTS.write_text(moved(constraints, taken), encoding="utf-8")
    demand("make", "setup", f"PYTHON={sys.executable}", f"TORCH_INDEX={index}")
    names = direct((FOLDER / "pyproject.toml").read_text(encoding="utf-8"))
    return [Dependency(name, pinned[name], newest(name), taken[name]) for name in names]


def newest(name: str) -> str:
    """Ask pip for a package's newest release; ? if it knows none."""
    said = call("python", "-m", "pip", "index", "versions", name).stdout
    released = re.search(r"^\S+ \((\S+)\)$", said, re.MULTILINE)
    return released[1].partition("+")[0] if released else "?"


def why_not(one: Dependency) -> str:
    """Say why pip does not take a dependency's newest release; empty if it does."""
    if one.newest in {one.taken, "?"}:
        return ""
    if one.name == "torch":
        return "no build for the CPU is within reach"
    said = call("python", "-m", "pip", "install", "--dry-run", "--quiet", f"{one.name}=={one.newest}").stderr
    errors = re.findall(r"^ERROR: (.+?)(?: \(from versions:.*\))?$", said, re.MULTILINE)
    return errors[0] if errors else "pyproject.toml or another package asks for an older one"


def table(dependencies: Sequence[Dependency]) -> list[str]:
    """Lay out the dependencies that are not pinned at their newest release."""
    rows = [one for one in dependencies if not one.pinned == one.newest == one.taken]
    cells = [("package", "pinned", "newest", "taken"), *rows]
    widths = [max(map(len, column)) + 2 for column in zip(*cells, strict=True)]
    lines = ["".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)) for row in cells]
    reasons = ["", *map(why_not, rows)]
    same = f"{len(dependencies) - len(rows)} of {len(dependencies)} are pinned at their newest release"
    return [*(f"{line}{reason}".rstrip() for line, reason in zip(lines, reasons, strict=True)), same]


def faults(venv: Path, tests: Sequence[str] = ()) -> dict[str, str]:
    """Run the linters and tests of the clone with an environment; return what fails, name -> output.

    Args:
        venv: the environment.
        tests: those to run; none stands for all.
    """
    linted = [call(*command, venv=venv) for command in LINTERS]
    found = {" ".join(map(str, one.args)): one.stdout[-2000:] for one in linted if one.returncode != 0}
    tested = call("python", "-m", "pytest", "-rfE", *tests, venv=venv)
    failed = dict.fromkeys(failures(tested.stdout), "")
    nothing_ran = tested.returncode != 0 and not failed
    return found | failed | ({"pytest": f"{tested.stdout[-2000:]}{tested.stderr[-2000:]}"} if nothing_ran else {})


def main(index: str) -> None:
    """Install, test, and print what broke; exit with 1 if anything did."""
    print("\n".join(table(install(index))), flush=True)
    found, known = faults(FOLDER / ".venv"), dict[str, str]()
    if found:  # with the pins, too?
        taken = CONSTRAINTS.read_text(encoding="utf-8")
        demand("git", "checkout", "--quiet", CONSTRAINTS.name)
        known = faults(REPOSITORY / ".venv", [one for one in found if one.startswith("tests/")])
        CONSTRAINTS.write_text(taken, encoding="utf-8")
    for name, output in found.items():
        print(f"{'fails with the pins too' if name in known else 'breaks'}: {name}\n{output}".rstrip())
    broken = found.keys() - known.keys()
    print(f"{len(broken)} checks and tests break; to take these releases: cp {CONSTRAINTS} constraints.txt")
    sys.exit(bool(broken))


if __name__ == "__main__":
    main(*sys.argv[1:])
