"""Files are replaced whole or not at all, with the same bytes every time."""

import csv
import hashlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.system.files import file_md5, read_csv, replacing, write_csv, write_json

ROWS: list[dict[str, object]] = [
    {"name": 'a, "b"', "value": 0.1},
    {"name": "line\nbreak", "value": None},
    {"name": "ü"},
]


def write(path: Path, text: str, fail: bool = False) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
        if fail:
            raise KeyboardInterrupt


def test_a_written_file_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "folders/that/are/missing/out.txt"
    write(path, "old")
    write(path, "new")
    assert path.read_text(encoding="utf-8") == "new"
    assert list(path.parent.iterdir()) == [path]


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    write(path, "old")
    with replacing(path) as temporary:
        temporary.write_text("ne", encoding="utf-8")
        assert path.read_text(encoding="utf-8") == "old"
    assert path.read_text(encoding="utf-8") == "ne"


def test_an_interrupted_write_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    with pytest.raises(KeyboardInterrupt):
        write(path, "half", fail=True)
    assert list(tmp_path.iterdir()) == []
    write(path, "old")
    with pytest.raises(KeyboardInterrupt):
        write(path, "half", fail=True)
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_next_write_removes_what_a_killed_one_left_and_nothing_of_a_living_one(tmp_path: Path) -> None:
    code = "import os, sys; from pathlib import Path; from pipeline.system.files import replacing\n"
    code += "with replacing(Path(sys.argv[1])) as temporary: temporary.touch(); os._exit(1)"
    for name in ("out.txt", "another.txt"):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], check=False)
    [another] = tmp_path.glob(".another*")
    (living := tmp_path / f".out.txt.{os.getppid()}.tmp").touch()
    assert len(list(tmp_path.iterdir())) == 3
    write(tmp_path / "out.txt", "new")
    assert set(tmp_path.iterdir()) == {tmp_path / "out.txt", another, living}


def test_csv_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    write_csv(path, ROWS, ["name", "value"])
    rows = [{"name": 'a, "b"', "value": "0.1"}, {"name": "line\nbreak", "value": ""}, {"name": "ü", "value": ""}]
    assert read_csv(path) == rows
    with path.open(encoding="utf-8", newline="") as file:
        assert list(csv.DictReader(file)) == rows


def test_json_comes_back_as_it_was_written_in_the_same_order(tmp_path: Path) -> None:
    path, value = tmp_path / "value.json", {"b": 0.1, "a": ["ü", None, 3], "c": {"z": 1, "y": 2}}
    write_json(path, value)
    text = path.read_text(encoding="utf-8")
    assert json.dumps(json.loads(text)) == json.dumps(value)
    assert text.endswith("}\n")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_json_lacks_is_refused_and_leaves_the_old_file(tmp_path: Path, value: float) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": value})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_the_same_values_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_csv(tmp_path / name / "table.csv", ROWS, ["name", "value"])
        write_json(tmp_path / name / "value.json", {"rows": ROWS})
    for name in ("table.csv", "value.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
        assert b"\r" not in (tmp_path / "one" / name).read_bytes()


@pytest.mark.parametrize("content", [b"", b"a\r\nb\n", bytes(range(256)) * 5000])
def test_md5_is_that_of_the_file_s_bytes(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert file_md5(tmp_path / "file") == hashlib.md5(content).hexdigest()
