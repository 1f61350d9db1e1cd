"""The short addresses of `flashq run`, as Flash has them: `/{file}/runsync`, `/{file}/{function}/runsync`, and routes.

Each is the address of the gateway itself by another name. Pure, but for the ASGI wrapper at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flashq.dev.live import PREFIX
from flashq.model.routes import allowed, parse
from flashq.request import IMAGE_TARGETS, segments

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from flashq.dev.project import LiveEndpoint

JOB_VERBS = ("run", "runsync", "status", "stream", "cancel", "retry", "purge-queue", "health")
_OF_GATEWAY = ("v2", "docs", "openapi.json", "healthz", "readyz", "metrics")


class Aliases:
    """Of the endpoints that are live now."""

    def __init__(self, live: Iterable[LiveEndpoint], targets: Mapping[str, Iterable[str]]) -> None:
        """`targets`: those of each endpoint, by its name."""
        live = list(live)
        self._names = {one.name.removeprefix(PREFIX) for one in live}
        self._targets = {one.name: tuple(targets.get(one.name, ())) for one in live}
        self._files: dict[str, list[LiveEndpoint]] = {}
        self._routed = {one.name for one in live if answers_requests(targets.get(one.name, ()))}
        for one in live:
            self._files.setdefault(prefix_of(one), []).append(one)

    def address(self, path: str) -> str:
        """The gateway's own address for a path, which may be that."""
        first, _, rest = path.removeprefix("/").partition("/")
        if first == "v2":
            name, slash, more = rest.partition("/")
            return f"/v2/{PREFIX}{name}{slash}{more}" if name in self._names else path
        for prefix in sorted(self._files, key=len, reverse=True):
            if path.startswith(f"{prefix}/"):
                found = self._in_file(self._files[prefix], path.removeprefix(f"{prefix}/"))
                if found:
                    return found
        if first in self._names and first not in _OF_GATEWAY:
            return f"/{PREFIX}{first}/{rest}"
        return path

    def _in_file(self, live: list[LiveEndpoint], rest: str) -> str:
        first, _, more = rest.partition("/")
        for one in live:
            if one.function == first and more.partition("/")[0] in JOB_VERBS:
                return f"/v2/{one.name}/{more}"
        routed = [one for one in live if one.name in self._routed]
        for one in routed:  # a route of one's own comes before the verbs of a function beside it: "/health"
            if allowed(self._targets[one.name], segments(rest)):
                return f"/{one.name}/{rest}"
        functions = [one for one in live if one.name not in self._routed]
        if len(functions) == 1 and first in JOB_VERBS:
            return f"/v2/{functions[0].name}/{rest}"
        return f"/{routed[0].name}/{rest}" if len(routed) == 1 else ""


def answers_requests(targets: Iterable[str]) -> bool:
    """Whether an endpoint has routes, or is an image that has."""
    return tuple(targets) == IMAGE_TARGETS or any(parse(target) for target in targets)


def prefix_of(one: LiveEndpoint) -> str:
    """The address of a file: "/workers/gpu" of "workers/gpu.py"."""
    return f"/{one.file.removesuffix('.py').removesuffix('/__init__')}"


def calls_of(one: LiveEndpoint, alone: bool) -> str:
    """Where an endpoint's function is called, without the verb. `alone`: its file has no other function."""
    return prefix_of(one) if alone else f"{prefix_of(one)}/{one.function}"


class Aliased:
    """Before the gateway's application: it sees its own addresses. `aliases` may be replaced at any time."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.aliases = Aliases((), {})

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            raw = scope["raw_path"].decode("ascii")
            path, question, query = raw.partition("?")
            found = self.aliases.address(path)
            if found != path:
                from urllib.parse import unquote

                raw_path = f"{found}{question}{query}".encode("ascii")
                scope = {**scope, "path": unquote(found), "raw_path": raw_path}
        await self._app(scope, receive, send)
