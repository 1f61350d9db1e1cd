"""An endpoint made ready for the broker: its digests and its signed revision record, computed once per program."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import logging
import sys
import types
import uuid
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flashq import captures, class_identity, codec, shipping, signature
from flashq.errors import SerializationError
from flashq.kinds import kind_of
from flashq.model import spec as specs
from flashq.model.envelope import Header, seal
from flashq.model.keyring import Direction
from flashq.notices import level_of_caller
from flashq.revision import ENDPOINT_MARK, RevisionWarning, describe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from flashq.endpoint_function import EndpointFunction
    from flashq.model.envelope import RootKeys
    from flashq.model.spec import EndpointSpec
    from flashq.revision import CodeDescription
    from flashq.store.command import Command
    from flashq.store.records import Registered
    from flashq.store.transitions import Transitions

log = logging.getLogger("flashq")

#: Names this program in the endpoint's record, so that each can be told when another takes a name over.
PROGRAM = uuid.uuid4().hex[:16]


@dataclass(frozen=True, slots=True)
class Registration:
    """What REGISTER sends for an endpoint, and what each call of it needs."""

    endpoint: str
    revision: str
    environment: str
    resources: str
    needs: str
    spec: EndpointSpec
    record: bytes
    key_id: str  # names the key that signed it
    public: str
    scaling: str
    env_tag: str
    env: bytes
    by_value: frozenset[str]  # modules whose functions and classes do not travel by name
    calls: tuple[EndpointFunction[..., Any], ...]  # what its jobs may call: on record before it

    def command(self, transitions: Transitions) -> Command[Registered]:
        """The REGISTER command."""
        return transitions.register(
            self.endpoint,
            revision=self.revision,
            environment=self.environment,
            resources=self.resources,
            spec=self.public,
            scaling=self.scaling,
            program=PROGRAM,
            record=self.record,
            key_id=self.key_id,
            env_tag=self.env_tag,
            env=self.env,
            needs=self.needs,
        )


@dataclass(frozen=True, slots=True)
class Draft:
    """An endpoint's code as it is now, before it is known what revisions of others it calls."""

    spec: EndpointSpec
    function: Callable[..., Any]
    code: CodeDescription
    bundle: bytes
    parts: tuple[str, ...]
    """What its revision's digest is of, but for what it calls."""
    calls: tuple[EndpointFunction[..., Any], ...]
    """The endpoints that it may call from inside its jobs."""
    defaults: tuple[EndpointFunction[..., Any], ...] = ()
    """Handles without arguments of classes that it refers to: its jobs may make such."""
    by_name: tuple[str, ...] = ()
    """Those that something else deploys: whatever revision is current may be called."""

    @property
    def name(self) -> str:
        assert self.spec.name is not None
        return self.spec.name

    def digest(self, reached: Iterable[Draft]) -> str:
        """The revision's digest. `reached`: all that its calls may lead to; code of theirs that changes is a change."""
        others = sorted(
            f"{other.name} {' '.join(other.parts)}" for other in reached if other.name != self.name
        )
        return hashlib.sha256("\0".join(["flashq/revision/1", *self.parts, *others]).encode()).hexdigest()


def draft(spec: EndpointSpec, function: Callable[..., Any]) -> Draft:
    """Look at an endpoint's code. Raises: SerializationError, PayloadTooLarge."""
    assert spec.name is not None
    code = describe(function)
    shipped = shipping.bundle(spec.name, function, code)
    if code.uncomparable:
        warnings.warn(
            f"endpoint {spec.name} captures {', '.join(code.uncomparable)}: a change in such a value is not noticed",
            RevisionWarning,
            stacklevel=level_of_caller(),
        )
    parts = (code.digest, specs.environment_digest(spec), specs.resource_digest(spec))
    process = specs.process(spec)
    _import(shipped.with_endpoints, spec.name)
    calls, defaults, by_name = _called(code, shipped.modules)
    return Draft(
        spec=spec,
        function=function,
        code=code,
        bundle=shipped.raw,
        parts=(
            *parts,
            *([shipped.digest] if shipped.digest else []),
            *([specs.canonical_json(process)] if process else []),
            *([f"port {port}"] if (port := _port(spec, function)) else []),
        ),
        calls=calls,
        defaults=defaults,
        by_name=by_name,
    )


def _import(modules: Iterable[str], endpoint: str) -> None:
    """Import what the function imports only when it runs, where that defines endpoints: what it calls has to be known.

    One that can't be imported here is left out: its endpoints can't be called from a job.
    """
    for name in modules:
        if name not in sys.modules:
            try:
                importlib.import_module(name)
            except Exception as error:  # noqa: BLE001 -- it is the user's module
                log.warning(
                    "flashq: endpoint %s imports %s when it runs, whose endpoints it can't call, since importing that"
                    " fails here: %s: %s",
                    *(endpoint, name, type(error).__name__, error),
                )


_Called = tuple["EndpointFunction[..., Any]", ...]


def _called(code: CodeDescription, modules: Iterable[str]) -> tuple[_Called, _Called, tuple[str, ...]]:
    """The endpoints that a function captures, and those that the modules shipped with it define.

    Those that may be called, for classes the handles that a job may make, and names of what something else deploys.
    """
    defined = (value for name in modules for value in vars(sys.modules.get(name, _NOTHING)).values())
    calls, defaults = {}, {}
    by_name: set[str] = set()
    for value in (*code.endpoints, *defined):
        if isinstance(value, type) or not isinstance(getattr(value, ENDPOINT_MARK, None), str):
            continue
        if is_by_name(value):
            by_name.add(getattr(value, ENDPOINT_MARK))
        elif (called := getattr(value, "__flashq_function__", None)) is not None:
            calls[id(called.code), called.name] = called
        elif (default := getattr(value, "__flashq_default__", None)) is not None:
            defaults[default.name] = default
    return tuple(calls.values()), tuple(defaults.values()), tuple(sorted(by_name))


def is_by_name(value: Any) -> bool:
    """Whether an endpoint in some variable is one that something else deploys: `Endpoint(id=…)`, or a method of one."""
    return getattr(value, "deployed", False) is True


_NOTHING = types.ModuleType("nothing")


def prepare(
    drafted: Draft, keys: RootKeys, payload_limit: int, digest: str, calls: Mapping[str, str]
) -> Registration:
    """Pickle and sign an endpoint under its revision's `digest`. `calls`: the revisions that its jobs may call.

    Raises: SerializationError, PayloadTooLarge.
    """
    spec, function, code = drafted.spec, drafted.function, drafted.code
    environment, resources = specs.environment_digest(spec), specs.resource_digest(spec)
    public = specs.canonical_json(specs.public(spec))
    pickled = _pickled(function, code.by_value)
    codec.check_size(len(pickled), payload_limit, f"the function {function.__qualname__}")
    described = signature.describe(
        callables_of(function),
        batch=spec.batch is not None,
        methods=hasattr(function, "__flashq_class__"),
        by_value=code.by_value,
        settle=class_identity.settle,
    )
    revision = codec.Revision(
        function=pickled,
        qualname=function.__qualname__,
        mode=mode_of(function),
        targets=targets_of(function),
        batch_ms=spec.batch[1] if spec.batch else None,
        python=codec.PYTHON,
        dependencies=spec.dependencies,
        concurrency=specs.concurrency(spec),
        environment=environment,
        spec=public,
        bundle=drafted.bundle,
        calls=dict(calls),
        process=specs.process(spec),
        serves=_port(spec, function),
        schemas=described.schemas,
        types=described.types,
        texts=[list(text) for text in code.texts],
    )
    header = Header(
        direction=Direction.REVISION,
        endpoint=drafted.name,
        revision=digest,
        python=codec.PYTHON,
        cloudpickle=codec.cloudpickle_version(),
    )
    env = codec.seal_environment(spec.env, keys, drafted.name) if spec.env else b""
    key_id = keys.ids[0]
    return Registration(
        endpoint=drafted.name,
        revision=digest,
        environment=environment,
        resources=resources,
        needs=specs.needs_digest(spec),
        spec=spec,
        record=seal(header, revision.pack(), keys, key_id=key_id),
        key_id=key_id,
        public=public,
        scaling=specs.canonical_json(specs.scaling(spec)),
        env_tag=codec.environment_tag(spec.env, keys, drafted.name),
        env=env,
        by_value=code.by_value,
        calls=drafted.calls,
    )


def _pickled(function: Callable[..., Any], by_value: frozenset[str]) -> bytes:
    try:
        return codec.dump_function(function, by_value, class_identity.settle)
    except SerializationError:
        found = captures.culprit(
            function, lambda value: codec.trouble(value, by_value, class_identity.settle)
        )
        if found is None:
            raise
        raise codec.unpicklable(function, *found) from found[1]


def targets_of(function: Callable[..., Any]) -> dict[str, str]:
    """Of a class endpoint's code: the methods that may be called, each with its kind."""
    return dict(getattr(function, "__flashq_targets__", {}))


def callables_of(function: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    """What may be called, by target."""
    if behind := getattr(function, "__flashq_callables__", None):
        return dict(behind)
    cls = getattr(function, "__flashq_class__", None)
    return {name: getattr(cls, name) for name in targets_of(function)} or {"": function}


def _port(spec: EndpointSpec, function: Callable[..., Any]) -> int:
    """Where an image's own server listens; 0: functions run in the image, if there is one."""
    return specs.port(spec) if getattr(function, "__flashq_serves__", False) else 0


def mode_of(function: Callable[..., Any]) -> str:
    """How a worker runs it; a class that has any coroutine among its methods, on an event loop."""
    targets = targets_of(function)
    if targets:
        return "async" if any(kind.startswith("async") for kind in targets.values()) else "sync"
    return kind_of(function)


def callables_used(function: Callable[..., Any]) -> tuple[int, ...]:
    """Identities of the functions and classes a function refers to by name: another one means it was redefined.

    Those of endpoints that it may call among them, and what these refer to. Plain values are not looked at: they are
    what they were when the endpoint was first called.
    """
    found: dict[int, None] = {}
    pending = [function]
    while pending:
        code, space = pending[-1].__code__, pending[-1].__globals__
        named = [space.get(name) for name in code.co_names]
        for value in (*named, *_captured(pending.pop())):
            if callable(value) and id(value) not in found:
                found[id(value)] = None
                if not isinstance(value, type) and hasattr(type(value), "__flashq_function__"):
                    pending.append(value.__flashq_function__.code)
    return tuple(found)


def _captured(function: Callable[..., Any]) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # not filled yet
            yield cell.cell_contents
