"""The keys that a supervisor holds: of its endpoint alone, replaced by its host agent when they are rotated."""

from __future__ import annotations

import json
import logging
import os
from typing import TYPE_CHECKING

from flashq.model.keyring import EndpointKeys

if TYPE_CHECKING:
    from flashq.model.keyring import Direction, Key

log = logging.getLogger("flashq.worker")
_LONGEST_WORD = 64 * 1024


def word(keys: EndpointKeys) -> bytes:
    """What a host agent writes to a worker's standard input: one line."""
    return json.dumps({"keys": keys.to_wire()}, separators=(",", ":")).encode() + b"\n"


class HeldKeys:
    """`EndpointKeys` that may become others."""

    def __init__(self, keys: EndpointKeys) -> None:
        self._keys = keys

    @property
    def namespace(self) -> str:
        return self._keys.namespace

    @property
    def ids(self) -> tuple[str, ...]:
        """Key ids, the signing one first."""
        return self._keys.ids

    def signing(self, direction: Direction, subject: str) -> Key:
        """See `EndpointKeys`."""
        return self._keys.signing(direction, subject)

    def verifying(self, direction: Direction, subject: str) -> tuple[Key, ...]:
        """See `EndpointKeys`."""
        return self._keys.verifying(direction, subject)

    def find(self, key_id: str, direction: Direction, subject: str) -> Key | None:
        """See `EndpointKeys`."""
        return self._keys.find(key_id, direction, subject)

    def replace(self, keys: EndpointKeys) -> None:
        """From now on, others of the same endpoint."""
        if (keys.namespace, keys.endpoint) != (self._keys.namespace, self._keys.endpoint):
            log.error("keys of endpoint %s are not for this worker", keys.endpoint)
            return
        if keys.ids != self.ids:
            log.info("signing keys: %s (before: %s)", ", ".join(keys.ids), ", ".join(self.ids))
        self._keys = keys


class KeyWords:
    """What comes after the configuration on a worker's standard input."""

    def __init__(self, descriptor: int, rest: bytes, keys: HeldKeys) -> None:
        """`rest`: what was read with the configuration and is not part of it."""
        self._descriptor: int | None = descriptor
        self._rest = b""
        self._keys = keys
        os.set_blocking(descriptor, False)
        self._take(rest)

    @property
    def descriptor(self) -> int | None:
        """What to wait on for more; None: nothing more will come."""
        return self._descriptor

    def receive(self) -> None:
        """Take in what is there."""
        if self._descriptor is None:
            return
        try:
            read = os.read(self._descriptor, _LONGEST_WORD)
        except BlockingIOError:
            return
        except OSError:
            read = b""
        if not read:
            self._descriptor = None
        self._take(read)

    def _take(self, read: bytes) -> None:
        *words, self._rest = (self._rest + read).split(b"\n")
        for one in words:
            try:
                self._keys.replace(EndpointKeys.from_wire(json.loads(one)["keys"]))
            except (ValueError, KeyError, TypeError, AssertionError):  # never shown: it may hold a secret
                log.error("a word of the host agent that makes no sense is ignored")
