"""Fingerprints, which join DVC's outs to MLflow's runs, and the source code that they cover."""

import ast
import hashlib
import io
import json
import tokenize
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from pipeline.runs.run import Run

PACKAGE = Path(__file__).parents[1]
# What determines a run's result, beside its variant's file. The rest of train's deps in dvc.yaml writes its outs, or
# chooses the runs of a search.
SOURCES = ("runs/run.py", "system/kernels.py", "table/prepared.py", "training/*.py")
# What chooses the runs of a search.
SEARCH = ("evaluation/outcome.py", "evaluation/predictions.py", "metrics.py", "search/*.py")


def left_fingerprint(run: Run, left: str) -> str:
    """Return the fingerprint of a run that ended early, as `left` says; another than that of the whole run."""
    return fingerprint({"run": run.fingerprint, "left": left})


def run_fingerprint(data: str, code: str, values: Mapping[str, Any]) -> str:
    """Hash what determines a run's result: the md5 of its data, the hash of its code, and what configures it."""
    used = {name: value for name, value in values.items() if value is not None}
    return fingerprint({"data": data, "code": code, **used})


def fingerprint(values: Mapping[str, object]) -> str:
    """Hash everything that determines a result; the same values give the same 32 hexadecimal digits everywhere."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:32]


def code_hash(variant: str, package: Path = PACKAGE) -> str:
    """Hash the source that determines the results of a variant's runs, without comments and docstrings.

    Raises:
        FileNotFoundError: there is no such variant.
    """
    return _hash([*_files(SOURCES, package), package / f"variants/{variant}.py"], package)


def search_hash(package: Path = PACKAGE) -> str:
    """Hash the source that chooses the runs of a search, without comments and docstrings."""
    return _hash(_files(SEARCH, package), package)


def _files(patterns: Iterable[str], package: Path) -> list[Path]:
    return [path for pattern in patterns for path in package.glob(pattern)]


def _hash(files: Iterable[Path], package: Path) -> str:
    return fingerprint({path.relative_to(package).as_posix(): bare(path.read_text(encoding="utf-8")) for path in files})


Span = tuple[int, int]  # characters from, to
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@cache
def bare(source: str) -> str:
    """Cut comments, docstrings and blank lines out of a source text.

    It works on spans of the text, which are the same in Python 3.11 to 3.14; trees and tokens are not. A multi-line
    string, which may contain blank lines, is written on one line, as JSON.
    """
    starts = [0, *accumulate(len(line) + 1 for line in source.split("\n"))]
    comments, strings = _comments_and_strings(source, starts)
    docstrings = _docstrings(source, starts)
    pieces, position = [], 0
    for span in sorted({*comments, *strings, *docstrings}, key=lambda span: (span[0], -span[1])):
        start, end = span
        if end > position:  # else it is inside a docstring written as several strings
            pieces.append(source[position:start])
            if span not in docstrings and span not in comments:
                pieces.append(f"${json.dumps(source[start:end])}")  # outside strings, Python code has no $
            position = end
    lines = "".join([*pieces, source[position:]]).split("\n")
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _comments_and_strings(source: str, starts: list[int]) -> tuple[set[Span], set[Span]]:
    """Find the spans of all comments and of all multi-line strings."""
    lines = source.split("\n")
    comments, strings, opened = set[Span](), set[Span](), list[int]()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        (row, column), (end_row, end_column) = token.start, token.end
        start, end = starts[row - 1] + column, starts[end_row - 1] + end_column
        # From Python 3.12 on, an f-string is many tokens, which may include other strings; before, it is one.
        match tokenize.tok_name[token.type]:
            case "FSTRING_START":
                opened.append(start)
            case "FSTRING_END":
                strings.add((opened.pop(), end))
            case "STRING":
                strings.add((start, end))
            case "COMMENT":
                comments.add((start, starts[row - 1] + len(lines[row - 1])))
    return comments, {(start, end) for start, end in strings if "\n" in source[start:end]}


def _docstrings(source: str, starts: list[int]) -> set[Span]:
    lines = source.split("\n")

    def position(row: int, column: int) -> int:  # ast counts bytes
        return starts[row - 1] + len(lines[row - 1].encode()[:column].decode())

    spans = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            text = node.body[0]
            assert text.end_lineno is not None
            assert text.end_col_offset is not None
            spans.add((position(text.lineno, text.col_offset), position(text.end_lineno, text.end_col_offset)))
    return spans
