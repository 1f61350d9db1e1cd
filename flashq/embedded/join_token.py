"""What a second machine needs to join a private broker: its password and the signing keys, as one word.

The word goes through an environment variable or standard input, never through a command line.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from flashq.embedded.secret import read_text
from flashq.errors import SettingsError
from flashq.private_files import make_private, write_private

if TYPE_CHECKING:
    from pathlib import Path

_VERSION = 2
_SUM_BYTES = 4


@dataclass(frozen=True, slots=True)
class JoinToken:
    """A broker's password and the root keys, the one that signs first; neither shows in a repr."""

    password: str = field(repr=False)
    keys: tuple[bytes, ...] = field(repr=False)

    def encode(self) -> str:
        """The token as one word: base64 of version, number of keys, each behind its length, password, a checksum."""
        keys = b"".join(len(key).to_bytes(2) + key for key in self.keys)
        body = bytes([_VERSION, len(self.keys)]) + keys + self.password.encode()
        return base64.urlsafe_b64encode(body + _sum(body)).decode().rstrip("=")

    @classmethod
    def decode(cls, token: str) -> JoinToken:
        """Read a token. Raises SettingsError (which never shows it) where it is none, or was cut short."""
        word = token.strip()
        try:
            raw = base64.b64decode(word + "=" * (-len(word) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise SettingsError("FLASHQ_JOIN is no join token: `flashq up --listen` prints one") from None
        body, checksum = raw[:-_SUM_BYTES], raw[-_SUM_BYTES:]
        if len(body) < 2 or _sum(body) != checksum:
            raise SettingsError("FLASHQ_JOIN is not a whole join token: copy the line again")
        if body[0] != _VERSION:
            raise SettingsError("FLASHQ_JOIN was made by another version of flashq; use one on both machines")
        keys, rest = [], body[2:]
        for _ in range(body[1]):
            end = 2 + int.from_bytes(rest[:2])
            keys.append(rest[2:end])
            rest = rest[end:]
        return cls(password=rest.decode("utf-8", "replace"), keys=tuple(keys))


def _sum(body: bytes) -> bytes:
    return hashlib.sha256(b"flashq join token" + body).digest()[:_SUM_BYTES]


def accept_token(url: str, token: str | None, home: Path) -> tuple[str, Path]:
    """Keep what a token holds; (the broker's address with its password, the file of the signing keys).

    Both are kept under `home`/joined, readable by the user alone, so that a later start needs no token
    (None or ''). Raises SettingsError where token or address is wrong, or none was ever given for this one.
    """
    folder = home / "joined" / _name(url)
    password_file, key_file = folder / "broker.password", folder / "secret.key"
    if not token:
        password = read_text(password_file)
        if password is None or read_text(key_file) is None:
            raise SettingsError(
                f"no join token for {url}: set FLASHQ_JOIN to the one that `flashq up --listen` printed"
            )
        return _with_password(url, password), key_file
    given = JoinToken.decode(token)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        make_private(folder)
        write_private(key_file, "".join(f"{key.hex()}\n" for key in given.keys).encode())
        write_private(password_file, given.password.encode() + b"\n")
    except OSError as error:
        raise SettingsError(f"cannot keep the join token in {folder}: {error.strerror}") from None
    return _with_password(url, given.password), key_file


def _name(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("redis", "rediss") or not parts.hostname:
        raise SettingsError(f"--join {url}: must be redis://HOST:PORT")
    if parts.password or parts.username:
        raise SettingsError("--join: the password comes with the token, not with the address")
    return re.sub(r"[^A-Za-z0-9.-]", "_", f"{parts.hostname}-{parts.port or 6379}")


def _with_password(url: str, password: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://:{quote(password, safe='')}@{rest}"
