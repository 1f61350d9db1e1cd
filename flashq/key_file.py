"""A file of signing keys as `flashq keys` edits it: one key a line, the one that signs first. Pure but for reading.

What it writes says of each key, in a comment, its id, since when it is there, and which it is: the next one to sign,
or an old one. Comments that stand on lines of their own at its head are kept.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from flashq.errors import ConfigurationError
from flashq.model.keyring import key_id
from flashq.private_files import read_private
from flashq.secret_keys import MIN_KEY_BYTES, MOST_KEYS, SecretKey, read_secret_keys, without_comment

if TYPE_CHECKING:
    from pathlib import Path

_NEXT, _OLD = "next", "old"
_MADE = re.compile(r"\bmade (\d{4}-\d\d-\d\d)\b")
_HEAD = (
    "# Signing keys of flashq: the first signs, all of them verify. `flashq keys list` shows their ids.",
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One key of a file."""

    key: SecretKey
    role: str = ""
    """ "next": added, and not signing yet; "old": it signed before; '' for the one that signs, or not known."""
    made: str = ""
    """The day it was made; '' where that is not known."""

    @property
    def id(self) -> str:
        return key_id(self.key.value)


@dataclass(frozen=True, slots=True)
class KeyFile:
    """The keys of a file, the one that signs first. Each method gives back another, changed one."""

    entries: tuple[Entry, ...]
    head: tuple[str, ...] = field(default=_HEAD)

    @classmethod
    def fresh(cls, today: str) -> KeyFile:
        """One new key."""
        return cls((_new(today),))

    @classmethod
    def read(cls, file: Path) -> KeyFile:
        """Raises ConfigurationError where it cannot be read, others may use it, or it holds no key."""
        try:
            return cls.parse(read_private(file))
        except FileNotFoundError:
            raise ConfigurationError(f"there is no {file}: `flashq keys make {file}` makes one") from None
        except ValueError as error:
            raise ConfigurationError(f"{file}: {error}") from None

    @classmethod
    def parse(cls, written: bytes) -> KeyFile:
        """Raises ValueError naming the line that is no key."""
        keys = read_secret_keys(written)
        try:
            lines = written.decode().splitlines()
        except UnicodeDecodeError:
            return cls(tuple(Entry(key) for key in keys))
        entries: list[Entry] = []
        head: list[str] = []
        for line in lines:
            if not without_comment(line):
                head += [line] if line.strip() and not entries else []
                continue
            (key,) = read_secret_keys(line)
            if key not in [entry.key for entry in entries]:
                entries.append(_entry(key, line.partition(" #")[2]))
        return cls(tuple(entries), tuple(head) or _HEAD)

    def render(self) -> bytes:
        """As it is written to the file."""
        lines = list(self.head)
        for entry in self.entries:
            words = [entry.id, entry.role, f"made {entry.made}" if entry.made else ""]
            lines.append(f"{entry.key.value.hex()}  # {' '.join(filter(None, words))}")
        return "".join(f"{line}\n" for line in lines).encode()

    @property
    def signing(self) -> Entry:
        return self.entries[0]

    @property
    def next(self) -> Entry | None:
        """The key that was added and does not sign yet."""
        return next((entry for entry in self.entries[1:] if entry.role == _NEXT), None)

    def find(self, prefix: str) -> Entry:
        """The key whose id begins so. Raises ConfigurationError where that is none, or several."""
        found = [entry for entry in self.entries if entry.id.startswith(prefix)]
        if len(found) == 1 and prefix:
            return found[0]
        ids = ", ".join(entry.id for entry in self.entries)
        raise ConfigurationError(f"{prefix!r} is {'several' if found else 'none'} of the keys there: {ids}")

    def added(self, today: str) -> KeyFile:
        """With a new key that verifies, the next one to sign. Raises ConfigurationError where there are too many."""
        if len(self.entries) >= MOST_KEYS:
            raise ConfigurationError(f"there are {len(self.entries)} keys; retire some first")
        return replace(self, entries=(*self.entries, replace(_new(today), role=_NEXT)))

    def promoted(self, entry: Entry) -> KeyFile:
        """With this key signing, and the one that did an old one."""
        before, *others = [one for one in self.entries if one.id != entry.id]
        return replace(self, entries=(replace(entry, role=""), replace(before, role=_OLD), *others))

    def without(self, entry: Entry) -> KeyFile:
        """Without this key."""
        return replace(self, entries=tuple(one for one in self.entries if one.id != entry.id))


def _new(today: str) -> Entry:
    return Entry(SecretKey(secrets.token_bytes(MIN_KEY_BYTES)), made=today)


def _entry(key: SecretKey, comment: str) -> Entry:
    words = comment.split()
    role = next((word for word in words if word in (_NEXT, _OLD)), "")
    made = _MADE.search(comment)
    return Entry(key, role, made[1] if made else "")
