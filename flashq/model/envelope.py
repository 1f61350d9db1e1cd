"""The signed wire record: `[header, payload, signature]`, msgpack all the way, opaque payload inside.

The header is a msgpack map with short string keys; its bytes as sent are what is signed, under a key
derived for the direction and endpoint (see `keyring`), with a domain prefix. The payload is bound by its
length and SHA-256 in the header. Later versions may add header fields, never change one: a reader takes
unknown fields of its own major version, and golden vectors in tests/unit/golden hold this page to it.

Checks on opening happen in this order, and nothing of a record is used before all have passed:
size → strict msgpack → version and algorithm → key id → signature (constant time) → bindings (direction,
namespace, endpoint, job, generation) → payload length and digest → expiry. Pure: `now_ms` is an argument.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

import msgpack

from flashq.errors import BadSignature, EnvelopeExpired, MalformedEnvelope, UnknownKey, WrongBinding
from flashq.model.keyring import Direction, EndpointKeys, Key, Keyring

VERSION = 1
OLDEST = (
    1  # the oldest version that is read: at least the one before VERSION, so that an upgrade needs no pause
)
ALGORITHM = "hs256"
MAX_HEADER_BYTES = 16 * 1024
SIGNATURE_BYTES = 32
CALL_LIFETIME_MS = 7 * 86_400_000  # a call expires so long after it was made, and its delay and ttl
_DOMAIN = b"flashq/envelope/1\0"


class Keys(Protocol):
    """Whoever can say which keys sign and verify (a `Keyring`, a supervisor's `EndpointKeys`, what follows a file)."""

    @property
    def namespace(self) -> str: ...

    def signing(self, direction: Direction, subject: str) -> Key: ...
    def verifying(self, direction: Direction, subject: str) -> tuple[Key, ...]: ...
    def find(self, key_id: str, direction: Direction, subject: str) -> Key | None: ...


class RootKeys(Keys, Protocol):
    """Keys that stand behind all others: a `Keyring`, or what follows a file of them."""

    @property
    def ids(self) -> tuple[str, ...]: ...

    def for_endpoint(self, endpoint: str) -> EndpointKeys: ...
    def snapshot(self) -> Keyring: ...


def _wire(name: str, default: Any) -> Any:
    return field(default=default, metadata={"wire": name})


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """Everything about a record that is signed. Times are milliseconds of the broker's clock; 0 = none.

    Fields that equal their default are left off the wire.
    """

    direction: Direction
    endpoint: str
    job: str = _wire("job", "")
    generation: int = _wire("gen", 0)
    revision: str = _wire("rev", "")
    target: str = _wire("tgt", "")  # a class endpoint's method, or an HTTP route
    encoding: str = _wire("enc", "pickle")  # "pickle" | "json" | "failure" (msgpack map, see outcome)
    python: str = _wire("py", "")  # "3.11": who pickled it
    cloudpickle: str = _wire("cp", "")  # "3.1": with which version of it
    delivery: str = _wire("mode", "at_least_once")
    priority: int = _wire("prio", 0)
    timeout_ms: int = _wire("tmo", 0)
    ttl_ms: int = _wire("ttl", 0)
    not_before_ms: int = _wire("nbf", 0)
    created_ms: int = _wire("iat", 0)
    expires_ms: int = _wire("exp", 0)
    parent: str = _wire("par", "")  # the job that made this call
    depth: int = _wire("dep", 0)  # how many jobs are above it
    retry: str = _wire("rty", "")  # JSON of the retry policy for user exceptions; empty: none
    keep_s: int = _wire("keep", 0)  # how long the outcome is kept
    env_tag: str = _wire("env", "")  # which values of `env=` it was made with; empty: whichever are current
    blob: str = _wire("blob", "")  # where the payload lies, when it is not inline
    # outcomes and chunks
    call_digest: str = _wire("call", "")  # SHA-256 of the call's signature
    fence: int = _wire("fence", 0)
    attempt: int = _wire("att", 0)
    status: str = _wire("st", "")
    chunks: int = _wire("chunks", 0)
    sequence: int = _wire("seq", 0)
    # host commands
    host: str = _wire("host", "")
    epoch: int = _wire("epo", 0)  # which leader's; an older one than is known is refused


_REQUIRED = ("v", "alg", "kid", "dir", "ns", "ep", "dig", "len")
_FIELDS = tuple((f.name, f.metadata["wire"], f.default) for f in fields(Header) if "wire" in f.metadata)
_NAMES = {wire: name for name, wire, _ in _FIELDS}
_TYPES: dict[str, type] = {wire: type(default) for _, wire, default in _FIELDS}
_TYPES |= {"v": int, "alg": str, "kid": str, "dir": str, "ns": str, "ep": str, "dig": bytes, "len": int}
_MOST_FIELDS = 64


@dataclass(frozen=True, slots=True)
class Envelope:
    """An opened (verified) record."""

    header: Header
    payload: bytes
    key_id: str
    signature: bytes

    @property
    def digest(self) -> str:
        """Names this very record: what an outcome quotes to say which call it answers."""
        return signature_digest(self.signature)


def signature_digest(signature: bytes) -> str:
    """SHA-256 of a signature, as hex."""
    return hashlib.sha256(signature).hexdigest()


def _subject(direction: Direction, endpoint: str, host: str) -> str:
    return host if direction is Direction.HOST_COMMAND else endpoint


def seal(header: Header, payload: bytes, keys: Keys, *, key_id: str = "") -> bytes:
    """Sign `header` and `payload` into wire bytes. Deterministic: the same input gives the same bytes.

    `key_id`: the key to sign with, if it is one that verifies; else the one that signs.
    """
    return seal_with_signature(header, payload, keys, key_id=key_id)[0]


def seal_with_signature(
    header: Header, payload: bytes, keys: Keys, *, key_id: str = ""
) -> tuple[bytes, bytes]:
    """Like `seal`, and the signature beside it (its digest is what the outcome will quote)."""
    subject = _subject(header.direction, header.endpoint, header.host)
    key = keys.find(key_id, header.direction, subject) if key_id else None
    key = key or keys.signing(header.direction, subject)
    wire: dict[str, Any] = {
        "v": VERSION,
        "alg": ALGORITHM,
        "kid": key.id,
        "dir": header.direction.value,
        "ns": keys.namespace,
        "ep": header.endpoint,
        "dig": hashlib.sha256(payload).digest(),
        "len": len(payload),
    }
    for name, short, default in _FIELDS:
        value = getattr(header, name)
        if value != default:
            wire[short] = value
    head = msgpack.packb(wire)
    if len(head) > MAX_HEADER_BYTES:
        raise MalformedEnvelope(f"the header takes {len(head)} bytes; at most {MAX_HEADER_BYTES} fit")
    signature = hmac.digest(key.secret, _DOMAIN + head, "sha256")
    return msgpack.packb([head, payload, signature]), signature


def resigned(raw: bytes, keys: Keys, *, direction: Direction, endpoint: str) -> bytes:
    """The same record under the key that signs now; every field of its header is kept, known here or not.

    Raises as `open_sealed` does.
    """
    open_sealed(raw, keys, direction=direction, endpoint=endpoint)
    head, payload, _ = _split(raw, None)
    key = keys.signing(direction, endpoint)
    head = msgpack.packb({**_unpack_map(head), "kid": key.id})
    return bytes(msgpack.packb([head, payload, hmac.digest(key.secret, _DOMAIN + head, "sha256")]))


def open_sealed(
    raw: bytes,
    keys: Keys,
    *,
    direction: Direction,
    endpoint: str = "",
    host: str = "",
    job: str | None = None,
    generation: int | None = None,
    now_ms: int | None = None,
    max_bytes: int | None = None,
) -> Envelope:
    """Verify wire bytes and give back what they hold.

    `job` and `generation` are compared where given (a call of an earlier generation is the same call, so
    `generation` is an upper bound); `now_ms` checks expiry.

    Raises: MalformedEnvelope, UnknownKey, BadSignature, WrongBinding, EnvelopeExpired.
    """
    head, payload, signature = _split(raw, max_bytes)
    wire = _unpack_map(head)
    _check_shape(wire)
    if wire["alg"] != ALGORITHM:
        raise UnknownKey(f"algorithm {wire['alg']!r} is not accepted, only {ALGORITHM!r}")
    key = keys.find(wire["kid"], direction, _subject(direction, endpoint, host))
    if key is None:
        raise UnknownKey(
            f"signed with key {wire['kid']!r}, which is not accepted here for {direction.value}s"
        )
    if not hmac.compare_digest(hmac.digest(key.secret, _DOMAIN + head, "sha256"), signature):
        raise BadSignature("the signature does not match")
    header = _header(wire)
    _check_bindings(wire, header, keys.namespace, direction, endpoint, host)
    if job is not None and header.job != job:
        raise WrongBinding(f"signed for job {header.job!r}, not {job!r}")
    if generation is not None and header.generation > generation:
        raise WrongBinding(f"signed for generation {header.generation}, this is {generation}")
    if wire["len"] != len(payload) or not hmac.compare_digest(hashlib.sha256(payload).digest(), wire["dig"]):
        raise BadSignature("the payload does not match its digest")
    if now_ms is not None and header.expires_ms and now_ms > header.expires_ms:
        raise EnvelopeExpired(f"expired {now_ms - header.expires_ms} ms ago")
    return Envelope(header, payload, wire["kid"], signature)


def _split(raw: bytes, max_bytes: int | None) -> tuple[bytes, bytes, bytes]:
    if max_bytes is not None and len(raw) > max_bytes + MAX_HEADER_BYTES + 1024:
        raise MalformedEnvelope(f"{len(raw)} bytes are over the limit of {max_bytes}")
    try:
        parts = msgpack.unpackb(raw, raw=False, use_list=True, max_array_len=3, max_map_len=0, max_ext_len=0)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise MalformedEnvelope(f"not an envelope: {type(error).__name__}") from None
    if not isinstance(parts, list) or len(parts) != 3 or not all(type(p) is bytes for p in parts):
        raise MalformedEnvelope("not an envelope: three byte strings expected")
    head, payload, signature = parts
    if len(head) > MAX_HEADER_BYTES:
        raise MalformedEnvelope("the header is too long")
    if len(signature) != SIGNATURE_BYTES:
        raise BadSignature(f"a signature has {SIGNATURE_BYTES} bytes, not {len(signature)}")
    return head, payload, signature


def _unpack_map(head: bytes) -> dict[str, Any]:
    try:
        wire = msgpack.unpackb(
            head, raw=False, max_map_len=_MOST_FIELDS, max_array_len=0, max_ext_len=0, strict_map_key=True
        )
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise MalformedEnvelope(f"not a header: {type(error).__name__}") from None
    if type(wire) is not dict:
        raise MalformedEnvelope("not a header: a map expected")
    # A map of up to 15 entries has its length in its first byte, a longer one in two more.
    announced = head[0] & 0x0F if head[0] < 0xDE else int.from_bytes(head[1:3], "big")
    if announced != len(wire):
        raise MalformedEnvelope("a header field stands twice")
    return wire


def _check_shape(wire: dict[str, Any]) -> None:
    missing = [name for name in _REQUIRED if name not in wire]
    if missing:
        raise MalformedEnvelope(f"the header lacks {', '.join(missing)}")
    if type(wire["v"]) is not int or not OLDEST <= wire["v"] <= VERSION:
        read = f"version {VERSION}" if OLDEST == VERSION else f"versions {OLDEST} to {VERSION}"
        raise MalformedEnvelope(f"envelope version {wire['v']!r}; this program reads {read}")
    for short, value in wire.items():
        kind = _TYPES.get(short)
        if kind is not None and type(value) is not kind:
            raise MalformedEnvelope(f"header field {short!r} has the wrong type")


def _header(wire: dict[str, Any]) -> Header:
    try:
        direction = Direction(wire["dir"])
    except ValueError:
        raise MalformedEnvelope(f"unknown direction {wire['dir']!r}") from None
    values = {_NAMES[short]: value for short, value in wire.items() if short in _NAMES}
    return Header(direction=direction, endpoint=wire["ep"], **values)


def _check_bindings(
    wire: dict[str, Any], header: Header, namespace: str, direction: Direction, endpoint: str, host: str
) -> None:
    if header.direction is not direction:
        raise WrongBinding(f"a {header.direction.value} where a {direction.value} is expected")
    if wire["ns"] != namespace:
        raise WrongBinding(f"signed for namespace {wire['ns']!r}, this is {namespace!r}")
    if endpoint and header.endpoint != endpoint:
        raise WrongBinding(f"signed for endpoint {header.endpoint!r}, not {endpoint!r}")
    if host and header.host != host:
        raise WrongBinding(f"signed for host {header.host!r}, not {host!r}")
