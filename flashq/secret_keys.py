"""Signing keys as people write them: in FLASHQ_SECRET_KEY, or in a file of their own.

A key is hex (at least 64 digits), base64 of at least 32 bytes, or any other text or bytes, which are then the key
as they stand. Several stand one a line, the one that signs first; all of them verify. Blank lines, and what follows
a `#` at the beginning of a line or after a space, are comments. A file that is no text is one key.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field

MIN_KEY_BYTES = 32
MOST_KEYS = 8
"""So that what a supervisor holds of them fits into one write to a pipe."""
_COMMENT = re.compile(r"(^|\s)#.*$")


@dataclass(frozen=True, slots=True)
class SecretKey:
    """Key bytes that no repr, log or traceback shows."""

    value: bytes = field(repr=False)


def read_secret_key(written: str | bytes) -> SecretKey:
    """The key that somebody wrote. Raises ValueError where it is too short."""
    if isinstance(written, bytes):
        try:
            return read_secret_key(written.decode())
        except UnicodeDecodeError:
            return _long_enough(written)
    text = written.strip()
    if re.fullmatch(r"([0-9a-fA-F]{2}){32,}", text):
        return SecretKey(bytes.fromhex(text))
    try:
        plain = text.rstrip("=").replace("-", "+").replace("_", "/")
        decoded = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except ValueError:
        decoded = b""
    return _long_enough(decoded if len(decoded) >= MIN_KEY_BYTES else text.encode())


def read_secret_keys(written: str | bytes) -> tuple[SecretKey, ...]:
    """Every key that somebody wrote, at least one. Raises ValueError naming the line that is none."""
    try:
        lines = (written.decode() if isinstance(written, bytes) else written).splitlines()
    except UnicodeDecodeError:
        return (read_secret_key(written),)
    keys: list[SecretKey] = []
    for number, line in enumerate(lines, 1):
        text = without_comment(line)
        if not text:
            continue
        try:
            key = read_secret_key(text)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        if key not in keys:
            keys.append(key)
    if len(keys) > MOST_KEYS:
        raise ValueError(f"{len(keys)} keys; at most {MOST_KEYS} may verify at a time: retire some")
    return tuple(keys) or (_long_enough(b""),)


def without_comment(line: str) -> str:
    """The key on a line; '' where it holds none."""
    return _COMMENT.sub("", line).strip()


def _long_enough(key: bytes) -> SecretKey:
    if len(key) < MIN_KEY_BYTES:
        raise ValueError(
            f"a signing key has at least {MIN_KEY_BYTES} bytes, this one {len(key)}; `flashq keys make` makes one"
        )
    return SecretKey(key)
