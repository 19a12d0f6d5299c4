"""Make tables and params files at random, and read each: python tools/fuzz_inputs.py --tables 1000 --params 1000.

Each depends only on its seed. A table goes through the whole stage prepare. An input is accepted, or refused with a
message; a traceback, a hang, and an accepted table whose numbers differ from those of a plain loop count as faults.
"""

import argparse
import bz2
import contextlib
import csv
import gzip
import io
import lzma
import random
import sys
import tempfile
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline import prepare  # before numpy: they pin the kernels
from pipeline.runs import outs  # before numpy: they pin the kernels

# isort: split
import numpy as np
import pytest
from conftest import REPOSITORY
from fuzz_records import BOMB, HANG_SECONDS, Hang, within
from ruamel.yaml import YAML
from safetensors.numpy import load_file

from pipeline.config.params import load
from pipeline.errors import InputError

DEFAULTS = (REPOSITORY / "params.yaml").read_text(encoding="utf-8")
CELLS = [
    *("", " ", "nan", "NA", "inf", "-Infinity", "1e39", "3.4028235e38", "1e-46", "1e-400", "1e400", "16777217", "0x10"),
    *("5,5", "1,234", "1 000", "1_000", "2024-01-01", "1/2/2024", "True", "x", "-", "+-1", "1e", "٣", "１", "1\xa0"),
    *("9" * 30, "9" * 5000, "0" * 5000, "a" * 200_000, '"', '""', '"1"5', "1\n2", "\r", "\0", "\x1b[2J", "\u202e"),
    *("\ufeff", "1e99999999999999999999", "0e99999999999999999999", "1e-99999999999999999999", "é" * 50, "'", "#"),
    *(";", "\t", "\\", "1.5.5", "$5", "5%", "9007199254740993", "123456789", "0.1", "1e22", "-0", "1e-45", "٣٣"),
]  # fmt: skip
NAMES = ["a", "b", "y", "", " a", "a.1", "Unnamed: 0", '"', "é", "x\ny", "0", "1.5", "\0", "\ufeffa", "y" * 5000]
VALUES = [
    *("null", "[]", "{}", "5", "-1", "0", "1e-5", ".inf", ".nan", "-.inf", "1e400", "9" * 5000, f"0x{'f' * 5000}"),
    *("0o777", "true", "yes", "~", "''", "'a'", '"\\0"', '"\\ud800"', '"\\x1b[2J"', "2020-01-01", "2020-99-99"),
    *("12:30:45", "!!bool maybe", "!!int x", "!!float x", "!!binary xx", "!!set {a, b}", "!!omap [a: 1]", ""),
    *("!!timestamp x", "!!python/object/apply:os.system [ls]", "*nowhere", "&a [*a]", "&a {b: *a}", "{<<: {a: 1}}"),
    *("{? [1, 2] : 3}", "[" * 5000, "{a: " * 5000, "- " * 3000, "a: " * 3000, "|\n  text", ">-\n  text", "%", "@", "`"),
    *("\t", "\x07", "\0", f"[{', '.join(map(str, range(5000)))}]", "x" * 300_000, "[1, 1.0, true]", "[full, full]"),
    *("[1, 2, full, 3.5]", "[a, [b]]", "{a: {b: {c: {d: 1}}}}", "[null]", "[1e-5, 1e-39]", "1000000001"),
    *("[9223372036854775808]", "é" * 257),
]  # fmt: skip
PACK: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
UNPACK: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.decompress, ".bz2": bz2.decompress, ".xz": lzma.decompress}


def table_text(chance: random.Random) -> str:
    """Write a table: mostly correct, with some odd cells, names, rows, quotes and line ends."""
    width = chance.choice([1, 3, 3, 3, 3, 3, 4, 4, 50])
    names = ["a", "b", "y", *(f"c{n}" for n in range(50))][:width]
    if chance.random() < 0.2:
        names[chance.randrange(width)] = chance.choice(NAMES)
    rows = [[repr(chance.uniform(-1e3, 1e3)) for _ in names] for _ in range(chance.choice([0, 2, 5, 5, 5, 40]))]
    for _ in range(chance.choice([0, 0, 0, 1, 1, 3, 100]) if rows else 0):
        chance.choice(rows)[chance.randrange(width)] = chance.choice([*CELLS, str(chance.randrange(10**12))])
    if rows and chance.random() < 0.1:
        row = chance.choice(rows)
        row[chance.randrange(width) :] = chance.choice([[], ["1", "2", "3"], [""]])
    end = chance.choice(["\n", "\n", "\r\n", "\r", "\n\n", "\n  \n"])
    if chance.random() < 0.5:
        return end.join(",".join(row) for row in [names, *rows]) + chance.choice(["", end])
    written = io.StringIO()
    separator = chance.choice([*[","] * 8, ";", "\t"])
    csv.writer(written, delimiter=separator, lineterminator=end, quoting=chance.choice([0, 1, 2])).writerows(
        [names, *rows]
    )
    return written.getvalue()


def spoil(chance: random.Random, content: bytes) -> bytes:
    """Flip, cut or insert some bytes."""
    for _ in range(chance.choice([1, 1, 5])):
        place = chance.randrange(len(content) + 1)
        odd = chance.choice(
            [b'"', b",", b"\n", b"\r", b"\0", b"\xff", b"\xef\xbb\xbf", b"\x1a", b"e", b"-", b" ", b"'"]
        )
        content = content[:place] + chance.choice([odd, b""]) + content[place + chance.choice([0, 1]) :]
    return content


def zipped(content: bytes, members: int = 1) -> bytes:
    """Put a table into a zip archive, `members` times."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for n in range(members):
            archive.writestr(f"{n}.csv", content)
    return written.getvalue()


def make_table(chance: random.Random, folder: Path) -> Path:
    """Write a table's file; return its path."""
    content = table_text(chance).encode(chance.choice(["utf-8"] * 19 + ["utf-16"]), "surrogatepass")
    content = spoil(chance, content) if chance.random() < 0.2 else content
    ending = chance.choice([""] * 12 + [*PACK, ".zip", ".zst", ".tar"])
    if ending == ".zip":
        content = zipped(content, chance.choice([0, 1, 1, 2]))
    content = PACK.get(ending, bytes)(content)
    content = spoil(chance, content) if ending and chance.random() < 0.3 else content
    path = folder / f"table.csv{ending}"
    path.write_bytes(content)
    return path


def configure(chance: random.Random, source: Path, folder: Path) -> None:
    """Write params for the table."""
    values = YAML(typ="safe", pure=True).load(DEFAULTS)
    features, target = (["a", "b"], "y") if chance.random() < 0.9 else ([chance.choice(NAMES)], chance.choice(NAMES))
    values["data"] |= {"source": source.name, "features": features, "target": target, "exact": chance.random() < 0.1}
    values["data"]["standardize"] = chance.random() < 0.3
    values["data"]["split"] |= {"folds": 2, "method": chance.choice(["kfold", "holdout"])}
    with (folder / "params.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(values, file)


def plain_loop(source: Path) -> list[list[np.float32]]:
    """Read a table's numbers in the plainest way: [feature, …, target] for every row."""
    data = load().data
    content = source.read_bytes()
    if source.suffix == ".zip":
        with zipfile.ZipFile(source) as archive:
            content = archive.read(archive.namelist()[0])
    elif source.suffix in UNPACK:
        content = UNPACK[source.suffix](content)
    text = content.decode("utf-8-sig")
    header, *rows = [row for row in csv.reader(io.StringIO(text, newline="")) if len(row) > 1 or "".join(row).strip()]
    places = [header.index(name) for name in (*data.features, data.target)]
    with np.errstate(all="ignore"):
        return [[np.float32(float(row[place])) for place in places] for row in rows]


def answer(ask: Callable[[], str]) -> str:
    """Read an input; return the outcome: taken, refused, misread, hang or traceback."""
    try:
        with within(HANG_SECONDS), contextlib.redirect_stderr(io.StringIO()):
            return ask()
    except InputError as refused:
        said = str(refused)
        fine = len(said) < 30_000 and all(c.isprintable() or c == "\n" for c in said)
        return "refused" if fine else f"traceback: no readable message: {said[:300]!a}"
    except Hang:
        return "hang"
    except Exception:  # noqa: BLE001 - tracebacks are counted
        return f"traceback: {traceback.format_exc()}"


def read_table(seed: int, folder: Path) -> str:
    """Make a table in the current folder and prepare it."""
    chance = random.Random(seed)
    source = make_table(chance, folder)
    configure(chance, source, folder)

    def ask() -> str:
        prepare.main()
        tensors = load_file(outs.PREPARED)
        made = np.hstack([tensors["X"], tensors["y"]])
        return "taken" if np.array_equal(made, np.array(plain_loop(source), dtype=np.float32)) else "misread"

    return answer(ask)


def read_params(seed: int, folder: Path) -> str:
    """Make a params file and load it."""
    chance = random.Random(seed)
    lines = DEFAULTS.splitlines()
    for _ in range(chance.choice([0, 1, 1, 2, 5])):
        place = chance.randrange(len(lines))
        line = lines[place]
        odd = f"{line.split(':')[0]}: {chance.choice(VALUES)}"
        before = chance.choice(["  ", "\t", "- ", "? ", "&x ", "!!x ", "<<: "])
        lines[place : place + 1] = chance.choice([[odd], [odd], [odd], [], [line, line], [before + line]])
    content = "\n".join(lines).encode("utf-8", "surrogatepass")
    content = spoil(chance, content) if chance.random() < 0.3 else content
    if chance.random() < 0.05:
        content = chance.choice([f"{BOMB}\n".encode() + content, b"", b"\xff\xfe", content * 500])
    (folder / "params.yaml").write_bytes(content)

    def ask() -> str:
        load()
        return "taken"

    return answer(ask)


def fuzz(read: Callable[[int, Path], str], seeds: range) -> Iterator[tuple[int, str]]:
    """Read an input for each seed, each in its own folder; yield the seed and the outcome."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("pipeline.system.processes.stop_when_told", lambda: None)
        for seed in seeds:
            yield seed, read(seed, Path(folder))


def main() -> None:
    """Read as many inputs as the command line says, and print the tally."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=int, default=1000)
    parser.add_argument("--params", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="the first seed (default: %(default)s)")
    options = parser.parse_args()
    faults = 0
    for what, read, count in (("tables", read_table, options.tables), ("params files", read_params, options.params)):
        tally: Counter[str] = Counter()
        for seed, said in fuzz(read, range(options.first, options.first + count)):
            tally[said.split(":")[0]] += 1
            if said not in {"taken", "refused"}:
                print(f"{what}, seed {seed}: {said}")
        faults += tally.total() - tally["taken"] - tally["refused"]
        told = ", ".join(f"{tally[kind]} {kind}" for kind in ("taken", "refused", "misread", "hang", "traceback"))
        print(f"{count} {what}, seeds {options.first} to {options.first + count - 1}: {told}")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
