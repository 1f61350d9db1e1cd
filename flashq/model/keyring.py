"""Signing keys: what is derived from the root secret, and for whom.

One root secret (32 bytes or more) stands behind a deployment. Every key that signs anything is derived
from it with HKDF-SHA256 (RFC 5869), bound to namespace, direction and subject, so that a worker of
endpoint A holds nothing that signs for endpoint B. The root stays with clients, the host agent and the
autoscaler; a supervisor is handed an `EndpointKeys` and no more.

Pure: no I/O, no clock.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_SALT = b"flashq/keyring/1"
MIN_SECRET_BYTES = 32


class Direction(StrEnum):
    """Which way a signed record travels; part of what is signed, so one kind never passes for another."""

    CALL = "call"
    OUTCOME = "outcome"
    CHUNK = "chunk"
    REVISION = "revision"
    HOST_COMMAND = "host"
    ENVIRONMENT = "environment"  # seals the values of `env=`


def hkdf_sha256(secret: bytes, info: bytes, length: int = 32) -> bytes:
    """HKDF (RFC 5869) with SHA-256 and flashq's fixed salt; `length` ≤ 8,160 bytes."""
    pseudo_random_key = hmac.digest(_SALT, secret, "sha256")
    output, block, counter = b"", b"", 1
    while len(output) < length:
        block = hmac.digest(pseudo_random_key, block + info + bytes([counter]), "sha256")
        output += block
        counter += 1
    return output[:length]


def key_id(secret: bytes) -> str:
    """The public name of a root secret: 16 hex digits that tell nothing about it."""
    return hashlib.sha256(b"flashq/key-id/1\0" + hkdf_sha256(secret, b"key-id")).hexdigest()[:16]


def derive(secret: bytes, namespace: str, direction: Direction, subject: str) -> bytes:
    """The 32-byte key for one direction of one subject (an endpoint, or a host for host commands)."""
    parts = (namespace, direction.value, subject)
    info = b"".join(len(p.encode()).to_bytes(4, "big") + p.encode() for p in parts)
    return hkdf_sha256(secret, info)


@dataclass(frozen=True, slots=True)
class Key:
    """One derived key with the id of the root it came from. `repr` shows only the id."""

    id: str
    secret: bytes

    def __repr__(self) -> str:
        return f"Key({self.id})"


@dataclass(frozen=True, slots=True)
class EndpointKeys:
    """All a supervisor holds: for its endpoint alone, keys by direction; the first of each list signs.

    `keys[direction]` is a tuple of `Key`; more than one while a key is being rotated.
    """

    namespace: str
    endpoint: str
    keys: Mapping[Direction, tuple[Key, ...]]

    def signing(self, direction: Direction, subject: str) -> Key:
        return self.verifying(direction, subject)[0]

    def verifying(self, direction: Direction, subject: str) -> tuple[Key, ...]:
        """Keys accepted for this direction; empty for any subject but this endpoint."""
        return self.keys.get(direction, ()) if subject == self.endpoint else ()

    def find(self, key_id: str, direction: Direction, subject: str) -> Key | None:
        """The key of this id, where it is accepted for this direction and subject."""
        return next((key for key in self.verifying(direction, subject) if key.id == key_id), None)

    @property
    def ids(self) -> tuple[str, ...]:
        """Key ids, the signing one first."""
        return tuple(key.id for key in self.keys.get(Direction.OUTCOME, ()))

    def to_wire(self) -> dict[str, object]:
        """For the pipe between host agent and supervisor (never for the broker, argv or a file)."""
        keys = {d.value: [[k.id, k.secret.hex()] for k in ks] for d, ks in self.keys.items()}
        return {"namespace": self.namespace, "endpoint": self.endpoint, "keys": keys}

    @classmethod
    def from_wire(cls, wire: Mapping[str, object]) -> EndpointKeys:
        raw = wire["keys"]
        assert isinstance(raw, dict)
        keys = {Direction(d): tuple(Key(i, bytes.fromhex(s)) for i, s in ks) for d, ks in raw.items()}
        return cls(str(wire["namespace"]), str(wire["endpoint"]), keys)


class Keyring:
    """The root secrets of a deployment: the first signs, all verify (so that keys can be rotated)."""

    def __init__(self, secrets: Iterable[bytes], namespace: str = "default") -> None:
        self._secrets = tuple(secrets)
        if not self._secrets:
            raise ValueError("a keyring needs at least one secret")
        for secret in self._secrets:
            if len(secret) < MIN_SECRET_BYTES:
                raise ValueError(f"a signing secret has at least {MIN_SECRET_BYTES} bytes, not {len(secret)}")
        self.namespace = namespace
        self._ids = tuple(key_id(s) for s in self._secrets)
        self._derived: dict[tuple[Direction, str], tuple[Key, ...]] = {}

    def __repr__(self) -> str:
        return f"Keyring({', '.join(self._ids)})"

    @property
    def ids(self) -> tuple[str, ...]:
        """Key ids, the signing one first."""
        return self._ids

    def signing(self, direction: Direction, subject: str) -> Key:
        """The key that signs for this direction and subject."""
        return self.verifying(direction, subject)[0]

    def verifying(self, direction: Direction, subject: str) -> tuple[Key, ...]:
        """Every key accepted for this direction and subject, the signing one first."""
        found = self._derived.get((direction, subject))
        if found is None:
            pairs = zip(self._ids, self._secrets, strict=True)
            found = tuple(Key(i, derive(s, self.namespace, direction, subject)) for i, s in pairs)
            self._derived[direction, subject] = found
        return found

    def find(self, key_id: str, direction: Direction, subject: str) -> Key | None:
        """The key of this id, where it is accepted for this direction and subject."""
        return next((key for key in self.verifying(direction, subject) if key.id == key_id), None)

    def snapshot(self) -> Keyring:
        """The keys as they are now."""
        return self

    def for_endpoint(self, endpoint: str) -> EndpointKeys:
        """What a supervisor of `endpoint` is given: it verifies calls and revisions and signs outcomes."""
        wanted = (
            Direction.CALL,
            Direction.OUTCOME,
            Direction.CHUNK,
            Direction.REVISION,
            Direction.ENVIRONMENT,
        )
        return EndpointKeys(self.namespace, endpoint, {d: self.verifying(d, endpoint) for d in wanted})
