"""Flash's older way: an object of parameters in the cloud's spelling, and `@remote(...)` with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from flashq.compat.cloud import NetworkVolume, ServerlessType
from flashq.compat.endpoint import Endpoint
from flashq.errors import NotSupportedError, SpecError
from flashq.model.checks import nearest
from flashq.model.resources import CpuInstanceType, GpuGroup

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_UNSET: tuple[Any, ...] = (None, "", [], 0)

#: The cloud's spelling of what is a parameter of Endpoint.
PARAMETERS = {
    "name": "name",
    "gpus": "gpu",
    "gpuCount": "gpu_count",
    "instanceIds": "cpu",
    "idleTimeout": "idle_timeout",
    "executionTimeoutMs": "execution_timeout_ms",
    "flashboot": "flashboot",
    "env": "env",
    "datacenter": "datacenter",
    "scalerType": "scaler_type",
    "scalerValue": "scaler_value",
    "template": "template",
    "minCudaVersion": "min_cuda_version",
}
ELSEWHERE = {"workersMin", "workersMax", "networkVolume", "networkVolumes", "networkVolumeId", "type"}

#: What is refused, and why.
REFUSED = {
    "id": "an endpoint of the cloud can't be taken over",
    "imageName": "an image with a server of its own is Endpoint(image=...)",
    "templateId": "templates are kept by the cloud; give what the template says",
    "gpuIds": "name GPUs with gpus=[...]",
    "locations": "name data centres with datacenter=[...]",
    "cudaVersions": "a list of versions can't be asked for: give the oldest, as minCudaVersion",
    "allowedCudaVersions": "a list of versions can't be asked for: give the oldest, as minCudaVersion",
    "workersPFBTarget": "what is kept ready is kept for all endpoints of a host",
    "flashEnvironmentId": "environments of the cloud are not here",
    "python_version": "functions run on the Python version of the program",
    **dict.fromkeys(
        "activeBuildid aiKey computeType createdAt flashBootType hubRelease repo userId".split(),
        "is for the cloud to say",
    ),
}


class ServerlessResource:
    """The parameters of an endpoint, in the cloud's spelling. Raises SpecError."""

    _cpu: ClassVar[bool] = False
    _routes: ClassVar[bool] = False
    _wants_image: ClassVar[bool] = False

    def __init__(self, **given: Any) -> None:
        kind = type(self).__name__
        known = [*PARAMETERS, *ELSEWHERE, *REFUSED]
        for key, value in given.items():
            if key in REFUSED and value not in _UNSET:
                raise NotSupportedError(key, REFUSED[key], value=value, where=kind)
            if key not in known:
                raise SpecError(key, f"no such parameter{nearest(key, known)}", where=kind)
        if not given.get("name"):
            raise SpecError("name", "is missing", where=kind)
        if self._wants_image:
            raise NotSupportedError(
                "imageName",
                f"a {kind} is an image that the cloud runs: use Endpoint(image=...); for functions Endpoint(...), or "
                f"{'CpuLiveServerless' if self._cpu else 'LiveServerless'}",
                where=kind,
            )
        wanted = ServerlessType.LB if self._routes else ServerlessType.QB
        if given.get("type", wanted) not in (wanted, wanted.value, None):
            raise NotSupportedError("type", f"a {kind} is of type {wanted.value}", where=kind)
        self._given = given
        self.name: str = given["name"]
        self._endpoint: Endpoint | None = None
        self._packages: tuple[list[str], list[str]] = ([], [])

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r})"

    def parameters(self) -> dict[str, Any]:
        """Those of `Endpoint`."""
        given = self._given
        made = {new: given[old] for old, new in PARAMETERS.items() if given.get(old) is not None}
        made["workers"] = (_or(given.get("workersMin"), 0), _or(given.get("workersMax"), 1))
        if self._cpu:
            for of_gpus in ("gpu", "gpu_count", "min_cuda_version"):
                made.pop(of_gpus, None)
            made.setdefault("cpu", [CpuInstanceType.CPU3G_2_8])
        else:
            made.setdefault("gpu", [GpuGroup.ANY])
        volumes = [*(given.get("networkVolumes") or []), *filter(None, [given.get("networkVolume")])]
        if given.get("networkVolumeId"):
            volumes.append(NetworkVolume(id=given["networkVolumeId"]))
        if volumes:
            made["volume"] = volumes
        return made

    def endpoint(self, dependencies: Sequence[str], system_dependencies: Sequence[str]) -> Endpoint:
        """The endpoint of these parameters: one for all its functions. Raises SpecError where they ask for others."""
        packages = (sorted(dependencies), sorted(system_dependencies))
        if self._endpoint is None:
            self._packages = packages
            self._endpoint = Endpoint(
                **self.parameters(), dependencies=dependencies, system_dependencies=system_dependencies
            )
        if packages != self._packages:
            raise NotSupportedError(
                "dependencies",
                f"functions of {self.name!r} share its workers, and so their packages: give all of them the same lists",
                where="remote",
            )
        return self._endpoint


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


class LiveServerless(ServerlessResource):
    """An endpoint with GPUs."""


class CpuLiveServerless(ServerlessResource):
    """An endpoint without."""

    _cpu = True


class ServerlessEndpoint(ServerlessResource):
    """An image that the cloud runs: refused."""

    _wants_image = True


class CpuServerlessEndpoint(ServerlessResource):
    """The same without GPUs."""

    _cpu, _wants_image = True, True


class LiveLoadBalancer(ServerlessResource):
    """An endpoint with routes of its own, and with GPUs."""

    _routes = True


class CpuLiveLoadBalancer(ServerlessResource):
    """The same without GPUs."""

    _cpu, _routes = True, True


class LoadBalancerSlsResource(ServerlessResource):
    """An image with a server of its own: refused."""

    _routes, _wants_image = True, True


class CpuLoadBalancerSlsResource(ServerlessResource):
    """The same without GPUs."""

    _cpu, _routes, _wants_image = True, True, True


class ResourceManager:
    """The cloud's list of what was deployed: refused."""

    def __init__(self, *_: object, **__: object) -> None:
        raise NotSupportedError(
            "resources",
            "flashq keeps no list of deployed resources in the program: see `flashq endpoints`",
            where="ResourceManager",
        )


class FlashApp:
    """The cloud's apps: refused."""

    def __init__(self, *_: object, **__: object) -> None:
        raise NotSupportedError("app", "apps of the cloud are not here", where="FlashApp")


def remote(
    resource_config: ServerlessResource,
    dependencies: Sequence[str] | None = None,
    system_dependencies: Sequence[str] | None = None,
    accelerate_downloads: bool = True,
    local: bool = False,
    method: str | None = None,
    path: str | None = None,
) -> Callable[[Any], Any]:
    """Flash's decorator before `Endpoint`. With `local`, the function stays what it is. Raises SpecError."""
    if not accelerate_downloads:
        raise NotSupportedError("accelerate_downloads", "uv downloads in parallel anyway", where="remote")

    def decorated(target: Any) -> Any:
        if local:
            return target
        if not isinstance(resource_config, ServerlessResource):
            raise SpecError("resource_config", "must be a LiveServerless or the like", where="remote")
        has_routes = resource_config._routes  # noqa: SLF001 -- these are one part
        if has_routes != bool(method and path):
            kind = type(resource_config).__name__
            wants = "wants a method and a path" if has_routes else "has no routes"
            raise SpecError("path", f"a {kind} {wants}", where="remote")
        made = resource_config.endpoint(dependencies or (), system_dependencies or ())
        return made.route(method or "", path or "")(target) if has_routes else made(target)

    return decorated
