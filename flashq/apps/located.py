"""Where a deployed endpoint's function is found on a worker: in the app's own files, by module and name.

Runs in the executor, so it needs the standard library alone. The signed revision holds a call of `code` with these
arguments in place of a pickled function.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashq import nested

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

MANIFEST = "manifest.json"
"""Beside the folder of an app's files."""


def code(
    modules: Sequence[str], attribute: str, roots: Sequence[str], names: Mapping[str, str]
) -> Callable[..., Any]:
    """The function, or what makes the instance of a class.

    `modules`: the one that has the attribute, then those that put more functions into the same endpoint.
    `roots`: folders in the app's files that modules are found in, beside the first. `names`: what the app's endpoints
    are called in the environment that it is deployed to. Raises what importing the modules does.
    """
    app = _app(modules[0], roots)
    if app is not None:
        sys.path[1:1] = [str(app / root) for root in roots if root]
        os.chdir(app)  # also in a container, whose folder is its image's
    nested.DEPLOYED_AS.update(names)
    first, *_ = [importlib.import_module(module) for module in modules]
    found: Any = getattr(first, attribute)
    function = getattr(found, "__flashq_function__", None) or getattr(found, "__flashq_default__", None)
    if function is None:
        raise TypeError(
            f"{attribute} in {first.__name__} is no endpoint that can be run: {type(found).__qualname__}"
        )
    run: Callable[..., Any] = function.code
    return run


def _app(module: str, roots: Sequence[str]) -> Path | None:
    """The folder of the app's files: first on the path of a host's executor, somewhere on that of a container's."""
    inside = module.replace(".", "/")
    for entry in sys.path:
        for root in roots:
            if any(Path(entry, root, inside + end).is_file() for end in (".py", "/__init__.py")):
                return Path(entry)
    return None


class Located:
    """Pickles as the call of `code` that finds it."""

    def __init__(
        self, modules: Sequence[str], attribute: str, roots: Sequence[str], names: Mapping[str, str]
    ) -> None:
        self._call = (tuple(modules), attribute, tuple(roots), dict(names))

    def __reduce__(self) -> tuple[Any, ...]:
        return code, self._call
