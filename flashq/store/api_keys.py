"""API keys of the gateway, as the broker keeps them: their digests, what they may do, until when.

A key is `fqk_<id>_<43 characters>`, of 256 random bits, and is shown once. Kept of it is a SHA-256 of the whole, which
needs no salt: nobody can try that many.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from flashq.store.command import mapping
from flashq.store.queries import written
from flashq.store.queries_fleet import now_ms

if TYPE_CHECKING:
    from flashq.store.broker import Broker

_SCHEME = "fqk"
_ID_BYTES, _SECRET_BYTES = 6, 32


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key. `endpoints`: those it may call; empty: all. Times are milliseconds of the broker's clock."""

    id: str
    digest: str
    name: str
    endpoints: tuple[str, ...]
    created_ms: int
    expires_ms: int | None

    def allows(self, endpoint: str) -> bool:
        """Whether it may be used for an endpoint."""
        return not self.endpoints or endpoint in self.endpoints


def id_of(key: str) -> str:
    """Which key a caller's word claims to be; '' where it is none."""
    parts = key.split("_", 2)
    return parts[1] if len(parts) == 3 and parts[0] == _SCHEME and len(key) <= 200 else ""


def is_word_of(key: str, record: ApiKey) -> bool:
    """Whether a caller's word is this key. Takes as long whether it is or not."""
    return hmac.compare_digest(_digest(key), record.digest)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def make(
    broker: Broker, name: str, endpoints: tuple[str, ...] = (), expires_s: float | None = None
) -> tuple[str, ApiKey]:
    """A new key, and its record. Raises BrokerError."""
    at = now_ms(broker)
    number = secrets.token_hex(_ID_BYTES)
    secret = base64.urlsafe_b64encode(secrets.token_bytes(_SECRET_BYTES)).decode().rstrip("=")
    key = f"{_SCHEME}_{number}_{secret}"
    expires = None if expires_s is None else at + int(expires_s * 1000)
    record = ApiKey(number, _digest(key), name, endpoints, at, expires)
    fields = {field: value for field, value in asdict(record).items() if field != "id"}
    broker.execute("HSET", broker.keys.of("api_keys"), number, json.dumps(fields, separators=(",", ":")))
    return key, record


def listed(broker: Broker) -> list[ApiKey]:
    """All keys, oldest first; expired ones too. Raises BrokerError."""
    found = []
    for number, raw in mapping(broker.execute("HGETALL", broker.keys.of("api_keys"))).items():
        fields = written(raw, dict)
        try:
            expires = fields["expires_ms"]
            found.append(
                ApiKey(
                    id=number,
                    digest=str(fields["digest"]),
                    name=str(fields["name"]),
                    endpoints=tuple(str(one) for one in fields["endpoints"]),
                    created_ms=int(fields["created_ms"]),
                    expires_ms=None if expires is None else int(expires),
                )
            )
        except (KeyError, TypeError, ValueError):  # somebody else wrote it: it lets nobody in
            found.append(ApiKey(number, "", "(unreadable)", ("-",), 0, 0))
    return sorted(found, key=lambda one: (one.created_ms, one.id))


def revoke(broker: Broker, number: str) -> bool:
    """End a key; False where there is none of this id. Raises BrokerError."""
    return bool(broker.execute("HDEL", broker.keys.of("api_keys"), number))
