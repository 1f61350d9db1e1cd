"""The demo's collection of the standard library's docstrings."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.demo import FOLDER, docstrings


@pytest.fixture(scope="module")
def collected() -> dict[str, str]:
    return {docstring.name: docstring.text for docstring in docstrings.collect()}


def test_some_thousands_are_found(collected: dict[str, str]) -> None:
    assert 5_000 < len(collected) < 9_000


def test_every_one_has_text_and_a_public_name(collected: dict[str, str]) -> None:
    assert all(text.strip() for text in collected.values())
    assert not [name for name in collected if any(part.startswith("_") for part in name.split("."))]


def test_they_are_sorted_by_name(collected: dict[str, str]) -> None:
    assert list(collected) == sorted(collected)


@pytest.mark.parametrize(
    "name",
    [
        "tempfile",  # a module itself
        "tempfile.TemporaryDirectory",  # a class in Python source
        "textwrap.TextWrapper.fill",  # a method
        "pathlib.PurePath.suffix",  # a property
        "math.gcd",  # a function in C
        "str.join",  # a method of a built-in
        "len",
        "collections.deque",  # handed out for a private module in C
        "collections.abc.Mapping",  # handed out for a private module in Python
        "os.getpid",  # handed out by `import *` from a module with another name
        "os.path.join",
        "asyncio.gather",  # defined in a part of the package
        "unittest.TestCase.assertRaises",
        "sqlite3.Connection.execute",
    ],
)
def test_things_are_called_as_people_call_them(collected: dict[str, str], name: str) -> None:
    assert name in collected


@pytest.mark.parametrize(
    "name",
    [
        "asyncio.tasks.gather",  # asyncio.gather
        "unittest.case.TestCase",
        "posixpath.join",
        "posix.getpid",
        "builtins.len",
        "os.Mapping",  # borrowed by os for its own use
        "antigravity",
        "this",
        "test.support",
        "readline",
    ],
)
def test_neither_second_names_nor_what_is_no_api_count(collected: dict[str, str], name: str) -> None:
    assert name not in collected


def test_one_thing_appears_once(collected: dict[str, str]) -> None:
    assert sum(text == collected["asyncio.gather"] for text in collected.values()) == 1


def test_the_same_is_collected_in_every_process_and_nothing_strange_is_imported() -> None:
    # Given a process of its own, with other string hashes and nothing imported that pytest needs
    script = """
import json, sys
sys.path.insert(0, sys.argv[1])
import docstrings
before = set(sys.modules)
names = [docstring.name for docstring in docstrings.collect()]
print(json.dumps([names, sorted(set(sys.modules) - before)]))
"""
    command = [sys.executable, "-I", "-B", "-c", script, str(FOLDER)]

    # If it collects
    names, imported = json.loads(
        subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    )

    # Expect what this process collects, and no module imported that does things when it is
    assert names == [docstring.name for docstring in docstrings.collect()]
    assert not {"antigravity", "this", "readline", "tkinter", "turtle", "idlelib", "test"} & set(imported)
