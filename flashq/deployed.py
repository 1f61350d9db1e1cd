"""Client mode: `Endpoint(id="embed")` calls an endpoint that something else deployed, by its name alone.

Nothing of its code is here. Each call goes to the revision that is current, with the endpoint's own defaults
(timeout, retries, ttl, …); what it is, is read from the broker with the first call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from flashq.endpoint_function import EndpointFunction
from flashq.errors import UnsupportedCall
from flashq.kinds import STREAMS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flashq.by_name import Current
    from flashq.model.spec import CallOptions, EndpointSpec
    from flashq.model.terms import Terms


class DeployedFunction(EndpointFunction[..., Any]):
    """A function, or a method of a class, that was deployed under a name: called as functions here are."""

    deployed = True

    def __init__(self, name: str, target: str = "", given: Mapping[str, Any] | None = None) -> None:
        super().__init__(name, _code(name), None, _checked(given or {}), given=given)
        self.target = target

    def __repr__(self) -> str:
        return f"<Endpoint {self.name!r}, deployed{f': {self.target}' if self.target else ''}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return DeployedFunction, (self.name, self.target, self.given_options)

    def method(self, target: str) -> DeployedFunction:
        """A method of a class endpoint, by its name."""
        return DeployedFunction(self.name, target)

    def _current(self) -> Current | None:
        """None inside a job, where it is for the host agent to know."""
        from flashq.client import Client
        from flashq.nested import current_caller

        caller = current_caller()
        return caller.submission.current.of(self.name) if isinstance(caller, Client) else None

    def current(self) -> Current:
        """What is registered under its name. Raises: EndpointNotFound, BrokerError; UnsupportedCall inside a job."""
        current = self._current()
        if current is None:
            raise UnsupportedCall(f"what endpoint {self.name!r} is, is not known inside a job")
        return current

    @property
    def spec(self) -> EndpointSpec:
        """Its name and the defaults of its calls.

        Raises: EndpointNotFound, BrokerError; UnsupportedCall inside a job.
        """
        return self.current().spec

    @property
    def terms(self) -> Terms:
        """What its calls are submitted with: the endpoint's own defaults may change meanwhile."""
        from flashq.model.terms import terms_of

        return terms_of(self.spec, self._options)

    @property
    def _yields(self) -> bool:
        current = self._current()
        return current is not None and current.kind(self.target) in STREAMS

    def local(self, *_: Any, **__: Any) -> NoReturn:
        """Refused: its code is not here."""
        raise UnsupportedCall(
            f"endpoint {self.name!r} is called by its name: its function is not here to be run"
        )

    def with_options(self, **options: Any) -> DeployedFunction:
        """The same endpoint, its calls made with these options; see `EndpointFunction.with_options`."""
        given = {
            **self.given_options,
            **{name: value for name, value in options.items() if value is not None},
        }
        return DeployedFunction(self.name, self.target, given)


def _checked(given: Mapping[str, Any]) -> CallOptions | None:
    """None inside a job, where they are checked by whoever signs the call."""
    try:
        from flashq.model.spec import CallOptions
    except ModuleNotFoundError:
        return None
    return CallOptions(**given)


def _code(name: str) -> Any:
    """Stands where functions have their code."""

    def deployed(*args: Any, **kwargs: Any) -> Any:
        raise UnsupportedCall(f"endpoint {name!r} is called by its name: its function is not here to be run")

    deployed.__name__ = deployed.__qualname__ = name
    return deployed
