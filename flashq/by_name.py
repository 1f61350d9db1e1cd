"""An endpoint as the broker has it now: its current revision, verified, and the defaults of its calls.

For whoever calls by name what something else registered. Nothing is unpickled here.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flashq import codec, errors
from flashq.model.envelope import open_sealed
from flashq.model.keyring import Direction
from flashq.model.spec import EndpointSpec
from flashq.store.command import text
from flashq.store.queries import read_hash

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flashq.model.envelope import Keys
    from flashq.store.broker import Broker

FRESH_S = 1.0
"""For how long calls go by what was read: so long after an update may calls by name still reach the code before it."""


@dataclass(frozen=True, slots=True)
class Current:
    """What a call by name needs to know of its endpoint."""

    endpoint: str
    revision: str
    env_tag: str
    python: str
    mode: str
    targets: Mapping[str, str]
    """Of a class: its methods, each with its kind."""
    spec: EndpointSpec
    """Its name and what its calls are submitted with; nothing else of it is known here."""
    schemas: str = ""
    """Of each target's parameters, as JSON: see `flashq.signature`. Empty: an earlier version registered it."""
    gathers: bool = False
    """Whether calls are run together: each gives one item."""

    def kind(self, target: str) -> str:
        """The kind of what a call of this target runs. Raises UnsupportedCall where there is no such target."""
        if not self.targets:
            if target:
                raise errors.UnsupportedCall(
                    f"endpoint {self.endpoint!r} is a function: it has no {target!r}"
                )
            return self.mode
        if target not in self.targets:
            have = ", ".join(self.targets)
            what = f"no method {target!r}" if target else "methods to be called"
            raise errors.UnsupportedCall(f"endpoint {self.endpoint!r} is a class with {what}: it has {have}")
        return self.targets[target]


def read_current(broker: Broker, keys: Keys, endpoint: str) -> Current:
    """Read and verify it. Raises: EndpointNotFound, EnvelopeError, BrokerError."""
    names = ("revision", "spec", "env_tag")
    record = read_hash(broker, broker.keys.of("endpoint", endpoint), names)
    revision = record["revision"]
    if not revision:
        raise errors.EndpointNotFound(f"no endpoint {endpoint!r} is registered: see `flashq endpoints`")
    raw = broker.execute("GET", broker.keys.of("revision", endpoint, revision)) or b""
    opened = open_sealed(raw, keys, direction=Direction.REVISION, endpoint=endpoint)
    if opened.header.revision != revision:
        raise errors.WrongBinding(f"the record of revision {revision[:12]} of {endpoint} is another's")
    found = codec.Revision.unpack(opened.payload)
    try:
        defaults = json.loads(text(record["spec"]) or "{}").get("call_defaults", {})
        spec = EndpointSpec(name=endpoint, cpu="any", **defaults)
    except (ValueError, TypeError, AttributeError) as error:
        raise errors.BrokerError(f"the record of endpoint {endpoint} cannot be read: {error}") from None
    return Current(
        endpoint=endpoint,
        revision=revision,
        env_tag=text(record["env_tag"] or ""),
        python=found.python,
        mode=found.mode,
        targets=found.targets,
        spec=spec,
        schemas=found.schemas,
        gathers=found.batch_ms is not None,
    )


@dataclass(slots=True)
class CurrentOnes:
    """What was read of each, for `FRESH_S` seconds."""

    read: Callable[[str], Current]
    _found: dict[str, tuple[float, Current]] = field(default_factory=dict)

    def of(self, endpoint: str) -> Current:
        """See `read_current`."""
        known = self._found.get(endpoint)
        if known is None or time.monotonic() > known[0]:
            known = self._found[endpoint] = (time.monotonic() + FRESH_S, self.read(endpoint))
        return known[1]

    def forget(self, endpoint: str) -> None:
        """It is not what it was: the next call reads it."""
        self._found.pop(endpoint, None)


def check_item(endpoint: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Raises TypeError where a call of what gathers calls gives anything but one item."""
    if len(args) != 1 or kwargs:
        raise TypeError(f"endpoint {endpoint!r} gathers calls: each gives one item, by its place")


def check_python(current: Current) -> None:
    """Raises PythonMismatch where its workers cannot unpickle what is pickled here."""
    if current.python != codec.PYTHON:
        raise errors.PythonMismatch(
            f"endpoint {current.endpoint} runs Python {current.python} and this is {codec.PYTHON}: pickled arguments "
            "need the same minor version; `flashq call` and the gateway send JSON"
        )
