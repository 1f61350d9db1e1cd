"""The routes of an HTTP endpoint: several functions on the same workers, each behind a method and a path.

To workers they are what methods are to a class endpoint; a route, such as "POST /predict", is the target's name.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from flashq.endpoint_function import EndpointFunction
from flashq.errors import EndpointExists, SpecError
from flashq.kinds import kind_of
from flashq.model import routes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flashq.model.routes import Route
    from flashq.model.spec import EndpointSpec


class Routes:
    """Those of one endpoint; they may be added to until the program ends."""

    def __init__(self, name: str, spec: EndpointSpec | None) -> None:
        self.name = name
        self._spec = spec
        self._routes: dict[str, Route] = {}
        self._functions: dict[str, EndpointFunction[..., Any]] = {}
        self._schemas: str | None = None

    def __bool__(self) -> bool:
        return bool(self._functions)

    @property
    def kinds(self) -> Mapping[str, str]:
        """By target: see `flashq.kinds`."""
        return {target: kind_of(each.__wrapped__) for target, each in self._functions.items()}

    @property
    def schemas(self) -> str:
        """Of their parameters: see `flashq.signature`."""
        if self._schemas is None:
            from flashq.signature import describe

            here = {target: made.__wrapped__ for target, made in self._functions.items()}
            found = describe(here, batch=False, methods=False, by_value=(), settle=lambda cls: None)
            self._schemas = found.schemas
        return self._schemas

    @property
    def functions(self) -> Mapping[str, EndpointFunction[..., Any]]:
        """By target."""
        return self._functions

    def add(self, method: str, path: str, function: Callable[..., Any]) -> EndpointFunction[..., Any]:
        """Put a function behind a route; the same function again takes its own place (a notebook's cell run again).

        Raises: SpecError, EndpointExists where the route is another's.
        """
        if not inspect.isfunction(function):
            raise SpecError("route", "decorate a function or a coroutine function", value=function)
        route = self._route(method, path, function)
        if self._spec is not None:
            _check(self._spec, function)
        for target, known in self._routes.items():
            other = self._functions[target].__wrapped__
            if known.shape == route.shape and _identity(other) != _identity(function):
                raise EndpointExists(
                    f"endpoint {self.name!r}: {route.target} is {other.__qualname__} already, as {target}: no request "
                    f"could tell it from {function.__qualname__}"
                )
        here = {target: made.__wrapped__ for target, made in self._functions.items()}
        for target in [target for target, known in self._routes.items() if known.shape == route.shape]:
            del here[target], self._functions[target], self._routes[target]
        here[route.target] = function
        self._routes[route.target] = route
        build = builder(here)
        made: EndpointFunction[..., Any] = EndpointFunction(
            self.name, function, self._spec, code=build, target=route.target
        )
        self._functions[route.target] = made
        for each in self._functions.values():
            each.code = build
        self._schemas = None
        return made

    def _route(self, method: str, path: str, function: Callable[..., Any]) -> Route:
        try:
            route = routes.made(method, path)
        except ValueError as error:
            raise SpecError("route", str(error)) from None
        parameters = inspect.signature(function).parameters
        takes_all = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
        if missing := [name for name in route.names if name not in parameters and not takes_all]:
            raise SpecError(
                "route", f"{route.target}: {function.__qualname__} has no parameter {missing[0]!r}"
            )
        return route


def shared(
    before: list[EndpointFunction[..., Any]], function: Callable[..., Any], spec: EndpointSpec | None
) -> EndpointFunction[..., Any]:
    """A further function on the workers of those `before`: each is a target, by its name. Raises SpecError."""
    if spec is not None:
        _check(spec, function)
    name, own = before[0].name, _identity(function)
    others = [
        each for each in before if _identity(each.__wrapped__) != own
    ]  # defined again: it takes its own place
    if taken := next((each for each in others if each.__name__ == function.__name__), None):
        raise EndpointExists(
            f"endpoint {name!r} has {taken.__qualname__} (in {taken.__module__}) by that name already"
        )
    made: EndpointFunction[..., Any] = EndpointFunction(name, function, spec)
    all_of_them = [*others, made]
    build = builder({each.__name__: each.__wrapped__ for each in all_of_them})
    for each in all_of_them:
        each.code, each.target = build, each.__name__
    return made


def builder(functions: Mapping[str, Callable[..., Any]]) -> Callable[[], Any]:
    """The code of an endpoint with routes: what a worker calls to have them, by target."""
    behind = dict(functions)

    def build() -> Any:
        from types import SimpleNamespace

        return SimpleNamespace(**behind)

    first = next(iter(behind.values()))
    build.__module__ = first.__module__
    build.__qualname__ = f"{first.__qualname__} and others" if len(behind) > 1 else first.__qualname__
    kinds = {target: kind_of(each) for target, each in behind.items()}
    build.__flashq_targets__ = kinds  # type: ignore[attr-defined]
    build.__flashq_callables__ = behind  # type: ignore[attr-defined]
    return build


def _check(spec: EndpointSpec, function: Callable[..., Any]) -> None:
    if spec.batch is not None:
        raise SpecError("batch", "gathers calls of one function; this endpoint has several")
    if spec.max_concurrency > 1 and not kind_of(function).startswith("async"):
        raise SpecError(
            "max_concurrency",
            f"more than one job at once needs {function.__qualname__} to be `async def`",
            value=spec.max_concurrency,
        )


def _identity(function: Callable[..., Any]) -> tuple[str, str]:
    return function.__module__, function.__qualname__
