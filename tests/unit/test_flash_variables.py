"""`.env` files as Flash's programs have them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from flashq.compat import told, variables

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=1", "1"),
        ("export A = one two  ", "one two"),
        ("A=one # two", "one"),
        ("A=one#two", "one#two"),
        ("A=", ""),
        ("A=#nothing", ""),
        ("A='${HOME} # \\'x'", "${HOME} # 'x"),
        ('A="a\\n\\"b\\" ${HOME}" # c', 'a\n"b" /h'),
        ("A=${HOME}/x", "/h/x"),
        ("A=${NONE:-else}${NONE}", "else"),
    ],
)
def test_a_line_is_read(line: str, value: str) -> None:
    assert variables.read(line, {"HOME": "/h"}) == {"A": value}


def test_lines_that_set_nothing_are_passed_over_and_later_ones_use_earlier() -> None:
    text = "# comment\n\nA=1\nnot a variable\n1B=2\nB=${A}2\n"
    assert variables.read(text, {}) == {"A": "1", "B": "12"}


def test_the_nearest_file_sets_what_is_not_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a file in a folder above, and one variable of it that the process has
    told.forget()
    (tmp_path / ".env").write_text("FLASH_TEST_A=file\nFLASH_TEST_B=file\n", "utf-8")
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.setenv("FLASH_TEST_A", "mine")
    monkeypatch.setenv("FLASH_TEST_B", "")
    monkeypatch.delenv("FLASH_TEST_B")

    # If it is loaded, expect the other one to be set, and that to be said without its value
    variables.load(below)
    assert (os.environ["FLASH_TEST_A"], os.environ["FLASH_TEST_B"]) == ("mine", "file")
    assert caplog.messages == [f"flashq: set FLASH_TEST_B as {tmp_path}/.env says"]
    told.forget()
