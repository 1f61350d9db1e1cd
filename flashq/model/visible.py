"""Text that steers no terminal: control characters are shown as their escapes (`\\x1b`). Pure.

Names, descriptions, errors and output come from whoever can submit a job, or write to the broker.
"""

from __future__ import annotations

import re

# Control characters (C0, DEL, C1), what reorders text, line separators, lone surrogates.
_STEERS = "\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_STEERING = re.compile(f"[{_STEERS}]")
_STEERING_BUT_COLOUR = re.compile(f"(\x1b\\[[0-9;]*m|\t)|[{_STEERS}]")
_STEERING_BUT_LINES = re.compile(f"([\n\t])|[{_STEERS}]")


def visible(text: str) -> str:
    """One line of text that steers no terminal."""
    return _STEERING.sub(lambda match: _escape(match[0]), text)


def visible_lines(text: str) -> str:
    """The same, keeping tabs and the ends of lines."""
    return _STEERING_BUT_LINES.sub(lambda match: match[1] or _escape(match[0]), text)


def visible_output(line: str) -> str:
    """The same for a line that a job printed: tabs and colours stay."""
    return _STEERING_BUT_COLOUR.sub(lambda match: match[1] or _escape(match[0]), line)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()
