"""The signing keys in force, in processes that live long: read again when their file has changed.

So a key that was added to the file verifies, and one that was moved to its first line signs, within a second, and
nothing has to be restarted. A file that is wrong or gone changes nothing: the keys before stay, with a warning.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from flashq.errors import SettingsError
from flashq.model.keyring import Keyring
from flashq.private_files import read_private
from flashq.secret_keys import read_secret_keys

if TYPE_CHECKING:
    from pathlib import Path

    from flashq.model.keyring import Direction, EndpointKeys, Key
    from flashq.settings import Settings

log = logging.getLogger("flashq")
_LOOK_S = 1.0


class Keychain:
    """A `Keyring` that follows its file. Safe to use from any thread."""

    def __init__(self, keyring: Keyring, file: Path | None = None) -> None:
        """`keyring`: what is in force now; `file`: what it follows (None: nothing)."""
        self._keyring = keyring
        self._file = file
        self._lock = threading.Lock()
        self._seen = self._signature()
        self._look_at = time.monotonic() + _LOOK_S

    @classmethod
    def of(cls, settings: Settings, file: Path | None = None) -> Keychain:
        """The keys that settings name; or those in `file`, of the private broker.

        Raises SettingsError where there are none.
        """
        if file is None:
            return cls(Keyring(settings.require_secrets(), settings.namespace), settings.secret_key_file)
        return cls(Keyring(_read(file), settings.namespace), file)

    def __repr__(self) -> str:
        return f"Keychain({', '.join(self.ids)})"

    @property
    def namespace(self) -> str:
        return self._keyring.namespace

    @property
    def ids(self) -> tuple[str, ...]:
        """Key ids, the signing one first."""
        return self._current().ids

    def signing(self, direction: Direction, subject: str) -> Key:
        """The key that signs for this direction and subject."""
        return self._current().signing(direction, subject)

    def verifying(self, direction: Direction, subject: str) -> tuple[Key, ...]:
        """Every key accepted for this direction and subject, the signing one first."""
        return self._current().verifying(direction, subject)

    def find(self, key_id: str, direction: Direction, subject: str) -> Key | None:
        """The key of this id. Where it is not known the file is looked at before that is said."""
        found = self._current().find(key_id, direction, subject)
        if found is None:
            self.refresh()
            found = self._keyring.find(key_id, direction, subject)
        return found

    def for_endpoint(self, endpoint: str) -> EndpointKeys:
        """What a supervisor of `endpoint` is given."""
        return self._current().for_endpoint(endpoint)

    def snapshot(self) -> Keyring:
        """The keys as they are now."""
        return self._current()

    def _current(self) -> Keyring:
        if self._file is not None and time.monotonic() >= self._look_at:
            self.refresh()
        return self._keyring

    def refresh(self) -> None:
        """Read the file if it has changed since it was last read."""
        if self._file is None:
            return
        with self._lock:
            self._look_at = time.monotonic() + _LOOK_S
            signature = self._signature()
            if signature == self._seen:
                return
            self._seen = signature
            before = self._keyring
            try:
                self._keyring = Keyring(_read(self._file), before.namespace)
            except SettingsError as error:
                log.warning("flashq: the signing keys stay as they were: %s", error)
                return
        if self._keyring.ids != before.ids:
            log.info("signing keys: %s (before: %s)", self._keyring, before)

    def _signature(self) -> tuple[int, int, int, int] | None:
        """What changes when the file does."""
        if self._file is None:
            return None
        try:
            status = self._file.stat()
        except OSError:
            return None
        return status.st_ino, status.st_size, status.st_mtime_ns, status.st_mode


def _read(file: Path) -> list[bytes]:
    try:
        return [key.value for key in read_secret_keys(read_private(file))]
    except FileNotFoundError:
        raise SettingsError(f"{file} is gone") from None
    except ValueError as error:
        raise SettingsError(f"{file}: {error}") from None
