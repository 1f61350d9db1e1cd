"""`runpod_flash.Endpoint`: Flash's parameters by their names, passed on to `flashq.Endpoint`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flashq.compat import told, translate
from flashq.endpoint import Endpoint as Flashq
from flashq.errors import NotSupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flashq.compat.cloud import CudaVersion, NetworkVolume, PodTemplate

_OWN_SERVER = (
    "an image that serves requests by itself (post, get, run) is not run by flashq; "
    "a function runs in an image with flashq's own Endpoint(image=...)"
)


class Endpoint:
    """What Flash's is, on one's own hosts: a decorator for functions and classes.

    Calls give jobs that are awaited, as there; `remote`, `spawn`, `map` and the rest of flashq's are there, too.
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
        given: dict[str, Any] = {
            "id": id,
            "gpu": translate.gpu(gpu),
            "cpu": cpu,
            "workers": workers,
            "idle_timeout": idle_timeout,
            "dependencies": dependencies,
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
        self._made(name)  # what is wrong is said where it is written

    def _made(self, name: str | None) -> Flashq:
        return Flashq(None if name is None else translate.name(name), **self._given)

    def __call__(self, function: Any) -> Any:
        """Decorate a function or a class."""
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
        return self._made(name)(function)
