"""Retiring a signing key: what it signed and is still of use goes under the key that signs now.

Revisions and sealed values of `env=` can be: whoever holds the keys reads them and signs them again. Calls cannot,
since their callers wait for an outcome that quotes the signature they sent.

Of a key that got into other hands nothing is signed again: whoever has it may have made those records.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flashq import codec
from flashq.model.envelope import resigned
from flashq.model.keyring import Direction
from flashq.store.command import text
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


def renounce(broker: Broker, key_id: str) -> tuple[int, int]:
    """Throw away what a stolen key signed of endpoints, and have every worker of those end when it has finished what
    it runs: it may have loaded any of that. How many records that were, and how many workers.

    Callers register their endpoints again with their next call. Raises: BrokerError.
    """
    found, count, drained = uses(broker, key_id), 0, 0
    digests: dict[str, list[str]] = {name: [] for name in found.environments}
    for endpoint, digest in found.revisions:
        digests.setdefault(endpoint, []).append(digest)
    why = f"key {key_id} got into other hands"
    for endpoint, revisions in digests.items():
        count += broker.run(broker.transitions.renounce(endpoint, key_id, revisions))
        for worker in broker.execute("ZRANGE", broker.keys.of("endpoint_workers", endpoint), 0, -1):
            told = broker.run(broker.transitions.drain(endpoint, text(worker), why, force=True))
            drained += told == "ok"
    return count, drained


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
