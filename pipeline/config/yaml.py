"""Text that comes from outside: read as YAML in bounded time and memory, and named in messages."""

from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent

from pipeline.errors import InputError, brief, printable

TEXT_BYTES = 2**18  # the most a params file may have: 3 s to parse
NESTING = 20  # the pipeline's own is 3
ALIASES = 10  # each merge of two aliases may double a file's content


def read(path: Path, name: str) -> str:
    """Read a file of text; `name` stands before each message.

    Raises:
        InputError: it cannot be read, is no regular file, is too long, or is not UTF-8.
    """
    try:
        if path.exists() and not path.is_file():  # opening a FIFO waits for a writer, a device may never end
            raise OSError("is not a regular file")
        with path.open("rb") as file:
            content = file.read(TEXT_BYTES + 1)
        if len(content) > TEXT_BYTES:
            raise OSError(f"has more than {TEXT_BYTES} bytes")
        return content.decode()
    except (OSError, ValueError) as error:
        raise InputError(f"{name}: cannot be read: {printable(error)}") from error


def parse(text: str, name: str) -> object:
    """Read YAML 1.2 in bounded time and memory; `name` stands before each message.

    Raises:
        InputError: it is not YAML, nests too deeply, contains itself, or has too many aliases.
    """
    reader = YAML(typ="safe", pure=True)
    open_anchors: list[str | None] = []
    aliases = 0
    try:
        for event in reader.parse(text):
            if isinstance(event, CollectionStartEvent):
                open_anchors.append(event.anchor)
            elif isinstance(event, CollectionEndEvent):
                open_anchors.pop()
            elif isinstance(event, AliasEvent):
                aliases += 1
            if len(open_anchors) > NESTING or aliases > ALIASES:
                raise InputError(f"{name}: is nested more than {NESTING} deep, or has more than {ALIASES} aliases")
            if isinstance(event, AliasEvent) and event.anchor in open_anchors:
                raise InputError(f"{name}: {event.anchor} contains itself")
        return reader.load(text)
    except InputError:
        raise
    except MarkedYAMLError as error:
        mark, problem = error.problem_mark or error.context_mark, error.problem or error.context
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise InputError(f"{name}: is not YAML: {where}{printable(problem)}") from error
    except Exception as error:  # ValueError for an impossible date; the reader raises KeyError and others too
        raise InputError(f"{name}: is not YAML: {brief(str(error) or type(error).__name__)[1:-1]}") from error
