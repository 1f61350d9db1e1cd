"""`python -m flashq.dev.live ANSWER LIFELINE`: imports a project's files, and registers what they define as live ones.

A program of the user's like any other that calls endpoints. It is told what to do as JSON on stdin, and says what came
of it as one line of JSON on the first descriptor; what the user's code prints goes to stderr.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashq import endpoint as endpoints
from flashq.apps import finder
from flashq.client import current_client, use_client
from flashq.errors import FlashqError
from flashq.model.routes import parse
from flashq.registration import callables_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

    from flashq.client import Client
    from flashq.endpoint_function import EndpointFunction
    from flashq.model.spec import EndpointSpec

PREFIX = "live-"
"""Of the names of endpoints that are served while they are written."""


def main() -> None:
    """See the module."""
    asked = finder.Asked()
    order = asked.order
    endpoints.use_changes(lambda spec: changed(spec, provision=order["provision"]))
    with contextlib.redirect_stdout(sys.stderr):
        if order["compat"]:
            from flashq import compat
            from flashq.compat import variables

            variables.load(Path(order["project"]))
            compat.install(compat.Choices())
        told = load(order["modules"])
    asked.answer(told)


def changed(spec: EndpointSpec, *, provision: bool) -> EndpointSpec:
    """A live endpoint's parameters: its name has the prefix; with `provision` one worker is there from the start."""
    changes: dict[str, Any] = {"name": f"{PREFIX}{spec.name}"}
    if provision:
        least, most = spec.workers
        changes["workers"] = (max(least, 1), max(most, 1))
    return spec.model_copy(update=changes)


def load(modules: Mapping[str, str]) -> dict[str, Any]:
    """Import these (module → relative path) and register what they define: `endpoints`, and `problems`.

    Nothing is registered where there is a problem.
    """
    problems: list[str] = []
    before = use_client(finder.Refusing())  # type: ignore[arg-type]
    for name, path in modules.items():
        try:
            importlib.import_module(name)
        except BaseException as error:  # the user's code: whatever comes of importing it
            if isinstance(error, KeyboardInterrupt):
                raise
            problems.append(_told(error, path))
    use_client(before)
    servers: set[str] = set()
    found = [
        (path, attribute, function)
        for name, path in modules.items()
        if name in sys.modules
        for attribute, function in _defined(sys.modules[name], servers)
    ]
    if problems:
        return {"endpoints": [], "problems": problems}
    client = current_client()
    rows = []
    for path, attribute, function in found:
        try:
            register(client, function)
        except FlashqError as error:
            problems.append(f"{path}: {attribute}: {error}")
            continue
        rows.append(
            {
                "file": path,
                "function": attribute,
                "name": function.name,
                "about": _first_line(function),
                "routes": {
                    target: _first_line(code)
                    for target, code in callables_of(function.code).items()
                    if parse(target)
                },
            }
        )
    return {"endpoints": rows, "problems": problems}


def _defined(module: ModuleType, servers: set[str]) -> list[tuple[str, EndpointFunction[..., Any]]]:
    """What a module defines, each by the attribute that has it."""
    found = []
    for attribute, value in finder.defined(module, servers):
        function = getattr(value, "__flashq_function__", None) or getattr(value, "__flashq_default__", None)
        if function is not None:
            found.append((attribute, function))
    return found


def register(client: Client, function: EndpointFunction[..., Any]) -> None:
    """Put an endpoint, and what its jobs call, on record. Raises FlashqError."""
    seen: set[str] = set()
    pending = [function]
    while pending:
        each = pending.pop()
        if each.name in seen:
            continue
        seen.add(each.name)
        made = client.registration(each)
        pending += made.calls
        client.broker.run(made.command(client.transitions))


def _first_line(of: Any) -> str:
    return (getattr(of, "__doc__", None) or "").strip().partition("\n")[0]


def _told(error: BaseException, path: str) -> str:
    """What went wrong, and at which line of the user's."""
    if isinstance(error, SystemExit):
        return f"{path}: it ends the program (SystemExit: {error.code}) while it is imported"
    said = "".join(traceback.format_exception_only(error)).strip()
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == "runpod_flash":
        said += " (flashq run --compat serves what is written for it)"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.endswith(path)]
    return f"{path}:{frames[-1].lineno}: {said}" if frames else f"{path}: {said}"


if __name__ == "__main__":
    main()
