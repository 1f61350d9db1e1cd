"""The failure matrix of docs/reliability.md has every row, and each test that it names is there."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from scripts.failure_matrix import ROWS, Row

TESTS = Path(__file__).parent.parent


@cache
def functions(file: str) -> set[str]:
    """The names of the tests in a file below tests/."""
    tree = ast.parse((TESTS / file).read_text("utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_each_of_the_34_faults_has_a_row() -> None:
    assert [row.number for row in ROWS] == list(range(1, 35))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row.number))
def test_a_row_names_tests_that_exist_or_says_what_is_not_met(row: Row) -> None:
    assert row.tests or row.unmet
    for test in row.tests:
        file, _, function = test.partition("::")
        assert function in functions(file), test
