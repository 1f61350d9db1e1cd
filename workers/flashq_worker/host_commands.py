"""Which commands a host obeys: signed for it, in time, and not seen before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flashq.errors import MalformedEnvelope, WrongBinding
from flashq.model import host_command
from flashq.model.envelope import open_sealed
from flashq.model.host_command import StartWorker
from flashq.model.keyring import Direction

if TYPE_CHECKING:
    from flashq.model.envelope import Keys
    from flashq.model.host_command import HostCommand


class CommandReader:
    """Verifies what comes off the list of `host`. Times are milliseconds of the broker's clock."""

    def __init__(self, keys: Keys, host: str) -> None:
        self._keys = keys
        self._host = host
        self._seen: dict[str, int] = {}
        """Digests of signatures, and when each has expired: later it is refused for that."""

    def read(self, raw: bytes, now_ms: int) -> HostCommand | None:
        """The command in a signed record; None where it was read before.

        Raises EnvelopeError for anything that is not to be obeyed: unsigned, for another host, expired.
        """
        opened = open_sealed(
            raw,
            self._keys,
            direction=Direction.HOST_COMMAND,
            host=self._host,
            now_ms=now_ms,
            max_bytes=host_command.MAX_BYTES,
        )
        if not opened.header.expires_ms:
            raise MalformedEnvelope("a command for a host must say when it expires")
        self._seen = {digest: until for digest, until in self._seen.items() if until >= now_ms}
        if opened.digest in self._seen:
            return None
        self._seen[opened.digest] = opened.header.expires_ms
        command = host_command.unpack(opened.payload)
        if isinstance(command, StartWorker) and command.endpoint != opened.header.endpoint:
            signed_for = opened.header.endpoint
            raise WrongBinding(f"signed for endpoint {signed_for!r}, to start one of {command.endpoint!r}")
        return command
