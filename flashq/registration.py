"""An endpoint made ready for the broker: its digests and its signed revision record, computed once per program."""

from __future__ import annotations

import contextlib
import hashlib
import uuid
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flashq import class_identity, codec, shipping
from flashq.kinds import kind_of
from flashq.model import spec as specs
from flashq.model.envelope import Header, seal
from flashq.model.keyring import Direction
from flashq.revision import RevisionWarning, describe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flashq.model.envelope import RootKeys
    from flashq.model.spec import EndpointSpec
    from flashq.store.command import Command
    from flashq.store.records import Registered
    from flashq.store.transitions import Transitions

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


def prepare(
    spec: EndpointSpec, function: Callable[..., Any], keys: RootKeys, payload_limit: int
) -> Registration:
    """Digest, pickle and sign an endpoint.

    The revision's digest stands for its code, environment and resources: the same script gives the same one.
    Raises: SerializationError, PayloadTooLarge.
    """
    assert spec.name is not None
    environment = specs.environment_digest(spec)
    resources = specs.resource_digest(spec)
    code = describe(function)
    shipped, bundle = shipping.bundle(spec.name, function, code)
    named = [code.digest, environment, resources, *([shipped] if shipped else [])]
    digest = hashlib.sha256("\0".join(["flashq/revision/1", *named]).encode()).hexdigest()
    public = specs.canonical_json(specs.public(spec))
    if code.uncomparable:
        warnings.warn(
            f"endpoint {spec.name} captures {', '.join(code.uncomparable)}: a change in such a value is not noticed",
            RevisionWarning,
            stacklevel=4,
        )
    pickled = codec.dump_function(function, code.by_value, class_identity.settle)
    codec.check_size(len(pickled), payload_limit, f"the function {function.__qualname__}")
    revision = codec.Revision(
        function=pickled,
        qualname=function.__qualname__,
        mode=_mode(function),
        targets=_targets(function),
        batch_ms=spec.batch[1] if spec.batch else None,
        python=codec.PYTHON,
        dependencies=spec.dependencies,
        concurrency=specs.concurrency(spec),
        environment=environment,
        spec=public,
        bundle=bundle,
    )
    header = Header(
        direction=Direction.REVISION,
        endpoint=spec.name,
        revision=digest,
        python=codec.PYTHON,
        cloudpickle=codec.cloudpickle_version(),
    )
    env = codec.seal_environment(spec.env, keys, spec.name) if spec.env else b""
    key_id = keys.ids[0]
    return Registration(
        endpoint=spec.name,
        revision=digest,
        environment=environment,
        resources=resources,
        needs=specs.needs_digest(spec),
        spec=spec,
        record=seal(header, revision.pack(), keys, key_id=key_id),
        key_id=key_id,
        public=public,
        scaling=specs.canonical_json(specs.scaling(spec)),
        env_tag=codec.environment_tag(spec.env, keys, spec.name),
        env=env,
        by_value=code.by_value,
    )


def _targets(function: Callable[..., Any]) -> dict[str, str]:
    """Of a class endpoint's code: the methods that may be called, each with its kind."""
    return dict(getattr(function, "__flashq_targets__", {}))


def _mode(function: Callable[..., Any]) -> str:
    """How a worker runs it; a class that has any coroutine among its methods, on an event loop."""
    targets = _targets(function)
    if targets:
        return "async" if any(kind.startswith("async") for kind in targets.values()) else "sync"
    return kind_of(function)


def callables_used(function: Callable[..., Any]) -> tuple[int, ...]:
    """Identities of the functions and classes a function refers to by name: another one means it was redefined.

    Plain values are not looked at: they are what they were when the endpoint was first called.
    """
    code, space = function.__code__, function.__globals__
    named = [space.get(name) for name in code.co_names]
    return tuple(id(value) for value in (*named, *_captured(function)) if callable(value))


def _captured(function: Callable[..., Any]) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # not filled yet
            yield cell.cell_contents
