"""Text from strangers, shown: nothing in it steers a terminal, or passes for a line of a log."""

from __future__ import annotations

import io
import logging
from typing import Any

import pytest

from flashq import logs
from flashq.model.visible import visible, visible_lines, visible_output

HOSTILE = "\x1b]0;owned\x07\x1b[2J\r\n\x9b1m\u202egnp.exe\u2028\ud800"


@pytest.mark.parametrize("show", [visible, visible_lines, visible_output])
def test_nothing_that_steers_a_terminal_is_sent_to_it(show: Any) -> None:
    shown = show(HOSTILE.replace("\n", ""))

    assert shown.isprintable()
    assert shown.startswith(r"\x1b]0;owned\x07\x1b[2J\r\x9b1m\u202egnp.exe\u2028\ud800")


@pytest.mark.parametrize("text", ["plain", "größer", "日本語", "👩‍💻", "a b", "", r"C:\x1b"])
def test_other_text_stays_as_it_is(text: str) -> None:
    assert visible(text) == text


def test_lines_and_output_keep_what_they_are_made_of() -> None:
    assert visible("a\tb\nc") == r"a\tb\nc"
    assert visible_lines("a\tb\nc\x1b[31m") == "a\tb\nc\\x1b[31m"
    assert visible_output("a\tb \x1b[1;31mred\x1b[0m \x1b[2K") == "a\tb \x1b[1;31mred\x1b[0m \\x1b[2K"


def test_a_name_neither_steers_a_log_nor_forges_a_line_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a name with control characters and line ends in a record, expect one record in the log."""
    written, root = io.StringIO(), logging.getLogger()
    monkeypatch.setattr("sys.stderr", written)
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)

    logs.set_up()
    forged = "2026-01-31 12:00:00,000 flashq.worker ERROR the key is 0"
    logging.getLogger("flashq.worker").warning("job %s is refused", f"x{HOSTILE}\n{forged}")

    first, *rest = written.getvalue().splitlines()
    assert r"job x\x1b]0;owned\x07" in first
    assert all(line.startswith("    ") for line in rest)
    assert all(line.isprintable() for line in (first, *rest))
