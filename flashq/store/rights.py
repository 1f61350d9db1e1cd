"""What a script does to the broker, read from its text: which commands it calls, on which kinds of keys.

Scripts run with the rights of whoever calls them, so a user of the broker needs these for each script it may call.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from flashq.store.scripts import script_names, sources

_PIECE = re.compile(r"^local (?:function )?([\w, ]+?)(?: ?[=(].*)?$", re.MULTILINE)
_CALL = re.compile(r"redis\.p?call\(([^,)]*)")
_NAME = re.compile(r"'([A-Z]+)'")
_KIND = re.compile(r"\bN\.(\w+)")
_WORD = re.compile(r"\b\w+\b")
_COMMENT = re.compile(r"--.*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Deeds:
    """Commands by name, in lower case, and kinds of keys (names in `NAMES`)."""

    commands: frozenset[str]
    kinds: frozenset[str]


@cache
def deeds(script: str) -> Deeds:
    """What a script may do, through everything of the shared library that it uses."""
    pieces = _pieces()
    wanted, seen = [_COMMENT.sub("", sources()[script])], set[str]()
    commands, kinds = set[str](), set[str]()
    while wanted:
        text = wanted.pop()
        commands |= {name.lower() for call in _CALL.findall(text) for name in _NAME.findall(call)}
        kinds |= set(_KIND.findall(text))
        for name in set(_WORD.findall(text)) & pieces.keys() - seen:
            seen.add(name)
            wanted.append(pieces[name])
    return Deeds(frozenset(commands), frozenset(kinds))


def deeds_of(scripts: frozenset[str]) -> Deeds:
    """What any of these scripts may do."""
    assert scripts <= set(script_names())
    found = [deeds(script) for script in scripts]
    return Deeds(
        frozenset[str]().union(*(one.commands for one in found)),
        frozenset[str]().union(*(one.kinds for one in found)),
    )


@cache
def _pieces() -> dict[str, str]:
    """The text of each function and table that the scripts share, by name. Each begins at the start of a line."""
    text = _COMMENT.sub("", sources()["lib"])
    starts = list(_PIECE.finditer(text))
    ends = [*(match.start() for match in starts[1:]), len(text)]
    return {
        name.strip(): text[match.start() : end]
        for match, end in zip(starts, ends, strict=True)
        for name in match[1].split(",")
    }
