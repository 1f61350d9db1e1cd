"""The decorator: `@Endpoint(...)` turns a function, or a class, into one that runs on workers.

Decorating checks the parameters and changes nothing else; the broker is first looked for when a call is made.
"""

from __future__ import annotations

import inspect
import threading
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, overload

from flashq.classes import EndpointClass, check_class
from flashq.deployed import DeployedFunction
from flashq.endpoint_function import EndpointFunction
from flashq.errors import EndpointExists, SpecError, UnsupportedCall
from flashq.kinds import kind_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence
    from enum import Enum

    from flashq.job import EndpointJob
    from flashq.model.resources import CpuInstanceType, GpuGroup, GpuType
    from flashq.model.retry import Retries
    from flashq.model.spec import EndpointSpec
    from flashq.request import Request, Served
    from flashq.routes import Routes

    _Texts = Mapping[str, Any]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_endpoints: dict[str, tuple[str, str]] = {}
_endpoints_lock = threading.Lock()
_changes: Callable[[EndpointSpec], EndpointSpec] | None = None


def use_changes(changes: Callable[[EndpointSpec], EndpointSpec] | None) -> None:
    """From now on, endpoints of this process have parameters as this function makes them, once they have a name."""
    global _changes
    _changes = changes


def _changed(spec: EndpointSpec) -> EndpointSpec:
    return spec if _changes is None else _changes(spec)


class Endpoint:
    """Marks a function for execution on workers: ``@Endpoint(name="embed", gpu=..., workers=(0, 3))``.

    Parameters are those of the reference page; a wrong one raises SpecError (NotSupportedError where this
    version cannot honour it) naming it, and all wrong ones are named at once.

    Client mode: ``Endpoint(id="embed")`` decorates nothing; it is called as functions are (``remote``, ``spawn``,
    ``map``, ``stream``, ``with_options``, ``await``), and its calls go to the endpoint that something else deployed
    under this name. A class's methods are attributes: ``Endpoint(id="model").predict.remote(x)``.
    """

    if TYPE_CHECKING:
        _spec: EndpointSpec | None
        _name: str | None
        _routes: Routes | None
        _image: str | None
        _functions: dict[tuple[str, str], EndpointFunction[..., Any]]
        _decorates: bool

        @overload
        def __new__(cls, *, id: str) -> DeployedEndpoint: ...
        @overload
        def __new__(
            cls,
            name: str | None = None,
            *,
            gpu: GpuGroup | GpuType | str | Sequence[GpuGroup | GpuType | str] | None = None,
            cpu: CpuInstanceType | str | Sequence[CpuInstanceType | str] | None = None,
            workers: int | tuple[int, int] = (0, 1),
            idle_timeout: float = 60,
            dependencies: Sequence[str] | None = None,
            system_dependencies: Sequence[str] | None = None,
            accelerate_downloads: bool = True,
            volume: str | None = None,
            datacenter: str | Enum | Sequence[str | Enum] | None = None,
            env: Mapping[str, str] | None = None,
            gpu_count: int = 1,
            execution_timeout_ms: int = 0,
            flashboot: bool = True,
            image: str | None = None,
            scaler_type: str | None = None,
            scaler_value: float = 4,
            template: Any = None,
            min_cuda_version: str | None = None,
            python_version: str | None = None,
            max_concurrency: int = 1,
            retries: int | Retries | Mapping[str, Any] = 0,
            priority: int = 0,
            result_ttl: int = 1800,
            ttl: float = 86_400,
            delivery: Literal["at_least_once", "at_most_once"] = "at_least_once",
            max_deliveries: int = 3,
            max_queued: int | None = None,
            batch: tuple[int, int] | None = None,
            hosts: str | Sequence[str] | Mapping[str, str] | None = None,
            startup_timeout: float = 600,
            recycle_jobs: int | None = None,
            recycle_gib: float | None = None,
            buffer: int = 0,
        ) -> Endpoint: ...
        def __new__(cls, *given: Any, **parameters: Any) -> Any: ...

    else:

        def __new__(cls, name: Any = None, **parameters: Any) -> Endpoint:
            by_name = parameters.get("id") is not None
            return object.__new__(DeployedEndpoint if by_name else cls)

        def __init__(
            self, name: Any = None, **parameters: Any
        ) -> None:  # whatever is given, wrong names too, is judged in one place
            self._name = name
            self._routes = None  # of an HTTP endpoint, from the first on
            self._image = parameters.get("image")
            self._functions: dict[tuple[str, str], EndpointFunction[..., Any]] = {}  # where it has a name
            self._decorates = False  # then its image is what functions run in, and no server
            try:
                from flashq.model.spec import EndpointSpec
            except (
                ModuleNotFoundError
            ):  # in an endpoint's own environment: its functions are there, and `local`
                self._spec = None
            else:
                self._spec = EndpointSpec(name=name, **parameters)

    @overload
    def __call__(self, function: type[T]) -> EndpointClass[T]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]]) -> EndpointFunction[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R]) -> EndpointFunction[P, R]: ...
    def __call__(self, function: Any) -> Any:
        if self._routes:
            raise SpecError(
                "function", f"endpoint {self._name!r} has routes: put this behind one, or into another"
            )
        self._decorates = True
        if inspect.isfunction(function) and self._name is not None:
            return self._decorated(function)
        return self._alone(function)

    def _decorated(self, function: Callable[..., Any]) -> EndpointFunction[..., Any]:
        """A function under this endpoint's name: the first, or a further one on the same workers."""
        identity = (function.__module__, function.__qualname__)
        if set(self._functions) <= {identity}:
            made: EndpointFunction[..., Any] = self._alone(function)
        else:
            from flashq.routes import shared

            made = shared(list(self._functions.values()), function, self._spec)
        self._functions[identity] = made
        return made

    def _alone(self, function: Any) -> Any:
        made = EndpointClass if inspect.isclass(function) else EndpointFunction
        if self._spec is None:
            return made(self._name or function.__name__, function, None)
        spec = _changed(self._spec.named(_named(function).__name__))
        if inspect.isclass(function):
            check_class(function, spec)
        else:
            _check_kind(function, spec)
        assert spec.name is not None
        _claim_name(spec.name, (function.__module__, function.__qualname__))
        return made(spec.name, function, spec)

    # -- as other endpoints see it -------------------------------------------------------------------
    @property
    def __flashq_endpoint__(self) -> str:
        serves = self._image is not None and not self._decorates
        if self._name is None or not (self._routes or serves):
            raise AttributeError("it answers nothing by itself")
        return self._routes.name if self._routes else self._name

    @property
    def __flashq_function__(self) -> EndpointFunction[..., Any]:
        """Stands for its code and parameters: any of its targets."""
        served = self._served()
        return served.function(next(iter(served.targets)))

    def __reduce__(self) -> tuple[Any, ...]:
        # Inside a job it is its name: its parameters are on record.
        return _in_a_job, (self._name, self._image)

    # -- HTTP: see flashq.request --------------------------------------------------------------------
    def get(self, path: str, *, params: _Texts | None = None, headers: _Texts | None = None) -> Request:
        """A route's decorator, ``@api.get("/items/{id}")``; or a request, sent when awaited (or `.result()`)."""
        return self._request("GET", path, params=params, headers=headers)

    def post(
        self, path: str, json: Any = ..., *, params: _Texts | None = None, headers: _Texts | None = None
    ) -> Request:
        """The same for POST: ``await api.post("/predict", {"text": "…"})``. `json`: the body; bytes are sent as they
        are to the server of an image.
        """
        return self._request("POST", path, json, params, headers)

    def put(
        self, path: str, json: Any = ..., *, params: _Texts | None = None, headers: _Texts | None = None
    ) -> Request:
        """The same for PUT."""
        return self._request("PUT", path, json, params, headers)

    def patch(
        self, path: str, json: Any = ..., *, params: _Texts | None = None, headers: _Texts | None = None
    ) -> Request:
        """The same for PATCH."""
        return self._request("PATCH", path, json, params, headers)

    def delete(self, path: str, *, params: _Texts | None = None, headers: _Texts | None = None) -> Request:
        """The same for DELETE."""
        return self._request("DELETE", path, params=params, headers=headers)

    def _request(
        self,
        method: str,
        path: str,
        json: Any = ...,
        params: _Texts | None = None,
        headers: _Texts | None = None,
    ) -> Request:
        from flashq.request import Request  # these take their time: only who answers requests needs them

        return Request(method, path, self._served, self._add_route, json, params or {}, headers or {})

    def _add_route(self, method: str, path: str, function: Callable[..., Any]) -> EndpointFunction[..., Any]:
        if self._routes is None:
            if self._name is None:
                raise SpecError("name", "an endpoint with routes needs one: Endpoint(name=…)")
            from flashq.routes import Routes

            spec = self._spec if self._spec is None else _changed(self._spec)
            name = self._name if spec is None or spec.name is None else spec.name
            _claim_name(name, (function.__module__, f"{name}'s routes"))
            self._routes = Routes(name, spec)
        return self._routes.add(method, path, function)

    def _served(self) -> Served:
        """Where its requests go. Raises UnsupportedCall where nothing answers any."""
        if self._routes:
            from flashq.request import Served

            routes = self._routes
            return Served(routes.name, routes.kinds, routes.schemas, routes.functions.__getitem__)
        if self._image is None:
            raise UnsupportedCall(
                f"endpoint {self._name!r} answers no requests: it has no route (@api.get(…)), and no image"
            )
        if self._name is None:
            raise SpecError("name", "an endpoint whose image serves needs one: Endpoint(name=…, image=…)")
        from flashq import image_endpoint

        spec = self._spec if self._spec is None else _changed(self._spec)
        name = self._name if spec is None or spec.name is None else spec.name
        _claim_name(name, ("image", self._image))
        return image_endpoint.served(name, spec)


def _in_a_job(name: str | None, image: str | None) -> Endpoint:
    made: Endpoint = object.__new__(Endpoint)
    vars(made).update(_name=name, _spec=None, _routes=None, _image=image, _functions={}, _decorates=False)
    return made


class DeployedEndpoint(Endpoint):
    """What `Endpoint(id="embed")` is: called as a function is. See `flashq.deployed`."""

    if not TYPE_CHECKING:

        def __init__(self, **parameters: Any) -> None:
            super().__init__(**parameters)
            self._spec = None  # it says nothing, and would have to travel with functions that use this
            self._function = DeployedFunction(parameters["id"])

    @property
    def __flashq_function__(self) -> EndpointFunction[..., Any]:
        function: EndpointFunction[..., Any] = self._function
        return function

    def __reduce__(self) -> tuple[Any, ...]:
        return _deployed, (self._function.name,)

    def _add_route(self, method: str, path: str, function: Callable[..., Any]) -> EndpointFunction[..., Any]:
        raise UnsupportedCall(f"{self!r} was deployed by something else: it takes no more routes")

    def _served(self) -> Served:
        from flashq.request import Served

        current = self._function.current()
        return Served(self._function.name, current.targets, current.schemas, self._function.method)

    def __call__(self, *args: Any, **kwargs: Any) -> EndpointJob[Any]:  # type: ignore[override]
        """Submit a call: `await ep(x)` gives its value."""
        job: EndpointJob[Any] = self._function(*args, **kwargs)
        return job

    def __repr__(self) -> str:
        return repr(self._function)

    def __getattr__(self, name: str) -> Any:
        function = vars(self).get("_function")
        if function is None or (name.startswith("_") and name != "__flashq_endpoint__"):
            raise AttributeError(name)
        known = name in vars(function) or hasattr(type(function), name)
        return getattr(function, name) if known else function.method(name)


def _deployed(name: str) -> Endpoint:
    return Endpoint(id=name)


def _named(target: Any) -> Any:
    if isinstance(target, EndpointFunction | EndpointClass):
        raise SpecError("function", f"{target.name!r} is an endpoint already")
    if not inspect.isfunction(target) and not inspect.isclass(target):
        raise SpecError("function", "decorate a function, a coroutine function or a class", value=target)
    return target


def _check_kind(function: Callable[..., Any], spec: EndpointSpec) -> None:
    if spec.batch is not None and kind_of(function) != "sync":
        raise SpecError(
            "batch", "gathers calls of a plain function, which takes and returns a list", value=spec.batch
        )
    coroutine = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
    if spec.max_concurrency > 1 and not coroutine:
        raise SpecError(
            "max_concurrency",
            "more than one job at once needs an `async def` function",
            value=spec.max_concurrency,
        )


def _claim_name(name: str, identity: tuple[str, str]) -> None:
    """Redefining a function (a notebook cell run again) is an update; another function of that name is a mistake."""
    with _endpoints_lock:
        known = _endpoints.setdefault(name, identity)
    if known != identity:
        raise EndpointExists(
            f"endpoint {name!r} is {known[1]} (in {known[0]}) already; give {identity[1]} another name"
        )
