"""Which commands a host obeys: signed for it, in time, not seen before, of the newest leader that it knows of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flashq.errors import MalformedEnvelope, WrongBinding
from flashq.model import host_command
from flashq.model.envelope import open_sealed
from flashq.model.host_command import KillWorker, StartWorker
from flashq.model.keyring import Direction

if TYPE_CHECKING:
    from flashq.model.envelope import Keys
    from flashq.model.host_command import HostCommand


@dataclass(frozen=True, slots=True)
class Received:
    """A command, and the epoch it was given under beside the newest known."""

    command: HostCommand
    epoch: int
    newest: int

    @property
    def stale(self) -> bool:
        """Whether its leader has been replaced since: it is not to be obeyed."""
        return self.epoch < self.newest


class CommandReader:
    """Verifies what comes off the list of `host`. Times are milliseconds of the broker's clock.

    `epoch`: the newest that a command was given under; it outlives this reader on disk.
    """

    def __init__(self, keys: Keys, host: str, epoch: int = 0) -> None:
        self._keys = keys
        self._host = host
        self.epoch = epoch
        self._seen: dict[str, int] = {}
        """Digests of signatures, and when each has expired: later it is refused for that."""

    def read(self, raw: bytes, now_ms: int, known_epoch: int = 0) -> Received | None:
        """The command in a signed record; None where it was read before.

        `known_epoch`: the newest by the word of the broker, which is not kept: it is not signed.

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
        if not isinstance(command, KillWorker) and command.endpoint != opened.header.endpoint:
            signed_for, what = (
                opened.header.endpoint,
                "start" if isinstance(command, StartWorker) else "prepare",
            )
            raise WrongBinding(f"signed for endpoint {signed_for!r}, to {what} one of {command.endpoint!r}")
        epoch = opened.header.epoch
        self.epoch = max(self.epoch, epoch)
        return Received(command, epoch, max(self.epoch, known_epoch))
