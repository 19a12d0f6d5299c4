"""A source text without comments and docstrings: the same for whatever does the same, another for all else."""

import ast
import random

import pytest

from pipeline.runs.fingerprints import PACKAGE, bare

# · stands for a trailing space.
CODE = '''
import os
def f(a, b="# no comment"):
    text = """several

      # lines···
    """
    c = f"""é {a}

    # {b}
    """
    return ["a", "b"], text, c
class C:
    x = 1
'''.replace("·", " ")
SAME = '''"""A docstring of
several

lines, with a # in it."""

# é
import os   # why


def f(a, b="# no comment"):  # é, and "a quote
    r"""Another," \\ """ "in two strings"

    text = """several

      # lines···
    """  # after a string
    c = f"""é {a}

    # {b}
    """···
    return [
        "a",  # one

        # two
        "b"], text, c
class C:
    "é";·
    # nothing
    x = 1
'''.replace("·", " ")


def joined(text: str) -> str:
    """Undo a line break within brackets, which `bare` leaves as it is."""
    return text.replace('[\n        "a",\n        "b"]', '["a", "b"]').replace("    ;\n", "")


def test_comments_docstrings_blank_lines_and_trailing_spaces_do_not_count() -> None:
    assert joined(bare(SAME)) == bare(CODE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# no comment", "# another"),
        ("several\n\n", "several\n"),
        ("# lines   ", "# lines"),
        ("# {b}", "# {a}"),
        ("    # {b}\n", "\n    # {b}\n"),
        ("x = 1", "x = 1\n    'not the docstring'"),
        ("x = 1", "x = 2"),
    ],
)
def test_everything_else_counts(old: str, new: str) -> None:
    assert old in CODE
    assert bare(CODE.replace(old, new)) != bare(CODE)


def test_a_string_of_several_lines_is_not_taken_for_the_one_that_spells_it() -> None:
    assert bare('x = """a\nb"""') != bare(r'x = "\"\"\"a\nb\"\"\""')


def tree(source: str) -> str | None:
    """What Python makes of a source, but for its docstrings; None where it makes nothing of it."""
    try:
        parsed = ast.parse(source)
    except SyntaxError:
        return None
    for node in ast.walk(parsed):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return ast.dump(parsed)


@pytest.mark.parametrize("name", ["tricky", *sorted(path.name for path in (PACKAGE / "training").glob("*.py"))])
def test_an_edit_that_changes_no_syntax_tree_changes_nothing_and_any_other_does(name: str) -> None:
    source = SAME if name == "tricky" else (PACKAGE / "training" / name).read_text(encoding="utf-8")
    lines, chance, seen = source.split("\n"), random.Random(0), set()
    for number in range(len(lines)) if name == "tricky" else chance.sample(range(len(lines)), min(30, len(lines))):
        for edit in ("# é\n{}", "\n{}", "{}  # é 'a' ", "{}  ", "{}\n    \n"):
            edited = "\n".join([*lines[:number], edit.format(lines[number]), *lines[number + 1 :]])
            if after := tree(edited):
                assert (bare(edited) == bare(source)) == (after == tree(source)), (number, edit)
                seen.add(after == tree(source))
    assert True in seen
    assert name != "tricky" or False in seen
