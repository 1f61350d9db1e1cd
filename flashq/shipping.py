"""Which of the user's modules travel with a function, and their sources as they are on disk now.

Those that the function (and what travels with it) imports or uses must be there; those that its file imports
go along, since arguments may be of their classes.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from flashq.errors import FlashqError
from flashq.local_modules import changed_files, find, read
from flashq.model import bundle as bundles
from flashq.model.imports import imports_of
from flashq.notices import level_of_caller
from flashq.revision import RevisionWarning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flashq.model.bundle import Module
    from flashq.model.imports import Imported
    from flashq.revision import CodeDescription

_OF_ENDPOINTS = ("flashq", "runpod_flash")


class Shipped(NamedTuple):
    """What is shipped with an endpoint's function. Digest and bytes are empty where that is nothing."""

    digest: str
    raw: bytes
    modules: tuple[str, ...]
    with_endpoints: tuple[str, ...] = ()
    """Those of them that may define endpoints: they import flashq."""


def bundle(endpoint: str, function: Callable[..., Any], code: CodeDescription) -> Shipped:
    """Pack what has to be shipped with an endpoint's function.

    Warns with `RevisionWarning` where a file says something else than when it was imported.
    Raises: SerializationError, PayloadTooLarge.
    """
    try:
        modules = bundles.follow([*code.imports, *_file_imports(function)], find, read)
        digest, raw = bundles.pack(modules)
    except FlashqError as error:
        raise type(error)(f"endpoint {endpoint}: {error}") from None
    for file in changed_files(modules.values()):
        warnings.warn(
            f"{file} changed since this program imported it: workers get it as it is now",
            RevisionWarning,
            stacklevel=level_of_caller(),
        )
    defining = (name for name, module in modules.items() if _may_define_endpoints(module))
    return Shipped(digest, raw, tuple(modules), tuple(defining))


def _may_define_endpoints(module: Module) -> bool:
    package = module.name if module.package else module.name.rpartition(".")[0]
    imported = imports_of(module.source, package, deep=False)
    return any(each.name.partition(".")[0] in _OF_ENDPOINTS for each in imported)


def _file_imports(function: Callable[..., Any]) -> Iterator[Imported]:
    """What the function's file imports outside of functions; nothing where it has no file (a REPL, a notebook)."""
    module = sys.modules.get(function.__module__)
    file = getattr(module, "__file__", None)
    if not isinstance(file, str) or not file.endswith((".py", ".pyw")):
        return
    package = getattr(module, "__package__", None) or ""
    try:
        found = imports_of(Path(file).read_bytes(), package, deep=False)
    except (OSError, SyntaxError, ValueError):  # it changed; what runs says what it needs
        return
    yield from (each._replace(optional=True) for each in found)
