"""Runs in a process of its own: imports a project's files and says what endpoints they define.

What is imported is the user's own code, so this process has no key and no broker's address; calls that a file makes
while it is imported are refused. The answer is one line of JSON on the descriptor that it is told; what the user's
code prints goes to stderr.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import logging
import os
import sys
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from flashq import class_identity, client, codec, local_modules, signature
from flashq.classes import EndpointClass, EndpointInstance
from flashq.compat import Choices, install
from flashq.compat.endpoint import Endpoint as FlashEndpoint
from flashq.endpoint import Endpoint
from flashq.endpoint_function import EndpointFunction
from flashq.errors import FlashqError, UnsupportedCall
from flashq.model import bundle
from flashq.model import spec as specs
from flashq.model.imports import Imported
from flashq.registration import callables_of, is_by_name, mode_of, targets_of
from flashq.revision import ENDPOINT_MARK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import ModuleType

_UNGUARDED = (
    "it calls an endpoint while it is imported: put what the program does under `if __name__ == '__main__':`"
)


class Refusing:
    """In place of the client: nothing is called while endpoints are looked for."""

    pid = os.getpid()

    def __getattr__(self, name: str) -> Any:
        raise UnsupportedCall(_UNGUARDED)

    def close(self) -> None:
        """Nothing is open."""


class Notices(logging.Handler):
    """What the user is to be told, once the files have been imported."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


class Asked:
    """What `discovery.ask` has asked this process, which is the project's from now on: it is in its folder, finds its
    modules, and ends when whoever asked does.
    """

    def __init__(self) -> None:
        self._answer, lifeline = os.fdopen(int(sys.argv[1]), "w", encoding="utf-8"), int(sys.argv[2])
        threading.Thread(target=lambda: os.read(lifeline, 1) or os._exit(1), daemon=True).start()
        self.order = json.load(sys.stdin)
        sys.stdin = io.StringIO()
        sys.argv = [""]
        sys.path[0] = self.order["project"]
        sys.path[1:1] = [str(Path(self.order["project"], root)) for root in self.order["roots"] if root]
        sys.dont_write_bytecode = True
        os.chdir(self.order["project"])
        self._notices = Notices()
        logging.getLogger("flashq").addHandler(self._notices)

    def answer(self, told: dict[str, Any]) -> NoReturn:
        """The last that this process does."""
        json.dump({**told, "notices": self._notices.said}, self._answer)
        self._answer.close()
        sys.stderr.flush()
        os._exit(0)  # threads of the user's code may hold the end up


def main() -> None:
    """`python -m flashq.apps.finder ANSWER LIFELINE` (descriptors), with the order as JSON on stdin."""
    asked = Asked()
    client.use_client(Refusing())  # type: ignore[arg-type]
    install(Choices(sizes=True))  # a project that is written for runpod_flash is built as it is
    with contextlib.redirect_stdout(sys.stderr):
        found = look(asked.order["modules"])
    asked.answer(found)


def look(modules: Mapping[str, str]) -> dict[str, Any]:
    """Import these (module → relative path). What they define, and what is wrong, as JSON has it."""
    failures: dict[str, dict[str, str]] = {}
    for name, path in modules.items():
        try:
            importlib.import_module(name)
        except BaseException as error:  # the user's code: whatever comes of importing it
            if isinstance(error, KeyboardInterrupt):
                raise
            failures[path] = {"error": _said(error), "where": _where(error, path)}
    endpoints: list[dict[str, Any]] = []
    problems: list[str] = []
    servers: set[str] = set()
    for name, path in modules.items():
        module = sys.modules.get(name)
        if module is None or path in failures:
            continue
        for attribute, value in defined(module, servers):
            try:
                endpoints.append(described(name, path, attribute, value))
            except FlashqError as error:
                problems.append(f"{path}: {attribute}: {error}")
    return {
        "failures": failures,
        "endpoints": endpoints,
        "problems": problems,
        "closure": _closure(
            sorted({name for one in endpoints for name in (one["module"], *one["beside"])}), problems
        ),
        "python": codec.PYTHON,
    }


def _said(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"it ends the program (SystemExit: {error.code}) while it is imported"
    return "".join(traceback.format_exception_only(error)).strip()


def _where(error: BaseException, path: str) -> str:
    """The line of the user's file at which it happened."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.endswith(path)]
    return f"{path}:{frames[-1].lineno}" if frames else path


def defined(module: ModuleType, servers: set[str]) -> Iterator[tuple[str, Any]]:
    """By attribute: the endpoints that a module defines itself: a handle of a class in place of the class.

    `servers`: names of those whose images serve by themselves, and that have been found.
    """
    own: dict[str, Any] = {
        attribute: value
        for attribute, value in vars(module).items()
        if isinstance(value, EndpointFunction | EndpointClass | EndpointInstance) and not is_by_name(value)
    }
    handles = {getattr(value, ENDPOINT_MARK) for value in own.values() if isinstance(value, EndpointInstance)}
    # Of routes that are plain functions, nothing but their endpoint is one.
    own |= {
        attribute: value
        for attribute, value in vars(module).items()
        if isinstance(value, Endpoint | FlashEndpoint) and not is_by_name(value) and _mark(value)
    }
    seen: set[str] = set()
    for attribute, value in own.items():
        name = getattr(value, ENDPOINT_MARK)
        if isinstance(value, EndpointClass) and name in handles:
            continue
        run = _run(value)
        serves = run is not None and hasattr(run, "__flashq_serves__")
        if name in seen | servers or (run is not None and not serves and run.__module__ != module.__name__):
            continue
        (servers if serves else seen).add(name)
        yield attribute, value


def _mark(value: Any) -> str:
    return getattr(value, ENDPOINT_MARK, None) or ""


def _run(value: Any) -> Callable[..., Any] | None:
    function = getattr(value, "__flashq_function__", None) or getattr(value, "__flashq_default__", None)
    return None if function is None else function.code


def described(module: str, path: str, attribute: str, value: Any) -> dict[str, Any]:
    """What the manifest says of an endpoint. Raises FlashqError where it cannot be deployed."""
    run = _run(value)
    if run is None:
        raise UnsupportedCall(
            "workers have to be told with which arguments to make the class: make a handle in this module, as"
            f" {attribute.lower()} = {attribute}(…)"
        )
    function = getattr(value, "__flashq_function__", None) or value.__flashq_default__
    spec = function.spec
    targets = targets_of(run)
    said = signature.describe(
        callables_of(run),
        batch=spec.batch is not None,
        methods=hasattr(run, "__flashq_class__"),
        by_value=(),
        settle=class_identity.settle,
    )
    doc = value.__doc__ if isinstance(value, EndpointFunction | EndpointClass) else ""
    return {
        "name": function.name,
        "module": module,
        "path": path,
        "attribute": attribute,
        "qualname": run.__qualname__,
        "mode": mode_of(run),
        "targets": targets,
        "batch_ms": spec.batch[1] if spec.batch else None,
        "concurrency": specs.concurrency(spec),
        "needs": specs.needs_digest(spec),
        "python": spec.python_version,
        "dependencies": list(spec.dependencies),
        "public": specs.public(spec),
        "env": dict(spec.env),
        "beside": sorted(
            {each.__module__ for each in callables_of(run).values()} - {module, "flashq.image_server"}
        ),
        "serves": specs.port(spec) if hasattr(run, "__flashq_serves__") else 0,
        "schemas": said.schemas,
        "types": said.types.hex(),
        "about": (doc or "").strip().partition("\n")[0],
        "calls_by_name": sorted(
            getattr(other, ENDPOINT_MARK) for other in vars(sys.modules[module]).values() if _named(other)
        ),
    }


def _named(value: Any) -> bool:
    return isinstance(getattr(value, ENDPOINT_MARK, None), str) and is_by_name(value)


def _closure(modules: list[str], problems: list[str]) -> dict[str, dict[str, str]]:
    """The user's own modules that the endpoints' modules import, and where each is."""
    try:
        found = bundle.follow([Imported(name) for name in modules], local_modules.find, local_modules.read)
    except FlashqError as error:
        problems.append(str(error))
        return {}
    return {one.name: {"file": one.file, "path": one.path} for one in found.values()}


if __name__ == "__main__":
    main()
