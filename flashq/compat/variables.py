"""The file `.env` that Flash reads for a program: variables that are not set are set, as it says.

This is the program's own process, so its environment is changed here (and os.environ is used), and nowhere else.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from flashq.compat import told
from flashq.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_LINE = re.compile(r"\s*(?:export\s+)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)\s*=\s*(?P<value>.*?)\s*")
_QUOTED = re.compile(r"""(?P<quote>['"])(?P<text>(?:\\.|(?!(?P=quote)).)*)(?P=quote)\s*(?:#.*)?""")
_NAMED = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


def read(text: str, known: Mapping[str, str]) -> dict[str, str]:
    """The variables of such a file. `known`: those that `${NAME}` may stand for, beside those above it."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match is not None:
            found[match["name"]] = _value(match["value"], {**found, **known})
    return found


def _value(given: str, known: Mapping[str, str]) -> str:
    quoted = _QUOTED.fullmatch(given)
    if quoted is None:
        return _filled(re.sub(r"(^|\s+)#.*", "", given), known)
    if quoted["quote"] == "'":
        return re.sub(r"\\(['\\])", r"\1", quoted["text"])
    plain = re.sub(r"\\(.)", lambda escaped: _ESCAPES.get(escaped[1], escaped[1]), quoted["text"])
    return _filled(plain, known)


def _filled(text: str, known: Mapping[str, str]) -> str:
    return _NAMED.sub(lambda named: known.get(named[1], named[2] or ""), text)


def load(folder: Path) -> None:
    """Set what the nearest `.env` at or above `folder` says and this process has not. Raises SettingsError."""
    files = (parent / ".env" for parent in (folder, *folder.parents))
    file = next((each for each in files if each.is_file()), None)
    if file is None:
        return
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeError) as error:
        raise SettingsError(f"{file}: {error}") from None
    given = read(text, os.environ)
    new = {name: value for name, value in given.items() if name not in os.environ}
    os.environ.update(new)
    if new:
        told.once("variables", f"set {', '.join(new)} as {file} says")
