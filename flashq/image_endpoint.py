"""An endpoint whose image serves HTTP by itself: nothing is decorated, `post` and `get` send requests to it.

`Endpoint(name="llm", image="vllm/vllm-openai:v0.10", gpu="any", env={"PORT": "8000"})`
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from flashq.endpoint_function import EndpointFunction
from flashq.errors import SpecError, UnsupportedCall
from flashq.image_server import serve
from flashq.request import Served

if TYPE_CHECKING:
    from flashq.model.spec import EndpointSpec


def served(name: str, spec: EndpointSpec | None) -> Served:
    """Where its requests go; without a spec inside a job. Raises SpecError for parameters that mean nothing to it."""
    if spec is not None:
        _check(spec)
    targets: dict[str, str] = serve.__flashq_targets__  # type: ignore[attr-defined]

    def function(target: str) -> EndpointFunction[..., Any]:
        return EndpointFunction(name, _elsewhere, spec, code=serve, target=target)

    return Served(name, targets, "", function)


def _check(spec: EndpointSpec) -> None:
    from flashq.model.spec import port

    if spec.dependencies:
        raise SpecError(
            "dependencies", f"image {spec.image} serves HTTP with what is in it; nothing is installed"
        )
    if spec.batch is not None:
        raise SpecError(
            "batch", "gathers calls of a function; the server of an image gathers requests itself"
        )
    port(spec)


def _elsewhere(*_: Any, **__: Any) -> NoReturn:
    """Stands where functions have their code: an image is run on hosts alone."""
    raise UnsupportedCall("the server of an image runs on workers alone")
