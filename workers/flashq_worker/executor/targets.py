"""What an executor has loaded: a function, or the methods of an instance that it keeps."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any, NamedTuple

from flashq_worker.executor import outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flashq_worker.executor.from_json import Parameters

STREAMS = ("generator", "async_generator")


class Target(NamedTuple):
    """What one call runs. `streams`: it yields its values. `makes`: its arguments, of what calls in JSON say."""

    run: Callable[..., Any]
    streams: bool
    makes: _Maker

    def arguments(self, encoding: str, payload: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What a RUN frame's payload has it called with."""
        args, kwargs = outcome.arguments(encoding, payload)
        return self.makes.parameters.make(args, kwargs) if encoding == "json" else (args, kwargs)


class _Maker:
    """Has a target's parameters looked at when the first call in JSON comes."""

    def __init__(self, function: Callable[..., Any], types: _Types, target: str) -> None:
        self._function, self._types, self._target = function, types, target
        self._made: Parameters | None = None

    @property
    def parameters(self) -> Parameters:
        if self._made is None:
            from flashq_worker.executor.from_json import Parameters

            self._made = Parameters(self._function, self._types.of(self._target))
        return self._made


class _Types:
    """The pickled types of all targets' parameters, themselves pickled."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def of(self, target: str) -> Mapping[str, bytes]:
        found: Mapping[str, bytes] = pickle.loads(self._raw).get(target, {}) if self._raw else {}
        return found


class Targets:
    """By the target that a RUN frame names: "" is the function itself."""

    def __init__(
        self, code: Callable[..., Any], mode: str, methods: Mapping[str, str], types: bytes = b""
    ) -> None:
        """`methods`: of a class, whose instance `code` makes now, each with its kind. Raises what that raises.

        `types`: what the arguments of calls in JSON are made; empty: they stay what JSON gives.
        """
        self._instance: Any = None
        known = _Types(types)
        if not methods:
            self._by_name = {"": Target(code, mode in STREAMS, _Maker(code, known, ""))}
            return
        self._instance = code()
        bound = {name: getattr(self._instance, name) for name in methods}
        self._by_name = {
            name: Target(bound[name], kind in STREAMS, _Maker(bound[name], known, name))
            for name, kind in methods.items()
        }

    def of(self, run: Mapping[str, Any]) -> Target:
        """What the job of a RUN frame, of this meta, calls."""
        return self._by_name[run.get("target", "")]

    def tear_down(self) -> None:
        """The end of an instance's life, where nothing more will be called. Raises what its `teardown` raises."""
        hook = getattr(self._instance, "teardown", None)
        if hook is not None:
            hook()
