"""The private broker's signing key and, where it listens, its password: made on first use, kept private."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from flashq.embedded.places import Places, locked
from flashq.errors import SettingsError
from flashq.private_files import read_private, write_private

if TYPE_CHECKING:
    from pathlib import Path

    from flashq.settings import Settings

_KEY_BYTES = 32
_PATIENCE_S = 10.0


def key_file(settings: Settings) -> Path:
    """The file of the private broker's signing keys (<home>/secret.key), made with one where there is none.

    Raises SettingsError where it cannot be made or read, or others may read it.
    """
    file = Places(settings.home).prepare().secret
    _kept(file)
    return file


def secrets(settings: Settings) -> tuple[bytes, ...]:
    """The signing keys of the private broker, the one that signs first.

    Raises SettingsError as `key_file` does, and where it holds no key.
    """
    from flashq.secret_keys import read_secret_keys

    file = key_file(settings)
    written = _kept(file)
    try:
        return tuple(key.value for key in read_secret_keys(written))
    except ValueError as error:
        raise SettingsError(f"{file}: {error}") from None


def broker_password(home: Path) -> str:
    """The password of a private broker that listens on the network (<home>/broker.password).

    Raises SettingsError as `key_file` does.
    """
    return _kept(Places(home).prepare().password)


def read_text(file: Path) -> str | None:
    """The text of a file that only its owner may read; None where there is none.

    Raises SettingsError where others may use it, or it cannot be read.
    """
    try:
        return read_private(file).decode().strip()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise SettingsError(f"{file} holds no text") from None
    except ValueError as error:
        raise SettingsError(str(error)) from None


def _kept(file: Path) -> str:
    """What a file holds; where there is none it is made, by one process only, of random hex digits."""
    found = read_text(file)
    if found is not None:
        return found
    with locked(file.parent / "run" / f"{file.name}.lock", _PATIENCE_S):
        found = read_text(file)
        if found is None:
            found = os.urandom(_KEY_BYTES).hex()
            try:
                write_private(file, found.encode() + b"\n")
            except OSError as error:
                raise SettingsError(f"cannot write {file}: {error.strerror}") from None
        return found
