"""The scripts as text: every key name from one place, a header that is true, a typed wrapper for each."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import flashq.store
from flashq.model.lifecycle import TERMINAL, TRANSITIONS, JobState
from flashq.store.keys import NAMES
from flashq.store.scripts import ALLOW_OOM, CLOCK, NO_WRITES, library, plain, script_names
from tests.conformance.snapshot import CARRIES, VOLATILE

STORE = Path(flashq.store.__file__).parent
FILES = sorted((STORE / "lua").glob("*.lua"))
SCRIPTS = [path for path in FILES if path.stem != "lib"]


def code(path: Path) -> str:
    """A script without its comments."""
    return re.sub(r"--[^\n]*", "", path.read_text("utf-8"))


def header(path: Path) -> str:
    """The comment a script begins with."""
    match = re.match(r"(?:--[^\n]*\n)+", path.read_text("utf-8"))
    assert match is not None, f"{path.name} begins without a comment"
    return match.group()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_script_spells_a_key(path: Path) -> None:
    literals = re.findall(r"'([^'\n]*)'|\"([^\"\n]*)\"", code(path))
    spelt = {a or b for a, b in literals} & {
        name for name in NAMES.values() if name.endswith(":") or name[:3] == "fq:"
    }

    assert "fq:" not in code(path)
    assert not spelt


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_script_walks_the_key_space(path: Path) -> None:
    assert not re.findall(r"'(?:KEYS|SCAN|RANDOMKEY|DBSIZE)'", code(path))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_time_comes_through_one_line(path: Path) -> None:
    assert code(path).count(CLOCK) == (path.stem == "lib")
    assert "os." not in code(path)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_header_says_what_goes_in_and_what_comes_out(path: Path) -> None:
    said = header(path)

    assert re.match(r"-- [A-Z][A-Z ]+: ", said), "the first line names the transition"
    assert "-- KEYS  1 " in said
    assert "-- ARGV  1 prefix" in said
    assert "-- Returns " in said


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_every_argument_that_is_read_is_in_the_header(path: Path) -> None:
    arguments = header(path).split("-- ARGV")[1].split("-- Returns")[0]
    told = {int(n) for n in re.findall(r"(?:^|  |\n--\s+)(\d+)(?:…)? ", arguments)}
    read = {int(n) for n in re.findall(r"ARGV\[(\d+)\]", code(path))}

    assert read <= told
    assert told == set(range(1, max(told) + 1)), "numbered without a gap"


def commands() -> dict[str, list[str]]:
    """Every script that a Command names, with the functions that build it."""
    found: dict[str, list[str]] = {}
    for path in STORE.glob("*.py"):
        for function in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(function, ast.FunctionDef):
                continue
            for call in ast.walk(function):
                if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "Command":
                    script = call.args[0]
                    assert isinstance(script, ast.Constant)
                    found.setdefault(str(script.value), []).append(function.name)
    return found


def test_every_script_has_one_typed_wrapper() -> None:
    assert set(commands()) == set(script_names()) == {path.stem for path in SCRIPTS}
    assert not {script: by for script, by in commands().items() if len(by) > 1}


@pytest.mark.parametrize("flagged", [ALLOW_OOM, NO_WRITES])
def test_flags_are_given_to_scripts_that_are_there(flagged: frozenset[str]) -> None:
    assert flagged <= set(script_names())


def test_what_ends_jobs_goes_on_under_memory_pressure() -> None:
    adds = {"submit", "register", "requeue", "requeue_failed", "log", "chunk", "progress", "unhold"}

    assert set(script_names()) - ALLOW_OOM - NO_WRITES <= adds | {"hold", "restart"}


def test_the_library_is_named_by_its_text() -> None:
    assert library().name != library("{1, 2}").name
    assert library().source.startswith(f"#!lua name={library().name}\n")
    assert all(library().function(script) in library().source for script in script_names())
    assert "{1, 2}" in plain("claim", "{1, 2}")


# -- the table of the lifecycle ----------------------------------------------------------------------


def test_the_table_says_what_every_script_may_do() -> None:
    assert CARRIES.keys() <= set(script_names())
    used = {name for stages in CARRIES.values() for stage in stages for name in stage}
    assert used == TRANSITIONS.keys()


def test_every_state_is_reached_and_left() -> None:
    pairs = [
        (before, after) for row in TRANSITIONS.values() for before, afters in row.items() for after in afters
    ]

    assert {after for _, after in pairs} == set(JobState)
    assert set(JobState) - {before for before, _ in pairs} == {JobState.FINISHED}


def test_what_has_ended_is_only_begun_anew() -> None:
    leaving = {name for name, row in TRANSITIONS.items() if TERMINAL & row.keys()}

    assert leaving == {"requeue"}


def test_from_every_state_an_end_can_be_reached() -> None:
    ends: set[JobState | None] = set(TERMINAL)
    while more := {
        before
        for row in TRANSITIONS.values()
        for before, afters in row.items()
        if afters & ends and before not in ends
    }:
        ends |= more

    assert set(JobState) <= ends


def test_hints_are_kinds_of_keys() -> None:
    assert set(VOLATILE) <= NAMES.keys()
