"""What the commands that look after jobs say of themselves, and what they refuse before asking a broker."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from flashq.cli import COMMANDS, flashq

OURS = [
    name for name, where in COMMANDS.items() if where.startswith(("flashq.cli.listing", "flashq.cli.jobs"))
]


@pytest.mark.parametrize("name", OURS)
def test_help_has_an_example_and_says_what_exit_codes_mean(name: str) -> None:
    result = CliRunner().invoke(flashq, [name, "--help"])

    assert result.exit_code == 0, result.output
    assert f"flashq {name}" in result.output.split("Example")[1] or f"| flashq {name}" in result.output
    assert "Exit codes:\n    0  done\n    1  no broker, or another error\n    2  wrong usage" in result.output


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        (["jobs", "--status", "lost"], "'lost' is not one of"),
        (["jobs", "--limit", "0"], "0 is not in the range"),
        (["job"], "Missing argument 'JOB'"),
        (["cancel"], "Missing argument 'JOB...'"),
        (["call", "embed", "text"], """as a text it is written '"text"'"""),
        (["call", "embed", "n="], "not a JSON value: ''"),
        (["call", "embed", "n=1", "n=2"], "n is given twice"),
        (["call", "embed", "NaN"], "NaN is not JSON"),
        (["call", "embed", "[1,"], "not a JSON value"),
        (["call", "embed", "--timeout", "-1"], "-1.0 is not in the range"),
        (["logs", "a", "b"], "unexpected extra argument"),
    ],
)
def test_wrong_usage(command: list[str], complaint: str) -> None:
    result = CliRunner().invoke(flashq, command)

    assert result.exit_code == 2
    assert complaint in result.output


@pytest.mark.parametrize("target", ["../../etc/passwd", "a/b", "", "x" * 201, "a\x1b[2J"])
def test_logs_takes_only_what_may_be_an_id(target: str) -> None:
    result = CliRunner().invoke(flashq, ["logs", "--", target])

    assert result.exit_code == 3
    assert "no job or worker" in result.output
    assert "\x1b" not in result.output


def test_a_value_from_stdin_that_is_not_json() -> None:
    result = CliRunner().invoke(flashq, ["call", "embed", "-"], input="text")

    assert result.exit_code == 2
    assert "not a JSON value: '-'" in result.output
