"""The `flashq` command itself: which commands it has, how it loads them, what an error looks like."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from flashq import __version__, cli
from flashq.cli import COMMANDS, LazyGroup, example, flashq
from flashq.errors import BrokerError

TABLE = {
    "fails": "tests.unit.test_cli_group:fails",
    "interrupted": "tests.unit.test_cli_group:interrupted",
    "three": "tests.unit.test_cli_group:three",
    "missing": "flashq.cli.no_such_module:missing",
}


@click.command()
def fails() -> None:
    raise BrokerError("the broker is gone")


@click.command()
def interrupted() -> None:
    raise KeyboardInterrupt


@click.command()
@click.pass_context
def three(context: click.Context) -> None:
    context.exit(3)


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> LazyGroup:
    """The command line with commands of ours."""
    made = LazyGroup("flashq", table=TABLE)
    monkeypatch.setattr(cli, "flashq", made)
    return made


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_there_and_its_help_has_an_example(name: str) -> None:
    result = CliRunner().invoke(flashq, [name, "--help"])

    assert result.exit_code == 0, result.output
    assert "Example" in result.output
    assert f"flashq {name}" in result.output.partition("Example")[2]


def test_help_lists_every_command_in_the_order_of_the_table() -> None:
    listed = CliRunner().invoke(flashq, ["--help"]).output.partition("Commands:\n")[2]

    names = [line.split()[0] for line in listed.splitlines() if line.startswith("  ") and line[2] != " "]
    assert names[: len(COMMANDS)] == list(COMMANDS)


def test_help_shows_only_what_exists(group: LazyGroup) -> None:
    assert group.list_commands(click.Context(group)) == ["fails", "interrupted", "three"]
    assert CliRunner().invoke(group, ["missing"]).exit_code == 2


def test_version() -> None:
    assert CliRunner().invoke(flashq, ["--version"]).output == f"flashq {__version__}\n"


@pytest.mark.parametrize(
    ("argument", "code", "said"),
    [
        ("fails", 1, "flashq: the broker is gone\n"),
        ("interrupted", 130, "\n"),
        ("three", 3, ""),
        ("nothing-like-it", 2, None),
        ("--no-such-option", 2, None),
    ],
)
def test_exit_codes(
    group: LazyGroup, capsys: pytest.CaptureFixture[str], argument: str, code: int, said: str | None
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([argument])

    assert end.value.code == code
    assert said is None or capsys.readouterr().err == said


def test_an_example_keeps_its_lines() -> None:
    command = click.Command("c", epilog=example("flashq c", "flashq c --long " + "x" * 100))

    text = CliRunner().invoke(command, ["--help"]).output

    assert "Examples:\n    flashq c\n    flashq c --long " + "x" * 100 in text


def test_asking_for_the_version_loads_no_command() -> None:
    program = "import sys; from flashq.cli import flashq; flashq(['--version'], standalone_mode=False)"
    loaded = (
        "print([name for name in ('redis', 'pydantic', 'rich', 'flashq.embedded') if name in sys.modules])"
    )

    ran = subprocess.run(
        [sys.executable, "-c", f"{program}; {loaded}"], capture_output=True, text=True, check=True
    )

    assert ran.stdout.splitlines()[-1] == "[]"
