"""Class endpoints: `@Endpoint(...)` on a class. A worker makes one instance while it starts, and keeps it.

`m = Model(args)` gives a handle; its public methods are called as functions are: `await m.method(x)`,
`m.method.remote(x)`. The arguments are part of the code: other arguments are another revision (decision 0026).
"""

from __future__ import annotations

import functools
import inspect
import sys
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from flashq.endpoint_function import EndpointFunction
from flashq.errors import NotSupportedError, SpecError
from flashq.kinds import UNPINNED, kind_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flashq.model.spec import EndpointSpec

T = TypeVar("T")
HOOKS = ("setup", "teardown")
_EXECUTOR = "flashq_worker.executor.delivery"
_pinned: dict[str, list[tuple[tuple[Any, ...], dict[str, Any]]]] = {}
"""In an executor: what the handles were made with that the job's program made, by endpoint."""


class EndpointClass(Generic[T]):
    """A class whose instances live on workers. Called, it gives a handle."""

    def __init__(self, name: str, cls: type[T], spec: EndpointSpec | None) -> None:
        self.name = name
        self.__flashq_endpoint__ = name
        self._cls = cls
        self._spec = spec
        self._default: EndpointInstance[T] | None = None
        functools.update_wrapper(self, cls, updated=())

    def __repr__(self) -> str:
        return f"<Endpoint {self.name!r}: class {self._cls.__qualname__}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return EndpointClass, (self.name, self._cls, None)

    def __call__(self, *args: Any, **kwargs: Any) -> EndpointInstance[T]:
        """A handle of the instance that workers make with these arguments. Raises TypeError where they do not fit."""
        if self._cls.__init__ is not object.__init__ or args or kwargs:
            bound = inspect.signature(self._cls).bind(*args, **kwargs)
            args, kwargs = bound.args, bound.kwargs  # the same revision, however they are given
        made_by_job = self._spec is None and _in_job()
        return EndpointInstance(self.name, self._cls, self._spec, args, kwargs, made_by_job=made_by_job)

    @property
    def __flashq_default__(self) -> EndpointFunction[..., Any] | None:
        """Stands for the handle that a job makes without arguments; None where there have to be some."""
        if self._default is None:
            try:
                self._default = self()
            except TypeError:
                return None
        return self._default.__flashq_function__

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type[T]]:
        """A class that is derived from this one is derived from the class itself, and no endpoint yet."""
        return (self._cls,)

    def local(self, *args: Any, **kwargs: Any) -> T:
        """An instance here, as if undecorated; its `setup` has run."""
        return made(self._cls, args, kwargs)


class EndpointInstance(Generic[T]):
    """The caller's end of an instance: its public methods, to be called on workers."""

    def __init__(
        self,
        name: str,
        cls: type[T],
        spec: EndpointSpec | None,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        made_by_job: bool = False,
    ) -> None:
        self._name, self._cls, self._spec = name, cls, spec
        self._args, self._kwargs = args, dict(kwargs)
        self._build = builder(cls, args, self._kwargs)
        if made_by_job:
            setattr(self._build, UNPINNED, _why_unpinned(name, args, self._kwargs))
        elif spec is None and _EXECUTOR in sys.modules:
            _pinned.setdefault(name, []).append((args, self._kwargs))
        self._local: T | None = None
        self._methods: dict[str, EndpointFunction[..., Any]] = {}

    @property
    def __flashq_endpoint__(self) -> str:
        return self._name

    @property
    def __flashq_function__(self) -> EndpointFunction[..., Any]:
        """Stands for its code and parameters: any of its methods."""
        return cast("EndpointFunction[..., Any]", getattr(self, next(iter(methods_of(self._cls)))))

    def __repr__(self) -> str:
        return f"<instance of endpoint {self._name!r}: {self._cls.__qualname__}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return EndpointInstance, (self._name, self._cls, None, self._args, self._kwargs)

    def __getattr__(self, name: str) -> EndpointFunction[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        method = inspect.getattr_static(self._cls, name, None)
        if name in HOOKS or not inspect.isfunction(method):
            offered = ", ".join(methods_of(self._cls))
            raise AttributeError(
                f"endpoint {self._name!r} has no method {name!r} to be called: it has {offered}"
            )
        if name not in self._methods:
            self._methods[name] = EndpointFunction(
                self._name, self._here(name, method), self._spec, code=self._build, target=name
            )
        return self._methods[name]

    def _here(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        """What `local` runs: the method, of an instance that is made here when it is first needed."""

        @functools.wraps(method)
        def run(*args: Any, **kwargs: Any) -> Any:
            if self._local is None:
                self._local = made(self._cls, self._args, self._kwargs)
            return getattr(self._local, name)(*args, **kwargs)

        signature = inspect.signature(method)
        without_self = signature.replace(parameters=list(signature.parameters.values())[1:])
        vars(run)["__signature__"] = without_self
        return run


def _in_job() -> bool:
    """Whether a job makes this handle; not the import of a module, whose handles its program has made, too."""
    executor = sys.modules.get(_EXECUTOR)
    if executor is None or executor.LINE is None:
        return False
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "<module>" and _is_being_imported(frame.f_globals):
            return False
        frame = frame.f_back
    return True


def _is_being_imported(names: Mapping[str, Any]) -> bool:
    return bool(getattr(names.get("__spec__"), "_initializing", False))


def _why_unpinned(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Which revision a job may call is signed where its program runs: with the arguments of that handle, or none."""
    known = _pinned.get(name) or [((), {})]
    try:
        same = any(bool(args == others[0] and kwargs == others[1]) for others in known)
    except Exception:  # noqa: BLE001 -- values of users, which may compare as they like
        same = False
    if same:
        return ""
    return (
        f"this handle of the class endpoint {name!r} has other arguments than the one that the program has signed, and"
        " they are part of its code: make it at the top of a module, or of its file, and not inside a job"
    )


def made(cls: type[T], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> T:
    """An instance, set up."""
    instance = cls(*args, **kwargs)
    if setup := getattr(instance, "setup", None):
        setup()
    return instance


def builder(cls: type[Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Callable[[], Any]:
    """The code of a class endpoint: what a worker calls to have its instance."""

    def build() -> Any:
        instance = cls(*args, **kwargs)
        setup = getattr(instance, "setup", None)
        if setup is not None:
            setup()
        return instance

    build.__module__ = cls.__module__
    build.__qualname__ = cls.__qualname__
    build.__flashq_targets__ = methods_of(cls)  # type: ignore[attr-defined]
    build.__flashq_class__ = cls  # type: ignore[attr-defined]
    return build


def methods_of(cls: type[Any]) -> dict[str, str]:
    """The public methods of a class, those of its bases too, each with its kind."""
    found = {}
    for name in dir(cls):
        method = inspect.getattr_static(cls, name)
        if not name.startswith("_") and name not in HOOKS and inspect.isfunction(method):
            found[name] = kind_of(method)
    return found


def check_class(cls: type[Any], spec: EndpointSpec) -> None:
    """Raises SpecError, NotSupportedError where a class cannot be an endpoint."""
    methods = methods_of(cls)
    if not methods:
        raise SpecError("class", f"{cls.__qualname__} has no public method to be called")
    for hook in HOOKS:
        if (kind := kind_of(getattr(cls, hook, None))) != "sync":
            what = "yields" if kind == "generator" else "is `async def`"
            raise NotSupportedError("class", f"{cls.__qualname__}.{hook} {what}; make it a plain method")
    if spec.batch is not None and any(kind != "sync" for kind in methods.values()):
        raise SpecError(
            "batch",
            "gathers calls of plain methods, which take and return lists; all public ones",
            value=spec.batch,
        )
    if spec.max_concurrency > 1 and not all(kind.startswith("async") for kind in methods.values()):
        raise SpecError(
            "max_concurrency",
            "more than one job at once needs every public method to be `async def`",
            value=spec.max_concurrency,
        )
