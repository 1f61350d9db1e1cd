"""What an executor has loaded: a function, or the methods of an instance that it keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

STREAMS = ("generator", "async_generator")


class Target(NamedTuple):
    """What one call runs. `streams`: it yields its values."""

    run: Callable[..., Any]
    streams: bool


class Targets:
    """By the target that a RUN frame names: "" is the function itself."""

    def __init__(self, code: Callable[..., Any], mode: str, methods: Mapping[str, str]) -> None:
        """`methods`: of a class, whose instance `code` makes now, each with its kind. Raises what that raises."""
        self._instance: Any = None
        if not methods:
            self._by_name = {"": Target(code, mode in STREAMS)}
            return
        self._instance = code()
        self._by_name = {
            name: Target(getattr(self._instance, name), kind in STREAMS) for name, kind in methods.items()
        }

    def of(self, run: Mapping[str, Any]) -> Target:
        """What the job of a RUN frame, of this meta, calls."""
        return self._by_name[run.get("target", "")]

    def tear_down(self) -> None:
        """The end of an instance's life, where nothing more will be called. Raises what its `teardown` raises."""
        hook = getattr(self._instance, "teardown", None)
        if hook is not None:
            hook()
