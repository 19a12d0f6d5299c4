"""The command line: what it accepts, how it refuses, and what it completes."""

import re
import shutil
import signal
import sys
from importlib.metadata import version
from pathlib import Path

import click
import pytest
from conftest import REPOSITORY, run

from pipeline.__main__ import commands, main
from pipeline.metrics import CHOOSING


@pytest.fixture(autouse=True)
def _sigpipe_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(signal, "SIGPIPE")  # which `main` would set, for this whole test run


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Usage: pipeline"),
        (["flop"], "No such command 'flop'"),
        (["top", "-n", "0"], "0 is not in the range x>=1"),
        (["top", "-n", "many"], "'many' is not a valid integer"),
        (["top", "--by", "accuracy"], "'accuracy' is not one of 'cv/mse'"),
        (["runs", "one", "two"], "unexpected extra argument (two)"),
        (["reproduce"], "Missing argument 'RUN...'"),
        (["doctor", "--deeply"], "No such option '--deeply'"),
    ],
)
def test_what_a_command_does_not_take_is_named_with_exit_code_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert (out, said in err) == ("", True), err


def test_wrong_input_is_one_line_with_exit_code_1(tmp_path: Path) -> None:
    result = run("pipeline", "leaderboard", cwd=tmp_path, check=False)
    assert (result.returncode, result.stdout) == (1, "")
    assert "no repository is here" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_help_describes_every_command_and_option(capsys: pytest.CaptureFixture[str]) -> None:
    context = click.Context(commands)
    main(["--help"])
    listed = re.findall(r"^  (\w+)  +[A-Z].*[a-z]\.$", capsys.readouterr().out, re.MULTILINE)
    assert listed == commands.list_commands(context)
    assert {"top", "runs", "reproduce", "sync", "doctor", "leaderboard"} <= set(listed)
    for name in listed:
        command = commands.get_command(context, name)
        assert command is not None
        main([name, "--help"])
        text = capsys.readouterr().out
        options = [option for parameter in command.params for option in parameter.opts if option.startswith("-")]
        assert all(re.search(rf"^  (-\w, )?{option}\b.*[A-Z]", text, re.MULTILINE) for option in options), text


def test_a_shell_completes_commands_options_and_metrics() -> None:
    def completed(*words: str) -> set[str]:
        asked = {
            "_PIPELINE_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(("pipeline", *words)),
            "COMP_CWORD": str(len(words)),
        }
        answer = run("pipeline", cwd=REPOSITORY, extra=asked).stdout
        return {line.partition(",")[2] for line in answer.splitlines()}

    assert completed("re") == {"reproduce"}
    assert completed("reproduce", "--allow-") == {"--allow-patch", "--allow-commit"}
    assert completed("top", "--group", "opt") == {"optimizer"}
    assert completed("top", "--by", "cv/") == {metric for metric in CHOOSING if metric.startswith("cv/")}


def test_a_reader_that_stops_reading_gets_no_traceback(tmp_path: Path) -> None:
    columns = [
        "configuration",
        "runs",
        "diverged",
        *(f"{metric} {part}" for metric in CHOOSING for part in ("mean", "std")),
    ]
    rows = [",".join(columns), *[",".join(["linear", "1", "0", *["1.5"] * (len(columns) - 3)])] * 20_000]
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "leaderboard.csv").write_text("\n".join(rows) + "\n")
    told = run("sh", "-c", "pipeline leaderboard | head -n 1", cwd=tmp_path)
    assert told.stdout.startswith("configuration")
    assert told.stderr == ""


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--version"])
    assert capsys.readouterr().out == f"pipeline {version('four-way-regression')}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shells_completion_script_has_no_syntax_error(shell: str, tmp_path: Path) -> None:
    script = run("pipeline", "completion", shell, cwd=tmp_path).stdout
    assert "_PIPELINE_COMPLETE" in script
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed here")
    (tmp_path / "script").write_text(script)
    assert run(shell, "-n", "script", cwd=tmp_path).stderr == ""


def test_help_keeps_the_lines_of_examples(capsys: pytest.CaptureFixture[str]) -> None:
    main(["top", "--help"])
    said = capsys.readouterr().out
    assert "\n    pipeline top -n 3 --by cv/r2\n" in said
    assert "\\b" not in said


def test_commands_that_need_no_mlflow_load_none(tmp_path: Path) -> None:
    for command in (["--help"], ["--version"], ["completion", "bash"], ["leaderboard", "--help"]):
        code = (
            f"import sys; from pipeline.__main__ import main; main({command})\n"
            "assert not {'mlflow', 'torch', 'pandas', 'dvc'} & sys.modules.keys()"
        )
        run(sys.executable, "-c", code, cwd=tmp_path)
