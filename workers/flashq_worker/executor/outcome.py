"""What the executor answers about one job: value, exception or interruption, as parts of an OUTCOME frame.

Everything here may run user code (`__reduce__`, `__str__`, `__getattr__`) and so may meet any exception at
all; whatever happens, an outcome is made.
"""

from __future__ import annotations

import errno
import json
import os
import pickle
import traceback
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import cloudpickle

from flashq_worker.executor.frames import LONGEST_NAME, MAX_FRAME_BYTES, MAX_META_BYTES, MOST_NAMES

if TYPE_CHECKING:
    from collections.abc import Mapping

_TEXT_LIMIT = 64 * 1024
"""Characters kept of a message or a traceback: its beginning and its end."""

_blob_limit = MAX_FRAME_BYTES - MAX_META_BYTES
"""Bytes that a value or an exception may take; less where `limit_blobs` said so."""

_OWN_FOLDERS = (os.path.dirname(__file__) + os.sep, os.path.dirname(cloudpickle.__file__) + os.sep)  # noqa: PTH120
_PLAIN = frozenset({type(None), bool, int, float, str, bytes})  # these need nothing that cloudpickle adds
_OF_MACHINE = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE),  # its disks
        *(errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN),  # its memory, files and processes
    }
)
_encode_json = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


_STATUS_OF_REASON = {"cancel": "cancelled", "timeout": "timeout", "give-back": "skipped"}


class Outcome(NamedTuple):
    """Meta and blob of an OUTCOME frame. Below, `run` is the meta of the RUN frame that it answers."""

    meta: dict[str, Any]
    blob: bytes = b""


def limit_blobs(limit: int) -> None:
    """Say, for this process, how many bytes a value or an exception may take."""
    global _blob_limit
    _blob_limit = min(limit, _blob_limit)


def arguments(encoding: str, payload: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The positional and keyword arguments a RUN frame carries.

    JSON: ``{"args": […], "kwargs": {…}}`` (either may be missing) or ``{"input": …}``, whose object is the
    keyword arguments and whose anything else is the one argument.
    """
    if encoding == "pickle":
        args, kwargs = pickle.loads(payload)
        return args, kwargs
    call = json.loads(payload)
    if isinstance(call, dict):
        if call.keys() == {"input"}:
            given = call["input"]
            return ((), given) if isinstance(given, dict) else ((given,), {})
        args, kwargs = call.get("args", []), call.get("kwargs", {})
        if call and call.keys() <= {"args", "kwargs"} and isinstance(args, list) and isinstance(kwargs, dict):
            return tuple(args), kwargs
    raise TypeError('a JSON call is {"input": …} or {"args": […], "kwargs": {…}}')


def returned(run: Mapping[str, Any], execution_ms: float, value: Any) -> Outcome:
    """The job returned `value`; where that cannot be encoded, an "unserializable" error says why."""
    try:
        blob = _encoded(run, value, "the result")
    except Unserializable as error:
        return unserializable(run, execution_ms, error)
    return Outcome(_meta(run, "ok", execution_ms), blob)


class Unserializable(Exception):
    """A value that cannot travel. `said`: what its outcome says."""

    def __init__(self, said: dict[str, Any]) -> None:
        super().__init__(said["message"])
        self.said = said


def _encoded(run: Mapping[str, Any], value: Any, what: str) -> bytes:
    """The bytes of a value. Raises Unserializable."""
    try:
        if run["encoding"] == "json":
            blob = _json(value).encode()
        elif type(value) in _PLAIN:
            blob = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
        else:
            blob = cloudpickle.dumps(value)
    except BaseException as error:
        raise Unserializable(_no_bytes(run, value, what, error)) from error
    if len(blob) > _blob_limit:
        message = f"{what} takes {len(blob):,} bytes encoded; the limit is {_blob_limit:,}"
        raise Unserializable({"type": "", "message": message, "traceback": ""})
    return bytes(blob)


def _json(value: Any) -> str:
    try:
        return _encode_json(value)
    except TypeError:  # it is, or has in it, more than JSON's own kinds
        from flashq_worker.executor import to_json

        return to_json.encode(value)


def _no_bytes(run: Mapping[str, Any], value: Any, what: str, error: BaseException) -> dict[str, Any]:
    how = "written as JSON" if run["encoding"] == "json" else "pickled"
    about = described(error)
    about["message"] = _bounded(
        f"{what}, of type {_type_name(type(value))}, cannot be {how}: {about['type']}: {about['message']}"
    )
    return about


def chunk(run: Mapping[str, Any], number: int, value: Any) -> Outcome:
    """Meta and blob of the CHUNK frame for the value that a job yielded. Raises Unserializable."""
    meta = {"job": run["job"], "fence": run["fence"], "number": number, "encoding": run["encoding"]}
    return Outcome(meta, _encoded(run, value, f"value {number} that it yielded"))


def unserializable(run: Mapping[str, Any], execution_ms: float, error: Unserializable) -> Outcome:
    """The job returned, or yielded, what cannot travel."""
    return _error(run, execution_ms, {"kind": "unserializable", **error.said})


def raised(run: Mapping[str, Any], execution_ms: float, error: BaseException) -> Outcome:
    """The job raised `error`: its text always, and the exception itself where it survives the journey."""
    blob = b"" if run["encoding"] == "json" else _pickled_exception(error)
    return _error(run, execution_ms, {"kind": "exception", **described(error)}, blob)


def interrupted(run: Mapping[str, Any], execution_ms: float, reason: str) -> Outcome:
    """The job was interrupted for the `reason` of a CANCEL frame, or dropped for it before it began."""
    return Outcome(_meta(run, _STATUS_OF_REASON[reason], execution_ms))


def described(error: BaseException) -> dict[str, Any]:
    """Type, message and traceback of `error` as text, and its classes; the traceback without flashq's own frames."""
    return {
        "type": _type_name(type(error)),
        "message": _bounded(_message(error)),
        "traceback": _bounded(_traceback(error)),
        "types": _family(type(error)),
    }


def of_machine(error: BaseException) -> bool:
    """Whether this is trouble of the machine, by what the system said: elsewhere, or later, the same may well work.

    An OSError without one of these numbers is not: libraries raise them for a model that is not there, and a path that
    does not exist will not exist the next time.
    """
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _OF_MACHINE)


def milliseconds_since(started: float) -> float:
    """How long ago `started`, a time of perf_counter, was; in milliseconds, rounded to microseconds."""
    return round((perf_counter() - started) * 1000, 3)


def _meta(run: Mapping[str, Any], status: str, execution_ms: float) -> dict[str, Any]:
    return {
        "job": run["job"],
        "fence": run["fence"],
        "status": status,
        "encoding": run["encoding"],
        "execution_ms": execution_ms,
    }


def _error(run: Mapping[str, Any], execution_ms: float, error: dict[str, Any], blob: bytes = b"") -> Outcome:
    return Outcome({**_meta(run, "error", execution_ms), "error": error}, blob)


def _pickled_exception(error: BaseException) -> bytes:
    """The exception, or nothing where it does not come back out of its pickle as an exception of its type."""
    try:
        blob = cloudpickle.dumps(error)
        if len(blob) <= _blob_limit and type(pickle.loads(blob)) is type(error):
            return bytes(blob)
    except BaseException:  # noqa: BLE001 - an exception class may raise anything from __reduce__ or __init__
        return b""
    return b""


def _type_name(kind: type) -> str:
    """The name as a traceback shows it: bare for builtins and for what the user's script defines."""
    module = kind.__module__
    name = kind.__qualname__ if module in ("builtins", "__main__") else f"{module}.{kind.__qualname__}"
    return _bounded_name(name)


def _family(kind: type) -> list[str]:
    """The exception's class and its bases, nearest first, as flashq.model.retry names them."""
    classes = [c for c in kind.__mro__ if issubclass(c, BaseException)]
    names = [
        c.__qualname__ if c.__module__ == "builtins" else f"{c.__module__}.{c.__qualname__}" for c in classes
    ]
    return [_bounded_name(name) for name in names[:MOST_NAMES]]


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:  # noqa: BLE001 - __str__ is user code
        return f"<a {_type_name(type(error))} whose text cannot be had>"


def _traceback(error: BaseException) -> str:
    try:
        shown = traceback.TracebackException.from_exception(error)
        pending = [shown]
        while pending:  # the exception, its causes and contexts, the members of a group
            part = pending.pop()
            part.stack[:] = [frame for frame in part.stack if not frame.filename.startswith(_OWN_FOLDERS)]
            pending += [linked for linked in (part.__cause__, part.__context__) if linked is not None]
            pending += part.exceptions or []
        return "".join(shown.format())
    except BaseException as failure:  # noqa: BLE001 - reads user objects all along the chain
        return f"{_type_name(type(error))}: {_message(error)}\n(no traceback: {_type_name(type(failure))})\n"


def _bounded_name(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()[:LONGEST_NAME]


def _bounded(text: str) -> str:
    """`text` as it can be sent: no lone surrogates, and its middle cut out where it is very long."""
    if len(text) > _TEXT_LIMIT:
        half = _TEXT_LIMIT // 2
        text = f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"
    return text.encode("utf-8", "backslashreplace").decode()
