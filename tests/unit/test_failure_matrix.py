"""The failure matrix of docs/reliability.md has every row, and names tests that are there: all that say so.

So do the table of attacks of docs/security.md and that of bad luck.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from scripts.attack_table import ATTACKS, Attack
from scripts.failure_matrix import ROWS, Row
from scripts.scaling_luck import LUCK, Luck

if TYPE_CHECKING:
    from collections.abc import Iterator

TESTS = Path(__file__).parent.parent


@cache
def functions(file: str) -> set[str]:
    """The names of the tests in a file below tests/."""
    tree = ast.parse((TESTS / file).read_text("utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_each_of_the_34_faults_has_a_row() -> None:
    assert [row.number for row in ROWS] == list(range(1, 35))


def what(row: Row | Attack | Luck) -> str:
    """What a row is about."""
    return row.fault if isinstance(row, Row) else row.attack if isinstance(row, Attack) else row.luck


@pytest.mark.parametrize("row", [*ROWS, *ATTACKS, *LUCK], ids=what)
def test_a_row_names_tests_that_exist_or_says_what_is_not_met(row: Row | Attack | Luck) -> None:
    assert row.tests or row.unmet
    for test in row.tests:
        file, _, function = test.partition("::")
        assert function in functions(file), test


def claims() -> Iterator[tuple[int, str]]:
    """The rows that tests say they are about ("Row 7.", "Rows 3 and 4."), and their names."""
    for file in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if not isinstance(node, ast.FunctionDef) or not node.name.startswith("test_"):
                continue
            for rows in re.findall(r"\bRows? (\d+(?:(?:,| and| to) \d+)*)", ast.get_docstring(node) or ""):
                for number in re.findall(r"\d+", rows):
                    yield int(number), f"{file.relative_to(TESTS)}::{node.name}"


def test_a_test_that_is_about_a_row_is_named_there() -> None:
    """The table is scripts/failure_matrix.py; `python -m scripts.reference` puts it on the page."""
    named = {row.number: row.tests for row in ROWS}
    assert [(number, test) for number, test in claims() if test not in named[number]] == []
