"""No two classes of the package share a name."""

from pathlib import Path

import names
import pytest


def test_a_class_or_function_that_two_files_define_is_named_with_both(tmp_path: Path) -> None:
    (tmp_path / "room").mkdir()
    (tmp_path / "a.py").write_text("class Run:\n    class Inner: ...\ndef read(): ...\nclass _Own: ...\n")
    (tmp_path / "room/b.py").write_text("class Run: ...\nclass Inner: ...\nasync def read(): ...\nclass _Own: ...\n")
    (tmp_path / "room/c.py").write_text("class Model: ...\nclass Other: ...\n")
    (tmp_path / "room/d.py").write_text("class Model: ...\n")
    assert names.repeated("classes", tmp_path) == {"Run": ["a.py", "room/b.py"]}
    assert names.repeated("functions", tmp_path) == {"read": ["a.py", "room/b.py"]}


def test_what_is_repeated_fails_the_lint(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(names, "repeated", lambda kind: {"Run": ["a.py", "b.py"]} if kind == "classes" else {})
    with pytest.raises(SystemExit) as end:
        names.main()
    assert (end.value.code, capsys.readouterr().out) == (True, "Run: is defined in a.py, b.py\n")
    with pytest.raises(SystemExit) as end:
        names.main("functions")
    assert (end.value.code, capsys.readouterr().out) == (False, "")
