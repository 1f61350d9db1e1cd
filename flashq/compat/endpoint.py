"""`runpod_flash.Endpoint`: Flash's parameters by their names, passed on to `flashq.Endpoint`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flashq.compat import client, told, translate
from flashq.deployed import DeployedFunction
from flashq.endpoint import Endpoint as Flashq
from flashq.endpoint_function import EndpointFunction
from flashq.errors import NotSupportedError
from flashq.model.resources import ServerlessScalerType

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flashq.compat.cloud import CudaVersion, NetworkVolume, PodTemplate

_OWN_SERVER = (
    "an image that serves requests by itself (post, get, run) is not run by flashq; "
    "a function runs in an image with flashq's own Endpoint(image=...)"
)


class Endpoint:
    """What Flash's is, on one's own hosts: a decorator for functions and classes, and with `id` a client.

    Calls give jobs that are awaited, as there; `remote`, `spawn`, `map` and the rest of flashq's are there, too.
    `id` is the name of an endpoint that something else deployed.
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
        if image is not None:
            raise NotSupportedError("image", _OWN_SERVER, value=image)
        self.name = name
        self.id = id
        self.is_cpu = cpu is not None
        self.workers_min, self.workers_max = _workers(workers)
        self.scaler_type = scaler_type or ServerlessScalerType.QUEUE_DELAY
        given: dict[str, Any] = {
            "gpu": translate.gpu(gpu),
            "cpu": translate.cpu(cpu),
            "workers": workers,
            "idle_timeout": idle_timeout,
            "dependencies": translate.dependencies(dependencies, on_gpu=cpu is None and id is None),
            "system_dependencies": system_dependencies,
            "accelerate_downloads": accelerate_downloads,
            "volume": translate.volume(volume),
            "datacenter": translate.datacenter(datacenter),
            "env": translate.env(env, template),
            "execution_timeout_ms": execution_timeout_ms,
            "flashboot": flashboot,
            "max_concurrency": max_concurrency,
            **translate.scaling(scaler_type, scaler_value),
        }
        if cpu is None:  # of a cpu endpoint, Flash leaves these out
            cuda = translate.min_cuda_version(min_cuda_version)
            given |= {"gpu_count": gpu_count, "min_cuda_version": cuda}
        self._given = {key: value for key, value in given.items() if value is not None}
        self._functions: list[tuple[str, str]] = []
        if id is None:
            self._made(name)  # what is wrong is said where it is written
        else:
            Flashq(id=translate.name(id), **self._given)
        self._callable: Any = None if id is None else DeployedFunction(translate.name(id))

    @property
    def is_client(self) -> bool:
        """Whether it calls what something else deployed."""
        return self.id is not None

    @property
    def is_load_balanced(self) -> bool:
        """Whether it has routes."""
        return False

    def _made(self, name: str | None) -> Flashq:
        return Flashq(None if name is None else translate.name(name), **self._given)

    def __call__(self, function: Any) -> Any:
        """Decorate a function or a class."""
        if self.is_client:
            raise ValueError("Endpoint(id=...) is a client: it decorates nothing; leave id out")
        name = self.name or translate.name(function.__name__)
        identity = (function.__module__, function.__qualname__)
        if identity not in self._functions:
            self._functions.append(identity)
        if self._functions[0] != identity:
            shared, name = name, f"{name}-{function.__name__}"
            told.once(
                f"shared:{name}",
                f"an endpoint is one function here: {function.__name__}, which shares the parameters of {shared!r}, is"
                f" the endpoint {name!r} with workers of its own",
            )
        made = self._made(name)(function)
        if self._functions[0] == identity and isinstance(made, EndpointFunction):
            self._callable = made
        return made

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
        if self._callable is None and self.name is not None and not self._functions:
            self._callable = DeployedFunction(translate.name(self.name))
        if self._callable is None:
            raise ValueError("Endpoint: a class's methods are called; nothing without a name is run")
        return self._callable


def _workers(given: int | tuple[int, int] | None) -> tuple[int, int]:
    """As Flash reads them; what is wrong with them is for the specification to say."""
    if isinstance(given, tuple | list) and len(given) == 2:
        return given[0], given[1]
    return (0, given) if isinstance(given, int) else (0, 1)
