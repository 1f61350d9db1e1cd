"""The private broker's signing key and, where it listens, its password: made on first use, kept private."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from flashq.embedded.places import Places, locked, write_private
from flashq.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from flashq.settings import Settings

_KEY_BYTES = 32
_PATIENCE_S = 10.0


def secrets(settings: Settings) -> tuple[bytes, ...]:
    """The signing keys of the private broker (<home>/secret.key), the first for signing.

    Raises SettingsError where the file cannot be made or read, others may read it, or it holds no key.
    """
    from flashq.settings import read_secret_key

    file = Places(settings.home).prepare().secret
    written = _kept(file, lambda: os.urandom(_KEY_BYTES).hex())
    try:
        return (read_secret_key(written).value,)
    except ValueError as error:
        raise SettingsError(f"{file}: {error}") from None


def broker_password(home: Path) -> str:
    """The password of a private broker that listens on the network (<home>/broker.password).

    Raises SettingsError as `secrets` does.
    """
    return _kept(Places(home).prepare().password, lambda: os.urandom(_KEY_BYTES).hex())


def read_private(file: Path) -> str | None:
    """The text of a file that only its owner may read; None where there is none.

    Raises SettingsError where others may use it, or it cannot be read.
    """
    try:
        # Without O_NONBLOCK opening a pipe would wait for its writer.
        with os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise SettingsError(f"{file} is not a regular file")
            if status.st_mode & 0o077:
                raise SettingsError(f"others than its owner may use {file}: chmod 600 {file}")
            return stream.read(64 * 1024).decode().strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SettingsError(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{file} holds no text") from None


def _kept(file: Path, make: Callable[[], str]) -> str:
    """What a file holds; where there is none it is made, by one process only."""
    found = read_private(file)
    if found is not None:
        return found
    with locked(file.parent / "run" / f"{file.name}.lock", _PATIENCE_S):
        found = read_private(file)
        if found is None:
            found = make()
            try:
                write_private(file, found.encode() + b"\n")
            except OSError as error:
                raise SettingsError(f"cannot write {file}: {error.strerror}") from None
        return found
