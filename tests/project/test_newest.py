"""What `make newest` reads and writes: the direct dependencies, their pins, and the tests that fail."""

from conftest import REPOSITORY
from newest import Dependency, direct, failures, moved, pins, table

CONSTRAINTS = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8")


def test_every_direct_dependency_is_pinned() -> None:
    names = direct((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    assert {"torch", "mlflow", "ruamel-yaml", "psycopg", "flask-wtf"} <= set(names) <= pins(CONSTRAINTS).keys()


def test_pins_move_to_what_pip_takes_and_the_others_stay() -> None:
    assert moved(CONSTRAINTS, {}) == CONSTRAINTS
    before = "click==8.5.1\nColorama==0.4.6\nPyYAML==6.0.3\n"
    assert moved(before, {"pyyaml": "7.0", "click": "8.5.1", "dill": "1.0"}) == (
        "click==8.5.1\nColorama==0.4.6\ndill==1.0\nPyYAML==7.0\n"
    )


def test_failed_tests_are_read_from_pytests_summary() -> None:
    summary = (
        "....F\n=== short test summary info ===\n"
        "FAILED tests/a/test_b.py::test_c[x - y z] - AssertionError: no\n"
        "FAILED tests/a/test_b.py::test_d\n"
        "ERROR tests/a/test_e.py - ImportError: gone\n"
        "SKIPPED [1] tests/a/test_f.py:1: not here\n"
    )
    assert failures(summary) == ["tests/a/test_b.py::test_c[x - y z]", "tests/a/test_b.py::test_d", "tests/a/test_e.py"]


def test_the_table_has_the_dependencies_that_are_not_the_newest() -> None:
    known = [Dependency("click", "8.5.1", "8.5.1", "8.5.1"), Dependency("dvc", "3.67.1", "3.68.0", "3.68.0")]
    known.append(Dependency("torch", "2.13.0", "2.15.0", "2.13.0"))
    assert [" ".join(line.split()) for line in table(known)] == [
        "package pinned newest taken",
        "dvc 3.67.1 3.68.0 3.68.0",
        "torch 2.13.0 2.15.0 2.13.0 no build for the CPU is within reach",
        "1 of 3 are pinned at their newest release",
    ]
