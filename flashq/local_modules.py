"""Where modules come from: which are the user's own, and must travel with a call, and which every worker has.

Asked by name. Nothing here imports a module that was not imported.
"""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, NamedTuple

from flashq.errors import SerializationError
from flashq.model.bundle import Found, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flashq.model.bundle import Module

MAIN = frozenset({"__main__", "__mp_main__"})
_PROVIDED = frozenset({"flashq", "flashq_worker", "flashq_autoscaler", "cloudpickle"})
_STAND_IN = Path(__file__).resolve().parent / "compat" / "stand_in"
_INSTALLED_PARTS = frozenset({"site-packages", "dist-packages"})
_NOT_THERE = "it is the program itself, of which nothing but the function is on a worker"


class _Place(NamedTuple):
    file: str | None
    folders: tuple[str, ...]  # of a package


def find(name: str) -> Found:
    """What there is of a module.

    Its own are the user's where their files are outside the standard library and every site-packages, also
    those installed in editable mode.
    """
    root = name.partition(".")[0]
    if name in MAIN:
        return Found(Kind.REFUSED, reason=_NOT_THERE)
    if root in _PROVIDED:
        return Found(Kind.INSTALLED)
    if root in sys.stdlib_module_names:
        return _standard(root)
    place = _place(name)
    if place is None:
        return Found(Kind.MISSING)
    if place.file is None:
        own = [folder for folder in place.folders if not _is_installed(folder)]
        if place.folders:
            return Found(Kind.FOLDER, own[0], package=True) if own else Found(Kind.INSTALLED)
        return Found(Kind.MADE)
    if _is_installed(place.file) and not _is_stand_in(place.file):
        return Found(Kind.INSTALLED)
    return _own(place.file, package=bool(place.folders))


def read(found: Found) -> bytes:
    """The source of a module that was found. Raises SerializationError."""
    try:
        return Path(found.file).read_bytes()
    except OSError as error:
        raise SerializationError(f"{found.file} cannot be read: {error.strerror}") from error


def is_local_module(name: str) -> bool:
    """Whether this module is the user's own: the main program, one of a file of theirs, or of none."""
    return name in MAIN or find(name).kind is not Kind.INSTALLED


def module_exists(name: str) -> bool:
    """Whether a module of this name is imported, or has a file that an import would find."""
    return name in sys.modules or _place(name) is not None


def changed_files(modules: Iterable[Module]) -> list[str]:
    """Files of imported modules that say something else now than when they were imported."""
    return [module.file for module in modules if _is_changed(sys.modules.get(module.name), module)]


def _is_changed(imported: ModuleType | None, module: Module) -> bool:
    spec = getattr(imported, "__spec__", None)
    if type(getattr(spec, "loader", None)) is not SourceFileLoader:  # others may compile it in their own way
        return False
    codes: set[CodeType] = set()
    pending = [compile(module.source, module.file, "exec", dont_inherit=True)]
    while pending:
        code = pending.pop()
        codes.add(code)
        pending += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    functions = [value for value in vars(imported).values() if isinstance(value, FunctionType)]
    return any(
        function.__code__ not in codes
        for function in functions
        if function.__code__.co_filename == getattr(imported, "__file__", None)
    )


def _standard(root: str) -> Found:
    """A module of the standard library, unless one of the user's hides it."""
    place = _place(root)
    files = [] if place is None else [place.file] if place.file else list(place.folders)
    if any(Path(file).is_absolute() and Path(file).exists() and not _is_installed(file) for file in files):
        return Found(
            Kind.REFUSED,
            files[0] or "",
            reason=f"{files[0]} hides the standard library's: give it another name",
        )
    return Found(Kind.INSTALLED)


def _own(file: str, *, package: bool) -> Found:
    path = Path(file)
    if file.endswith(tuple(EXTENSION_SUFFIXES)):
        return Found(
            Kind.REFUSED,
            file,
            reason=f"{file} is a compiled extension: install it as a package on the workers",
        )
    if not path.is_file():
        archive = next((parent for parent in path.parents if parent.is_file()), None)
        reason = (
            f"it is inside {archive}: unpack that"
            if archive
            else f"it was imported from {file}, which is gone"
        )
        return Found(Kind.REFUSED, file, reason=reason)
    if path.suffix not in (".py", ".pyw"):
        return Found(Kind.REFUSED, file, reason=f"{file} is no source")
    return Found(Kind.SOURCE, file, package)


@cache
def _installed_folders() -> tuple[Path, ...]:
    paths = sysconfig.get_paths()
    return tuple({Path(paths[name]).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def _is_installed(file: str) -> bool:
    path = Path(file).resolve()
    return not _INSTALLED_PARTS.isdisjoint(path.parts) or any(
        path.is_relative_to(folder) for folder in _installed_folders()
    )


def _is_stand_in(file: str) -> bool:
    """Whether a module stands in for one that workers have not: it has to travel, wherever flashq is installed."""
    return Path(file).resolve().is_relative_to(_STAND_IN)


def _place(name: str) -> _Place | None:
    """A module's file, and a package's folders; of a module that is imported, where it was imported from."""
    module = sys.modules.get(name)
    if module is not None:
        file = getattr(module, "__file__", None)
        folders = [folder for folder in getattr(module, "__path__", ()) if isinstance(folder, str)]
        return _Place(file if isinstance(file, str) else None, tuple(folders))
    parent, _, _ = name.rpartition(".")
    try:
        if not parent:
            spec = importlib.util.find_spec(name)
        else:  # by the parent's folders: the import system would import it first
            above = _place(parent)
            spec = PathFinder.find_spec(name, above.folders) if above is not None and above.folders else None
    except (ImportError, ValueError, AttributeError):
        return None
    if spec is None:
        return None
    folders = list(spec.submodule_search_locations or ())
    return _Place(spec.origin if spec.has_location else None, tuple(folders))
