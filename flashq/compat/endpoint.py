"""`runpod_flash.Endpoint`: Flash's parameters by their names, passed on to `flashq.Endpoint`."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any

from flashq.compat import client, translate
from flashq.deployed import DeployedFunction
from flashq.endpoint import Endpoint as Flashq
from flashq.endpoint_function import EndpointFunction
from flashq.errors import NotSupportedError, SpecError
from flashq.model.http_request import FIELDS_MARK
from flashq.model.resources import ServerlessScalerType
from flashq.model.routes import METHODS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from flashq.compat.cloud import CudaVersion, NetworkVolume, PodTemplate


class Endpoint:
    """What Flash's is, on one's own hosts: a decorator for functions, classes and routes, or a client.

    Calls give jobs that are awaited, as there; `remote`, `spawn`, `map` and the rest of flashq's are there, too.
    `id` is the name of an endpoint that something else deployed, `image` a container whose server answers requests.
    Raises: SpecError, of which NotSupportedError is one; ValueError as Flash does.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        id: str | None = None,  # noqa: A002 -- Flash's name
        gpu: Any = None,
        cpu: Any = None,
        workers: int | tuple[int, int] | None = None,
        idle_timeout: int = 60,
        dependencies: Sequence[str] | None = None,
        system_dependencies: Sequence[str] | None = None,
        accelerate_downloads: bool = True,
        volume: NetworkVolume | list[NetworkVolume] | None = None,
        datacenter: Any = None,
        env: Mapping[str, str] | None = None,
        gpu_count: int = 1,
        execution_timeout_ms: int = 0,
        flashboot: bool = True,
        image: str | None = None,
        scaler_type: Any = None,
        scaler_value: int = 4,
        template: PodTemplate | None = None,
        min_cuda_version: CudaVersion | str | None = None,
        max_concurrency: int = 1,
    ) -> None:
        if gpu is not None and cpu is not None:
            raise ValueError("Endpoint: gpu and cpu exclude each other; give one of them")
        if id is not None and image is not None:
            raise ValueError("Endpoint: id and image exclude each other; give one of them")
        if image is not None and name is None:
            raise ValueError("Endpoint: an image needs a name")
        self.name = name
        self.id = id
        self.image = image
        self.is_cpu = cpu is not None
        self.workers_min, self.workers_max = _workers(workers)
        self._scaler_type = scaler_type
        given: dict[str, Any] = {
            "gpu": translate.gpu(gpu),
            "cpu": translate.cpu(cpu),
            "workers": workers,
            "idle_timeout": idle_timeout,
            "dependencies": translate.dependencies(
                dependencies, on_gpu=cpu is None and id is None and image is None
            ),
            "system_dependencies": system_dependencies,
            "accelerate_downloads": accelerate_downloads,
            "volume": translate.volume(volume),
            "datacenter": translate.datacenter(datacenter),
            "env": translate.env(env, template),
            "execution_timeout_ms": execution_timeout_ms,
            "flashboot": flashboot,
            "image": image,
            "max_concurrency": max_concurrency,
            **translate.scaling(scaler_type, scaler_value),
        }
        if cpu is None:  # of a cpu endpoint, Flash leaves these out
            cuda = translate.min_cuda_version(min_cuda_version)
            given |= {"gpu_count": gpu_count, "min_cuda_version": cuda}
        self._given = {key: value for key, value in given.items() if value is not None}
        self._functions: dict[tuple[str, str], EndpointFunction[..., Any]] = {}
        self._has_routes = False
        # What is wrong is said where it is written.
        self._core: Any = Flashq(id=translate.name(id), **self._given) if id is not None else self._made(name)

    @property
    def is_client(self) -> bool:
        """Whether it calls what something else deployed, or an image."""
        return self.id is not None or self.image is not None

    @property
    def is_load_balanced(self) -> bool:
        """Whether it has routes."""
        return self._has_routes

    @property
    def scaler_type(self) -> Any:
        """The rule that Flash would have; by default flashq has its own."""
        of_routes = ServerlessScalerType.REQUEST_COUNT
        return self._scaler_type or (of_routes if self._has_routes else ServerlessScalerType.QUEUE_DELAY)

    # -- as other endpoints see it: what a function that uses it may call --------------------------------
    @property
    def deployed(self) -> bool:
        """Whether it stands for what something else deployed."""
        return self.id is not None

    @property
    def __flashq_endpoint__(self) -> str:
        name: str = self._core.__flashq_endpoint__
        return name

    @property
    def __flashq_function__(self) -> EndpointFunction[..., Any]:
        function: EndpointFunction[..., Any] = self._core.__flashq_function__
        return function

    def __reduce__(self) -> tuple[Any, ...]:
        return _in_a_job, (self.name, self.id, self.image, self._core)

    def _made(self, name: str | None) -> Flashq:
        return Flashq(None if name is None else translate.name(name), **self._given)

    def __call__(self, function: Any) -> Any:
        """Decorate a function or a class; further functions share its workers."""
        if self.is_client:
            raise ValueError("Endpoint(id=...) and Endpoint(image=...) are clients: they decorate nothing")
        if self._has_routes:
            raise ValueError("Endpoint: one with routes decorates nothing else")
        decorate = self._made(translate.name(function.__name__)) if self.name is None else self._core
        made = decorate(function)
        if isinstance(made, EndpointFunction):
            self._functions[function.__module__, function.__qualname__] = made
        return made

    # -- routes, and requests of a client ----------------------------------------------------------------
    def get(self, path: str, data: Any = None, *, timeout: float = 60.0) -> Any:
        """A route's decorator; of a client a request, to be awaited."""
        return self._routed("GET", path, data, timeout)

    def post(self, path: str, data: Any = None, *, timeout: float = 60.0) -> Any:
        """The same for POST."""
        return self._routed("POST", path, data, timeout)

    def put(self, path: str, data: Any = None, *, timeout: float = 60.0) -> Any:
        """The same for PUT."""
        return self._routed("PUT", path, data, timeout)

    def patch(self, path: str, data: Any = None, *, timeout: float = 60.0) -> Any:
        """The same for PATCH."""
        return self._routed("PATCH", path, data, timeout)

    def delete(self, path: str, data: Any = None, *, timeout: float = 60.0) -> Any:
        """The same for DELETE."""
        return self._routed("DELETE", path, data, timeout)

    def _routed(self, method: str, path: str, data: Any, timeout_s: float) -> Any:
        if self.is_client:
            request = getattr(self._core, method.lower())
            if data is not None and method in ("GET", "DELETE"):
                raise NotSupportedError("data", f"a {method} request has no body", where=method.lower())
            return _answer(request(path) if data is None else request(path, data), timeout_s)
        if data is not None:
            raise TypeError(f"@…{method.lower()}({path!r}, …): a route is a path alone")
        return self.route(method, path)

    def route(self, method: str, path: str) -> Callable[[Any], Any]:
        """The decorator of a route. Raises SpecError."""
        if self._functions:
            raise ValueError("Endpoint: one that has decorated a function has no routes")
        if method not in METHODS:
            raise SpecError("route", f"no method {method!r}; there are {', '.join(METHODS)}")
        route = getattr(self._core, method.lower())(path)

        def decorated(function: Any) -> Any:
            if inspect.isfunction(function):
                setattr(function, FIELDS_MARK, True)
            made = route(function)
            self._has_routes = True
            # In Flash it stays what it is: a plain function is called without `await`.
            return made if inspect.iscoroutinefunction(function) else function

        return decorated

    # -- the client ----------------------------------------------------------------------------------
    async def run(self, input_data: Any, *, webhook: str | None = None) -> client.EndpointJob:
        """Submit a job: `input_data` is a dict of the function's arguments."""
        return await client.run(self._called(), input_data, webhook)

    async def runsync(self, input_data: Any, timeout: float = 60.0) -> client.EndpointJob:
        """The same, and wait for its end, at most `timeout` seconds."""
        return await client.runsync(self._called(), input_data, timeout)

    async def cancel(self, job_id: str) -> client.EndpointJob:
        """Have the job of this id stopped."""
        return await client.job_of(job_id).cancel()

    def _called(self) -> Any:
        """What it has decorated; a name alone stands for what something else deployed under it."""
        if self.image is not None:
            raise NotSupportedError(
                "image",
                "the server of an image answers get, post and the like; it takes no jobs",
                where="run",
            )
        if len(self._functions) == 1:
            return next(iter(self._functions.values()))
        name = self.id or self.name
        if name is None:
            raise ValueError("Endpoint: nothing without a name is run; methods of a class are called")
        return DeployedFunction(translate.name(name))


def _in_a_job(name: str | None, id: str | None, image: str | None, core: Any) -> Endpoint:  # noqa: A002
    made: Endpoint = object.__new__(Endpoint)
    vars(made).update(name=name, id=id, image=image, _core=core, _functions={}, _has_routes=False)
    return made


async def _answer(request: Awaitable[Any], timeout_s: float) -> Any:
    async with asyncio.timeout(timeout_s):
        return await request


def _workers(given: int | tuple[int, int] | None) -> tuple[int, int]:
    """As Flash reads them; what is wrong with them is for the specification to say."""
    if isinstance(given, tuple | list) and len(given) == 2:
        return given[0], given[1]
    return (0, given) if isinstance(given, int) else (0, 1)
