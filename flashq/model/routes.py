"""Routes of HTTP endpoints: a method and a path template, as FastAPI writes them. Pure.

`"GET /items/{id}"` is a route, and the name of the target that runs it. A segment is literal or `{name}`; the last may
be `{name:path}`, which takes the rest, slashes too. Of several routes that fit, the one with a literal segment where
the others have a name goes first. A request's path comes as its decoded segments: `("items", "7")`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
WITH_BODY = ("POST", "PUT", "PATCH")
MOST_BYTES = 1000
_LITERAL = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@-]+")
_NAMED = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(:path)?\}")


@dataclass(frozen=True, slots=True)
class Route:
    """One of an endpoint's routes."""

    method: str
    path: str
    segments: tuple[str, ...]
    """Of the path: literals, and names in braces."""

    @property
    def target(self) -> str:
        """What a call of it names."""
        return f"{self.method} {self.path}"

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters that the path gives, in its order."""
        return tuple(found[1] for segment in self.segments if (found := _NAMED.fullmatch(segment)))

    @property
    def shape(self) -> tuple[str, ...]:
        """The same for two routes of which no request could tell which is meant."""
        return (self.method, *(_NAMED.sub(r"{\2}", segment) for segment in self.segments))

    def match(self, path: Sequence[str]) -> dict[str, str] | None:
        """What a request's path gives each name; None where it is another's."""
        found = {}
        for at, segment in enumerate(self.segments):
            named = _NAMED.fullmatch(segment)
            if named is not None and named[2]:
                found[named[1]] = "/".join(path[at:])
                return found
            if at >= len(path) or (path[at] != segment if named is None else not path[at]):
                return None
            if named is not None:
                found[named[1]] = path[at]
        return found if len(path) == len(self.segments) else None


@cache
def parse(target: str) -> Route | None:
    """The route that a target is; None where it is none (a method of a class)."""
    method, _, path = target.partition(" ")
    return made(method, path) if method in METHODS and path else None


def made(method: str, path: str) -> Route:
    """A route. Raises ValueError, which says what is wrong with its path."""
    if not str(path).startswith("/"):
        raise ValueError(f"a route's path begins with '/', such as '/predict': not {path!r}")
    if len(path.encode()) > MOST_BYTES:
        raise ValueError(f"a route's path has at most {MOST_BYTES} bytes")
    segments = path[1:].split("/")
    names = []
    for at, segment in enumerate(segments):
        named = _NAMED.fullmatch(segment)
        if named is not None:
            names.append(named[1])
            if named[2] and at < len(segments) - 1:
                raise ValueError(f"{segment} takes the rest of the path, so it comes last: {path}")
        elif not _LITERAL.fullmatch(segment) and (segment or at < len(segments) - 1):
            raise ValueError(
                f"{segment!r} is neither a plain segment nor a whole one in braces such as {{name}}: {path}"
            )
    if len(set(names)) < len(names):
        raise ValueError(f"a name stands twice in {path}")
    return Route(method, path, tuple(segments))


def find(targets: Iterable[str], method: str, path: Sequence[str]) -> tuple[Route, dict[str, str]] | None:
    """Which of these a request is for, and what its path says; None: of none."""
    fitting = [
        (route, found)
        for route in map(parse, targets)
        if route is not None and route.method == method and (found := route.match(path)) is not None
    ]
    return min(fitting, key=lambda each: _generality(each[0])) if fitting else None


def allowed(targets: Iterable[str], path: Sequence[str]) -> list[str]:
    """The methods that a path takes."""
    routes = [route for route in map(parse, targets) if route is not None]
    return sorted({route.method for route in routes if route.match(path) is not None})


def _generality(route: Route) -> tuple[int, ...]:
    kinds = (_NAMED.fullmatch(segment) for segment in route.segments)
    return tuple(0 if named is None else 2 if named[2] else 1 for named in kinds)
