"""The reference of the command line, from what click knows of each command (see reference.py)."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING

import click

from flashq.cli import COMMANDS, flashq
from flashq.doctor import judge_broker, judge_fleet, judge_machine
from scripts import reference_words as words
from scripts.reference_tables import cell, code, table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def _commands(name: str) -> Iterator[str]:
    """A command; of a group, the group and each of its commands."""
    context = click.Context(flashq, info_name="flashq")
    command = flashq.get_command(context, name)
    assert command is not None
    yield _command(name, command, context)
    if isinstance(command, click.Group):
        within = click.Context(command, info_name=name, parent=context)
        for one in command.list_commands(within):
            yield _command(f"{name} {one}", command.commands[one], within)


def _command(name: str, command: click.Command, context: click.Context) -> str:
    inner = click.Context(command, info_name=name, parent=context)
    usage = " ".join(command.collect_usage_pieces(inner))
    parts = [f"### flashq {name}", f"```text\nflashq {name} {usage}\n```", _prose(command.help or "")]
    rows = []
    for option in command.params:
        if isinstance(option, click.Option) and not option.hidden and option.name != "help":
            metavar = "" if option.is_flag else " " + option.make_metavar(inner)
            told = option.help or words.OPTIONS[f"{name} {option.opts[0]}"]
            rows.append((cell(code(", ".join(option.opts) + metavar)), cell(told) + _shown_default(option)))
    if rows:
        parts.append(table(("option", "meaning"), rows).rstrip())
    parts.append(_prose(command.epilog or ""))
    return "\n\n".join(part for part in parts if part)


def _shown_default(option: click.Option) -> str:
    return f" Default {code(option.default)}." if option.show_default else ""


def _prose(text: str) -> str:
    """Help as Markdown: a paragraph that click leaves as it is written becomes a block."""
    made = []
    for part in re.split(r"\n\s*\n", inspect.cleandoc(text.replace("\n\b\n", "\n\n\b\n"))):
        if part.startswith("\b"):
            head, *rest = part.removeprefix("\b").strip("\n").splitlines()
            listed = "\n".join(line.strip() for line in rest)
            made.append(f"{head}\n\n```text\n{listed}\n```")
        elif part.strip():
            made.append(" ".join(part.split()))
    return "\n\n".join(made)


def command_line() -> str:
    """Every command that exists, from what click knows of it."""
    context = click.Context(flashq, info_name="flashq")
    names = flashq.list_commands(context)
    return "\n\n".join(told for name in COMMANDS if name in names for told in _commands(name)) + "\n"


def doctor_checks() -> str:
    """One row for each check of `flashq doctor`, in the words of its judgement."""
    found = [
        (place, function.__code__.co_firstlineno, name.replace("_", " "), inspect.getdoc(function) or "")
        for place, module in enumerate((judge_machine, judge_broker, judge_fleet))
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__annotations__.get("return") == "Finding" and function.__module__ == module.__name__
    ]
    rows = [(code(check), cell(about.partition(".")[0])) for _, _, check, about in sorted(found)]
    return table(("check", "what is asked"), rows)


TABLES: dict[str, Callable[[], str]] = {"command-line": command_line, "doctor-checks": doctor_checks}
