"""Between Python objects and signed bytes: the only module that pickles, and unpickles only what it verified.

Arguments and functions are pickled with cloudpickle; the function of an endpoint always travels by value,
with whatever its own module defines, so that a worker needs none of the caller's files. Values of `env=` are
sealed (encrypted and authenticated), since unlike everything else they must not be read in the broker.
"""

from __future__ import annotations

import contextlib
import hmac
import io
import json
import os
import pickle
import sys
import threading
from dataclasses import dataclass, field, fields
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Self

import msgpack

from flashq import errors, failures
from flashq.model import envelope
from flashq.model.keyring import Direction
from flashq.model.outcome import FAILURE_ENCODING, Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from flashq.model.envelope import Envelope, Header, Keys

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
_SEAL_NONCE_BYTES = 12
_PLAIN = frozenset({type(None), bool, int, float, str, bytes})  # these need nothing that cloudpickle adds


@cache
def cloudpickle_version() -> str:
    """The version of cloudpickle here, without its last part: "3.1"."""
    return ".".join(version("cloudpickle").split(".")[:2])


# -- what a caller sends -----------------------------------------------------------------------------


def dump_arguments(
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    limit: int,
    by_value: Collection[str] = (),
    settle: Callable[[type[Any]], None] | None = None,
) -> bytes:
    """Pickle a call's arguments; `by_value`: modules whose functions and classes do not travel by name.

    `settle` is called for each class of theirs before it is pickled (see `class_identity`).

    Raises: SerializationError naming the argument, PayloadTooLarge.
    """
    try:
        if all(type(value) in _PLAIN for value in (*args, *kwargs.values())):
            payload = pickle.dumps((args, dict(kwargs)), protocol=5)
        else:
            payload = _cloudpickled((args, dict(kwargs)), by_value, settle)
    except Exception as error:  # pickling runs user code: anything may come out of it
        raise _blame(args, kwargs, error) from error
    check_size(len(payload), limit, "the arguments")
    return payload


def check_size(size: int, limit: int, what: str) -> None:
    """Raises PayloadTooLarge where `size` bytes are over the limit."""
    if size > limit:
        raise errors.PayloadTooLarge(
            f"{what} take {size:,} bytes pickled; the limit is {limit:,} (FLASHQ_PAYLOAD_LIMIT). "
            "Pass a path or an address of large data instead."
        )


def _blame(args: tuple[Any, ...], kwargs: Mapping[str, Any], error: Exception) -> errors.SerializationError:
    import cloudpickle

    named = [(f"argument {i + 1}", value) for i, value in enumerate(args)]
    named += [(f"argument {name!r}", value) for name, value in kwargs.items()]
    for name, value in named:
        try:
            cloudpickle.dumps(value, protocol=5)
        except Exception as cause:  # noqa: BLE001 — see dump_arguments
            kind = type(value).__qualname__
            return errors.SerializationError(
                f"{name} ({kind}) cannot be pickled: {type(cause).__name__}: {cause}"
            )
    return errors.SerializationError(f"the arguments cannot be pickled: {type(error).__name__}: {error}")


_registry = threading.RLock()  # of cloudpickle, which has one for the process


@contextlib.contextmanager
def _pickled_by_value(modules: Collection[str]) -> Iterator[None]:
    """Meanwhile, pickle by value what these modules (by name) define: workers do not have their files."""
    import cloudpickle

    wanted = [sys.modules[name] for name in set(modules) - {"__main__"} if name in sys.modules]
    if not wanted:
        yield
        return
    with _registry:
        known = cloudpickle.list_registry_pickle_by_value()
        added = [module for module in wanted if module.__name__ not in known]
        for module in added:
            cloudpickle.register_pickle_by_value(module)
        try:
            yield
        finally:
            for module in added:
                cloudpickle.unregister_pickle_by_value(module)


@cache
def _pickler() -> Any:
    import cloudpickle

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        """Says what it does with the classes of some modules."""

        modules: Collection[str] = ()
        settle: Callable[[type[Any]], None]

        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, type) and obj.__module__ in self.modules:
                self.settle(obj)
            return super().reducer_override(obj)

    return Pickler


def _cloudpickled(value: Any, by_value: Collection[str], settle: Callable[[type[Any]], None] | None) -> bytes:
    written = io.BytesIO()
    pickler = _pickler()(written, protocol=5)
    if settle is not None:
        pickler.modules, pickler.settle = {"__main__", *by_value}, settle
    with _pickled_by_value(by_value):
        pickler.dump(value)
    return written.getvalue()


def dump_function(
    function: Callable[..., Any],
    by_value: Collection[str] = (),
    settle: Callable[[type[Any]], None] | None = None,
) -> bytes:
    """Pickle a function; see `dump_arguments` for `by_value` and `settle`.

    Raises: SerializationError naming the function.
    """
    try:
        return _cloudpickled(function, by_value, settle)
    except Exception as error:
        raise unpicklable(function, "", error) from error


def dump_function_at(located: object) -> bytes:
    """Pickle what finds a function, in place of the function: see `flashq.apps.located`."""
    return pickle.dumps(located, protocol=5)


def unpicklable(function: Callable[..., Any], what: str, error: Exception) -> errors.SerializationError:
    """The error of a function that cannot be pickled, for want of `what` it takes along, in words."""
    because = f", because of {what}" if what else ""
    return errors.SerializationError(
        f"the function {function.__qualname__} cannot be pickled{because}: {type(error).__name__}: {error}. It travels "
        "by value with the globals it uses; create such objects inside the function."
    )


def trouble(
    value: Any, by_value: Collection[str] = (), settle: Callable[[type[Any]], None] | None = None
) -> Exception | None:
    """What pickling a value raises; None: nothing. See `dump_arguments`."""
    try:
        _cloudpickled(value, by_value, settle)
    except Exception as error:  # noqa: BLE001 — see dump_arguments
        return error
    return None


def dump_json_arguments(args: Sequence[Any], kwargs: Mapping[str, Any], limit: int) -> bytes:
    """A call's arguments as JSON, the same bytes for the same values. Raises: SerializationError, PayloadTooLarge."""
    try:
        text = json.dumps(
            {"args": list(args), "kwargs": dict(kwargs)},
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=False,
            allow_nan=False,
        )
        payload = text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise errors.SerializationError(f"the arguments cannot be written as JSON: {error}") from error
    check_size(len(payload), limit, "the arguments")
    return payload


def dump_type(kind: Any, by_value: Collection[str], settle: Callable[[type[Any]], None]) -> bytes:
    """Pickle the type of a parameter; nothing where that cannot be: its values stay what JSON gives."""
    try:
        return _cloudpickled(kind, by_value, settle)
    except Exception:  # noqa: BLE001 — see dump_arguments
        return b""


def dump_types(types: Mapping[str, Mapping[str, bytes]]) -> bytes:
    """Of each target its parameters' pickled types, for executors, which have no msgpack; empty where there is none."""
    if not any(types.values()):
        return b""
    return pickle.dumps({target: dict(found) for target, found in types.items() if found}, protocol=5)


@dataclass(frozen=True, slots=True)
class Revision:
    """What a worker needs to run an endpoint: the payload of a signed revision record."""

    function: bytes
    qualname: str
    mode: str  # "sync" | "async" | "generator" | "async_generator"
    python: str
    dependencies: tuple[str, ...]
    concurrency: int
    environment: str  # digest
    spec: str  # the public spec, JSON, for people
    targets: dict[str, str] = field(default_factory=dict)  # of a class: its methods, each with its kind
    batch_ms: int | None = (
        None  # for how long calls are gathered, up to `concurrency` of them; None: they are not
    )
    bundle: bytes = b""  # the user's modules that it imports: see flashq.model.bundle
    calls: dict[str, str] = field(default_factory=dict)  # the endpoints that its jobs may call: revisions
    process: dict[str, Any] = field(default_factory=dict)  # see flashq.model.spec.process
    schemas: str = ""  # of each target's parameters, as JSON: see flashq.signature
    types: bytes = b""  # the parameters' Python types, pickled
    artifact: str = ""  # digest of the app's artifact that it is found in; empty: it travels by value
    texts: list[list[Any]] = field(default_factory=list)  # for tracebacks: see flashq.sources.Text
    serves: int = 0  # the port of its image's own server; 0: functions run in the image, if it has one

    def pack(self) -> bytes:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, unset in (
            ("targets", {}),
            ("batch_ms", None),
            ("bundle", b""),
            ("calls", {}),
            ("process", {}),
            ("schemas", ""),
            ("types", b""),
            ("texts", []),
            ("serves", 0),
            ("artifact", ""),
        ):
            if values[name] == unset:
                del values[name]
        return bytes(msgpack.packb({**values, "dependencies": list(self.dependencies)}))

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """A field that it lacks has its default: it was written before there was one. Raises MalformedEnvelope."""
        try:
            given = msgpack.unpackb(raw, raw=False)
            known = {f.name: given[f.name] for f in fields(cls) if f.name in given}
            return cls(**{**known, "dependencies": tuple(given["dependencies"])})
        except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
            raise errors.MalformedEnvelope(f"not a revision record: {type(error).__name__}") from None


# -- what comes back ---------------------------------------------------------------------------------


def open_outcome(raw: bytes, keys: Keys, *, endpoint: str, job: str, call_digest: str) -> Envelope:
    """Verify an outcome: of this job, and answering this very call.

    Raises: EnvelopeError.
    """
    opened = envelope.open_sealed(raw, keys, direction=Direction.OUTCOME, endpoint=endpoint, job=job)
    if call_digest and opened.header.call_digest != call_digest:
        raise errors.WrongBinding(f"the outcome of job {job} answers another call than the one sent")
    return opened


def open_chunk(
    raw: bytes, keys: Keys, *, endpoint: str, job: str, fence: int, number: int, call_digest: str
) -> Envelope:
    """Verify one of the values that a job yielded: of this job and run, with this number, answering this very call.

    Raises: EnvelopeError.
    """
    opened = envelope.open_sealed(raw, keys, direction=Direction.CHUNK, endpoint=endpoint, job=job)
    header = opened.header
    if (header.fence, header.sequence) != (fence, number):
        raise errors.WrongBinding(f"chunk {number} of job {job} is of another run, or another number")
    if call_digest and header.call_digest != call_digest:
        raise errors.WrongBinding(f"chunk {number} of job {job} answers another call than the one sent")
    return opened


def load_value(opened: Envelope) -> Any:
    """The value of a verified, successful outcome. What decoding it raises is raised as RemoteError."""
    if opened.header.encoding == "json":
        return load_json(opened)
    import cloudpickle

    try:
        return cloudpickle.loads(opened.payload)
    except Exception as error:
        raise errors.RemoteError(
            f"the result cannot be unpickled here: {type(error).__name__}: {error}", job_id=opened.header.job
        ) from error


def load_json(opened: Envelope) -> Any:
    """The value of a verified outcome in JSON. Raises RemoteError where it is none: user code may have written it."""
    try:
        return json.loads(opened.payload)
    except (ValueError, RecursionError) as error:
        raise errors.RemoteError(f"the result is no JSON: {error}", job_id=opened.header.job) from None


def failure_of(opened: Envelope) -> Failure:
    """The failure in a verified outcome.

    Raises: MalformedEnvelope where it is none.
    """
    if opened.header.encoding != FAILURE_ENCODING:
        raise errors.MalformedEnvelope("a failure outcome expected")
    return Failure.unpack(opened.payload)


def exception_for(failure: Failure, job: str) -> BaseException:
    """What the caller gets raised for a failure whose signature was verified."""
    return failures.exception_for(failure, job, unpickled)


def unpickled(raw: bytes) -> Any:
    """An object out of a verified record. Raises whatever unpickling it raises."""
    import cloudpickle

    return cloudpickle.loads(raw)


# -- env= --------------------------------------------------------------------------------------------


def seal_environment(values: Mapping[str, str], keys: Keys, endpoint: str) -> bytes:
    """Encrypt the values of `env=` (ChaCha20-Poly1305 under a derived key, bound to the endpoint)."""
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    key = keys.signing(Direction.ENVIRONMENT, endpoint)
    nonce = os.urandom(_SEAL_NONCE_BYTES)
    plain = json.dumps(dict(values), sort_keys=True).encode()
    sealed = ChaCha20Poly1305(key.secret).encrypt(nonce, plain, endpoint.encode())
    return bytes(msgpack.packb([key.id, nonce, sealed]))


def open_environment(raw: bytes, keys: Keys, endpoint: str) -> dict[str, str]:
    """The values of `env=`.

    Raises: MalformedEnvelope, UnknownKey, BadSignature.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    try:
        key_id, nonce, sealed = msgpack.unpackb(raw, raw=False)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise errors.MalformedEnvelope(f"not a sealed environment: {type(error).__name__}") from None
    key = keys.find(str(key_id), Direction.ENVIRONMENT, endpoint)
    if key is None:
        raise errors.UnknownKey(
            f"env of endpoint {endpoint} is sealed with key {key_id!r}, not accepted here"
        )
    try:
        plain = ChaCha20Poly1305(key.secret).decrypt(nonce, sealed, endpoint.encode())
    except (InvalidTag, ValueError, TypeError):
        raise errors.BadSignature(f"env of endpoint {endpoint} was altered") from None
    values: dict[str, str] = json.loads(plain)
    return values


def environment_tag(values: Mapping[str, str], keys: Keys, endpoint: str) -> str:
    """Names these values, so that whoever reads it cannot guess at them; while keys overlap it stays the same."""
    if not values:
        return ""
    key = min(keys.verifying(Direction.ENVIRONMENT, endpoint), key=lambda key: key.id)
    plain = json.dumps(dict(values), sort_keys=True).encode()
    return hmac.digest(key.secret, b"flashq/env-tag/1\0" + plain, "sha256").hex()[:32]


# -- sealing a call ----------------------------------------------------------------------------------


def seal_call(header: Header, payload: bytes, keys: Keys) -> tuple[bytes, str]:
    """The signed call, and the digest its outcome will quote."""
    raw, signature = envelope.seal_with_signature(header, payload, keys)
    return raw, envelope.signature_digest(signature)
