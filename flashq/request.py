"""`api.get(path)`, `api.post(path, data)` and the others: a route's decorator, and a request from Python.

A request goes by the endpoint's queue, as any call, in JSON, and means what it means over HTTP: the gateway makes the
same call of the same request. It is sent when it is awaited, or by `result`, `stream` or `spawn`.
"""

from __future__ import annotations

import json as json_module
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlencode

from flashq.errors import HttpError, SerializationError, SpecError, UnsupportedCall

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping

    from flashq.endpoint_function import EndpointFunction
    from flashq.job import EndpointJob

IMAGE_TARGETS = ("request", "stream")
"""What an endpoint whose image serves HTTP has; see `flashq.image_server`."""
UNSET: Any = ...
"""No body, where None is one."""


@dataclass(frozen=True, slots=True)
class Served:
    """Where requests of an endpoint go: its functions, by target, and the schemas of their parameters."""

    name: str
    targets: Mapping[str, str]
    """Each with its kind."""
    schemas: str
    function: Callable[[str], EndpointFunction[..., Any]]
    """That of a target."""

    @property
    def is_image(self) -> bool:
        """Whether the server of an image answers, and knows its routes itself."""
        return tuple(self.targets) == IMAGE_TARGETS


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One request, or, called with a function, its route."""

    method: str
    path: str
    served: Callable[[], Served]
    route: Callable[[str, str, Callable[..., Any]], EndpointFunction[..., Any]]
    json: Any = UNSET
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, function: Callable[..., Any]) -> EndpointFunction[..., Any]:
        """Decorate: `function` answers such requests from now on. Raises: SpecError, EndpointExists."""
        if self.json is not UNSET or self.params or self.headers:
            raise SpecError("route", f"@…{self.method.lower()}({self.path!r}, …): a route is a path alone")
        return self.route(self.method, self.path, function)

    def __await__(self) -> Generator[Any, None, Any]:
        return self._answer().__await__()

    async def _answer(self) -> Any:
        function, args, kwargs = self._call("request")
        return self._opened(await (await function.aspawn(*args, **kwargs)))

    def result(self, timeout: float | None = None) -> Any:
        """Send it, and block for the answer: what its JSON says; text or bytes where it is none.

        Raises: HttpError where the status is 400 or more; UnsupportedCall where no route fits; WaitTimeout after
        `timeout` seconds; what calls raise.
        """
        return self._opened(self.spawn().result(timeout))

    def spawn(self) -> EndpointJob[Any]:
        """Send it, not waited for. The job's value is the function's; an image's server's is a dict: `status`,
        `headers`, `body` (bytes).
        """
        function, args, kwargs = self._call("request")
        return function.spawn(*args, **kwargs)

    def stream(self) -> Iterator[Any]:
        """Send it, and read the answer as it comes: what the function yields; of an image's server pieces of bytes."""
        function, args, kwargs = self._call("stream")
        pieces = iter(function.stream(*args, **kwargs))
        if not self.served().is_image:
            yield from pieces
            return
        head = next(pieces)
        if head["status"] >= 400:
            _raise(self, head["status"], b"".join(pieces))
        yield from pieces

    def _call(self, target: str) -> tuple[EndpointFunction[..., Any], tuple[Any, ...], dict[str, Any]]:
        served = self.served()
        if served.is_image:
            return served.function(target), (self.method, self._whole_path(), *self._content()), {}
        return self._routed(served)

    def _whole_path(self) -> str:
        query = urlencode([(name, text) for name, text in self._texts()])
        return f"{self.path}{'&' if '?' in self.path else '?'}{query}" if query else self.path

    def _content(self) -> tuple[dict[str, str], bytes]:
        headers = dict(self.headers)
        if self.json is UNSET:
            return headers, b""
        if isinstance(self.json, bytes):
            return headers, self.json
        headers.setdefault("content-type", "application/json")
        try:
            return headers, json_module.dumps(self.json, allow_nan=False).encode()
        except (TypeError, ValueError) as error:
            raise SerializationError(f"what is to be sent to {self.path} is no JSON: {error}") from error

    def _texts(self) -> Iterator[tuple[str, str]]:
        for name, value in self.params.items():
            for each in value if isinstance(value, list | tuple) else (value,):
                yield name, str(each).lower() if isinstance(each, bool) else str(each)

    def _routed(self, served: Served) -> tuple[EndpointFunction[..., Any], tuple[Any, ...], dict[str, Any]]:
        from flashq.model import http_request, routes

        path, _, query = self.path.partition("?")
        found = routes.find(served.targets, self.method, segments(path))
        if found is None:
            have = ", ".join(target for target in served.targets if routes.parse(target)) or "none"
            raise UnsupportedCall(
                f"endpoint {served.name!r} has no route {self.method} {path}: it has {have}"
            )
        if self.headers:
            raise UnsupportedCall("headers are for the servers of images: a route's function sees none")
        route, names = found
        schema = json_module.loads(served.schemas or "{}").get(route.target, {})
        given = [*parse_qsl(query, keep_blank_values=True), *self._texts()]
        body = http_request.NO_BODY if self.json is UNSET else self.json
        kwargs = http_request.arguments(route, schema, names, given, body)
        return served.function(route.target).in_json(), (), kwargs

    def _opened(self, value: Any) -> Any:
        if not self.served().is_image:
            return value
        status, body = value["status"], value["body"]
        if status >= 400:
            _raise(self, status, body)
        return said(value["headers"].get("content-type", ""), body)


def _raise(request: Request, status: int, body: bytes) -> None:
    text = body.decode("utf-8", "replace")
    raise HttpError(f"{request.method} {request.path}: {status}: {text[:500]}", status=status, body=body)


def segments(path: str) -> tuple[str, ...]:
    """Of a request's path, decoded: ("items", "a/b") of "/items/a%2Fb"."""
    return tuple(unquote(segment) for segment in path.removeprefix("/").split("/"))


def said(content_type: str, body: bytes) -> Any:
    """A body as its type has it: out of JSON, text, or the bytes themselves."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/json" or kind.endswith("+json"):
        try:
            return json_module.loads(body)
        except ValueError:
            return body.decode("utf-8", "replace")
    return body.decode("utf-8", "replace") if kind.startswith("text/") else body
