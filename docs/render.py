"""Fill the guide's blocks, from the sources and from real runs: `make docs`.

A block after `<!-- code: FILE -->` holds that file; after `<!-- code: FILE NAME -->` one function or class of it. A
block of kind `console` holds commands, after `$ `, and what the last of them prints; all run in order in a fresh clone.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import screenshots
from conftest import copy_checkout, environment

REPOSITORY = Path(__file__).parent.parent
PAGES = ("docs/guide.md", "docs/guide.ko.md")
CODE = re.compile(r"^(<!-- code: (\S+)(?: (\S+))? -->\n```python\n).*?^```$", re.MULTILINE | re.DOTALL)
CONSOLE = re.compile(r"^```console\n((?:\$ [^\n]*\n)+)(.*?)^```$", re.MULTILINE | re.DOTALL)


def code(path: str, name: str | None = None) -> str:
    """Return a file of the repository, or one function or class of it."""
    text = (REPOSITORY / path).read_text(encoding="utf-8")
    if name is None:
        return text
    [node] = [one for one in ast.parse(text).body if getattr(one, "name", None) == name]
    return "".join(text.splitlines(keepends=True)[node.lineno - 1 : node.end_lineno])


def with_code(page: str) -> str:
    """Fill a page's blocks of code."""
    return CODE.sub(lambda block: f"{block[1]}{code(block[2], block[3])}```", page)


def outputs(page: str) -> dict[tuple[str, ...], str]:
    """List a page's commands, block by block, and the output that it shows for each block."""
    return {commands(block[1]): block[2] for block in CONSOLE.finditer(page)}


def commands(lines: str) -> tuple[str, ...]:
    """Take the commands from the lines of a block that begin with `$ `."""
    return tuple(line.removeprefix("$ ") for line in lines.splitlines())


def with_outputs(page: str, output: Callable[[tuple[str, ...]], str]) -> str:
    """Fill a page's console blocks with what `output` returns for their commands."""
    return CONSOLE.sub(lambda block: f"```console\n{block[1]}{output(commands(block[1]))}```", page)


def run(block: Sequence[str], folder: Path) -> str:
    """Run a block's commands in a clone; return what the last one prints, without colours, 110 columns wide."""
    plain = environment(COLUMNS="110", NO_COLOR="1", TERM="dumb")
    printed = ""
    for command in block:
        done = subprocess.run(
            ["bash", "-euc", command], cwd=folder, env=plain, capture_output=True, text=True, check=False
        )
        if done.returncode:
            sys.exit(f"docs: `{command}` ended with {done.returncode}\n{done.stdout}{done.stderr}")
        printed = done.stdout
    return "".join(f"{line.rstrip()}\n" for line in printed.splitlines())


def fill(clone: Path) -> None:
    """Fill every page; a block that two pages share runs once."""
    run(["dvc repro prepare"], clone)  # what the guide begins with
    printed: dict[tuple[str, ...], str] = {}
    for name in PAGES:
        page = with_code((REPOSITORY / name).read_text(encoding="utf-8"))
        for block in outputs(page):
            if block not in printed:
                print(f"docs: {'; '.join(block)}", flush=True)
                printed[block] = run(block, clone)
        (REPOSITORY / name).write_text(with_outputs(page, printed.__getitem__), encoding="utf-8")


def main() -> None:
    """Fill the pages, and take the pictures, from the runs of one fresh clone."""
    with TemporaryDirectory() as temporary:
        clone = copy_checkout(Path(temporary))
        fill(clone)
        with screenshots.started() as browser:
            screenshots.take(clone, REPOSITORY / "docs/images", browser)


if __name__ == "__main__":
    main()
