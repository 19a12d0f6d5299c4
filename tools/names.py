"""Find classes of one name in two files of the package: `make lint` runs it, and it exits with 1 if there are any.

Functions of one name are told apart by their modules; `python tools/names.py functions` lists them.
"""

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "pipeline"
ALLOWED = frozenset({"Model"})  # each variant's
KINDS = {"classes": (ast.ClassDef,), "functions": (ast.FunctionDef, ast.AsyncFunctionDef)}


def defined(path: Path, kind: str) -> Iterator[str]:
    """Yield the public names of a file's classes or functions, without those inside others."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, KINDS[kind]) and not node.name.startswith("_"):
            yield node.name


def repeated(kind: str, package: Path = PACKAGE) -> dict[str, list[str]]:
    """Return the names that several files define, each with these files."""
    files = defaultdict(list)
    for path in sorted(package.rglob("*.py")):
        for name in defined(path, kind):
            files[name].append(path.relative_to(package).as_posix())
    return {name: where for name, where in sorted(files.items()) if len(where) > 1 and name not in ALLOWED}


def main(kind: str = "classes") -> None:
    """Print the repeated names."""
    found = repeated(kind)
    for name, where in found.items():
        print(f"{name}: is defined in {', '.join(where)}")
    sys.exit(bool(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
