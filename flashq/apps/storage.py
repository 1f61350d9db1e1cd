"""Artifacts in the broker: each once, in chunks, under the digest of its manifest.

Nothing here is signed by itself: the signed revision of an endpoint names the digest, and whoever unpacks compares
every file with it. What no app needs any more expires; an upload that was cut off does, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flashq.errors import ArtifactError, BrokerRefused, DeployError
from flashq.store.queries import read_hash

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from flashq.store.broker import Broker

CHUNK_BYTES = 4 << 20
_UNFINISHED_MS = 86_400_000
_UNUSED_MS = 8 * 86_400_000
"""Longer than a revision that is not current is kept: one can go back to it."""


def is_stored(broker: Broker, digest: str) -> bool:
    """Whether all of it is there. Raises BrokerError."""
    count = _count(broker, digest)
    if not count:
        return False
    found = broker.execute_all([("EXISTS", _chunk(broker, digest, number)) for number in range(count)])
    return all(found)


def store(
    broker: Broker, artifact: Path, digest: str, on_bytes: Callable[[int], None] = lambda _: None
) -> None:
    """Store an artifact, unless it is there; `on_bytes`: how many have been sent. It expires in a day unless kept.

    What is there of it is left as it is: somebody else may be storing the same, or have it in use.

    Raises: DeployError where the broker's memory is full, BrokerError, OSError.
    """
    if is_stored(broker, digest):
        _stays(broker, digest)
        return
    made: list[str] = []
    sent = number = 0
    try:
        with artifact.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                key = _chunk(broker, digest, number)
                if broker.execute("SET", key, chunk, "PX", _UNFINISHED_MS, "NX") is not None:
                    made.append(key)
                number += 1
                sent += len(chunk)
                on_bytes(sent)
    except BrokerRefused as error:  # out of memory, as a rule: what is there of it is in the way
        broker.execute_all([("DEL", each) for each in made])
        why = "the broker does not take it; --exclude leaves large packages to hosts"
        raise DeployError(f"{sent / 2**20:.1f} MiB of the artifact were stored: {why}: {error}") from error
    key = broker.keys.of("artifact", digest)
    fields = ("chunks", number, "size", sent)  # last: what was cut off is not there
    if broker.execute("HSET", key, *fields):
        broker.execute("PEXPIRE", key, _UNFINISHED_MS)
    _stays(broker, digest)


def _stays(broker: Broker, digest: str) -> None:
    """What of it is to expire does so in a day at the soonest."""
    broker.execute_all([("PEXPIRE", key, _UNFINISHED_MS, "GT") for key in _keys(broker, digest)])


def chunks(broker: Broker, digest: str) -> Iterator[bytes]:
    """An artifact's bytes. Raises: ArtifactError where it is not there, or not all of it; BrokerError."""
    count = _count(broker, digest)
    if not count:
        raise ArtifactError(f"the broker keeps artifact {digest[:12]} no longer: deploy the app again")
    for number in range(count):
        chunk = broker.execute("GET", _chunk(broker, digest, number))
        if not chunk:
            raise ArtifactError(f"the broker lacks a part of artifact {digest[:12]}: deploy the app again")
        yield bytes(chunk)


def keep(broker: Broker, digest: str) -> None:
    """An app needs it: it stays. Raises BrokerError."""
    broker.execute_all([("PERSIST", key) for key in _keys(broker, digest)])


def let_go(broker: Broker, digest: str) -> None:
    """No app needs it now: it expires. Raises BrokerError."""
    broker.execute_all([("PEXPIRE", key, _UNUSED_MS) for key in _keys(broker, digest)])


def _keys(broker: Broker, digest: str) -> list[str]:
    chunk_keys = [_chunk(broker, digest, number) for number in range(_count(broker, digest))]
    return [broker.keys.of("artifact", digest), *chunk_keys]


def _chunk(broker: Broker, digest: str, number: int) -> str:
    return broker.keys.of("artifact", digest, str(number))


def _count(broker: Broker, digest: str) -> int:
    said = read_hash(broker, broker.keys.of("artifact", digest), ("chunks",))["chunks"]
    return int(said) if said.isascii() and said.isdecimal() and len(said) < 7 else 0
