"""Retiring a signing key: what it signed and is still of use goes under the key that signs now.

Revisions and sealed values of `env=` can be: whoever holds the keys reads them and signs them again. Calls cannot,
since their callers wait for an outcome that quotes the signature they sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flashq import codec
from flashq.model.envelope import resigned
from flashq.model.keyring import Direction
from flashq.store.queries_keys import Uses, uses

if TYPE_CHECKING:
    from flashq.model.envelope import RootKeys
    from flashq.store.broker import Broker


def take_over(broker: Broker, keys: RootKeys, key_id: str) -> tuple[int, Uses]:
    """Sign again what this key signed; how many records that was, and what bears its signature still.

    Raises: BrokerError; EnvelopeError where a record is not what it claims to be.
    """
    found, count = uses(broker, key_id), 0
    for endpoint, digest in found.revisions:
        count += _revision(broker, keys, key_id, endpoint, digest)
    for endpoint in found.environments:
        count += _environment(broker, keys, key_id, endpoint)
    return count, uses(broker, key_id) if found.revisions or found.environments else found


def _revision(broker: Broker, keys: RootKeys, key_id: str, endpoint: str, digest: str) -> int:
    raw = broker.execute("GET", broker.keys.of("revision", endpoint, digest))
    if raw is None:
        return 0
    record = resigned(raw, keys, direction=Direction.REVISION, endpoint=endpoint)
    return broker.run(broker.transitions.rekey(endpoint, digest, key_id, record=record))


def _environment(broker: Broker, keys: RootKeys, key_id: str, endpoint: str) -> int:
    before = broker.execute("HGET", broker.keys.of("endpoint", endpoint), "env")
    if not before:
        return 0
    values = codec.open_environment(before, keys, endpoint)
    after = codec.seal_environment(values, keys, endpoint)
    return broker.run(broker.transitions.rekey(endpoint, "", key_id, env=(before, after)))
