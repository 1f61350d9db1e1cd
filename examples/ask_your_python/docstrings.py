"""Every public docstring of the standard library of the Python that runs this, in a fixed order.

Decides what counts as public, and by which name people know it. Python sources are parsed, never imported,
so that nothing runs (`antigravity` opens a browser, `this` prints a poem). Only modules written in C are
imported, since their documentation is nowhere else.

Must not know what the docstrings are for.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.machinery import BuiltinImporter, ExtensionFileLoader, PathFinder
from pathlib import Path

# Jokes, programs, tests, retired packages and bundled data: nobody's answer to a question.
NOT_AN_API = frozenset(
    "antigravity this idlelib turtledemo test lib2to3 distutils ensurepip pydoc_data".split()
    + "xxlimited xxlimited_35 xxsubtype".split()
)

# Public names of private parts: what they define counts where `os` and `os.path` hand it out.
REACHED_BY_ANOTHER_NAME = frozenset({"posix", "nt", "ntpath", "genericpath"})

# Modules whose members are known by another prefix: `str.join`, not `builtins.str.join`.
SPOKEN_NAMES = {"posixpath": "os.path", "_collections_abc": "collections.abc", "builtins": ""}

# Written in C, and changes the terminal when imported.
NEVER_IMPORTED = frozenset({"readline"})

_Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Docstring:
    """One documented public thing: its full name (`tempfile.TemporaryDirectory`) and its cleaned text."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class _Entry:
    """A docstring and where it was defined (module, name in it): aliases share it."""

    home: tuple[str, str]
    text: str


_Members = Mapping[str, _Entry]
"""A module's documented members by their dotted name inside it; "" is the module itself."""


def collect() -> list[Docstring]:
    """Return the public docstrings by name; a thing with several names appears once, by its shortest."""
    library = _Library(Path(sysconfig.get_path("stdlib")))
    by_home: dict[tuple[str, str], Docstring] = {}
    for module in library.public_modules():
        prefix = SPOKEN_NAMES.get(module, module)
        for inner, entry in library.members(module).items():
            found = Docstring(".".join(part for part in (prefix, inner) if part) or module, entry.text)
            known = by_home.get(entry.home)
            if known is None or (len(found.name), found.name) < (len(known.name), known.name):
                by_home[entry.home] = found
    by_name = {docstring.name: docstring for docstring in by_home.values()}
    return [by_name[name] for name in sorted(by_name)]


class _Library:
    """The library in one folder: which modules it has, and what each documents (worked out once a module)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = [str(folder), str(folder / "lib-dynload")]
        self._members: dict[str, _Members] = {}

    def public_modules(self) -> Iterator[str]:
        """Yield the dotted names of public modules and submodules, in order."""
        hidden = NOT_AN_API | REACHED_BY_ANOTHER_NAME
        for name in sorted(sys.stdlib_module_names):
            if name in SPOKEN_NAMES or (_is_public(name) and name not in hidden):
                yield name
                yield from self._submodules(name)

    def _submodules(self, package: str) -> Iterator[str]:
        folder = self._folder.joinpath(*package.split("."))
        if not (folder / "__init__.py").is_file():
            return
        for path in sorted(folder.iterdir()):
            if path.stem.startswith("_") or path.stem in {"test", "tests", "idle_test"}:
                continue
            if path.suffix == ".py":
                yield f"{package}.{path.stem}"
            elif (path / "__init__.py").is_file():
                yield f"{package}.{path.name}"
                yield from self._submodules(f"{package}.{path.name}")

    def members(self, module: str) -> _Members:
        """Return what `module` documents, with what it hands out for its parts and for private modules."""
        if module not in self._members:
            self._members[module] = {}  # what a circle of imports sees
            source = self._source(module)
            if source is not None:
                self._members[module] = self._parse(module, source)
            elif self._is_written_in_c(module):
                self._members[module] = dict(_introspect(module))
        return self._members[module]

    def _source(self, module: str) -> Path | None:
        base = self._folder.joinpath(*module.split("."))
        candidates = (base / "__init__.py", base.with_suffix(".py"))
        return next((path for path in candidates if path.is_file()), None)

    def _is_written_in_c(self, module: str) -> bool:
        if module in NEVER_IMPORTED:
            return False
        if BuiltinImporter.find_spec(module) is not None:
            return True
        spec = PathFinder.find_spec(module, self._path)
        return spec is not None and isinstance(spec.loader, ExtensionFileLoader)

    def _parse(self, module: str, source: Path) -> _Members:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some sources hold invalid escapes: not ours to report
            tree = ast.parse(source.read_bytes(), filename=str(source))
        exported = _exported(tree)
        found: dict[str, _Entry] = {}
        _keep(found, "", module, ast.get_docstring(tree))
        for statement in _statements(tree.body):
            if isinstance(statement, _Definition):
                if _is_public(statement.name) and (exported is None or statement.name in exported):
                    _define(found, module, statement, "")
            elif isinstance(statement, ast.ImportFrom):
                package = module if source.stem == "__init__" else module.rpartition(".")[0]
                for name, entry in self._handed_out(module, package, statement, exported):
                    found.setdefault(name, entry)
        return found

    def _handed_out(
        self, module: str, package: str, statement: ast.ImportFrom, exported: frozenset[str] | None
    ) -> Iterator[tuple[str, _Entry]]:
        """Yield what `from origin import …` makes public in `module`; origin is private, or a part of it."""
        origin = statement.module or ""
        if statement.level:
            parents = package.split(".")[: len(package.split(".")) + 1 - statement.level]
            origin = ".".join([*parents, origin]).rstrip(".")
        is_part = origin.startswith(f"{module}.")
        if not (is_part or origin.startswith("_") or origin in REACHED_BY_ANOTHER_NAME):
            return
        for alias in statement.names:
            # Without __all__, a name or two taken from a private module are for the module's own use.
            meant = is_part or alias.name == "*"
            for inner, entry in self.members(origin).items():
                top, dot, rest = inner.partition(".")
                name = top if alias.name == "*" else alias.asname or alias.name
                public = _is_public(name) and (meant if exported is None else name in exported)
                if public and alias.name in {"*", top}:
                    yield name + dot + rest, entry


def _statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield a body's statements, also those under `if`, `try` and `with`: a platform's variants count."""
    for statement in body:
        yield statement
        if isinstance(statement, ast.If | ast.Try | ast.With):
            yield from _statements(statement.body)
        if isinstance(statement, ast.Try):
            for clause in statement.handlers:
                yield from _statements(clause.body)
            yield from _statements(statement.finalbody)
        if isinstance(statement, ast.If | ast.Try):
            yield from _statements(statement.orelse)


def _define(found: dict[str, _Entry], module: str, node: _Definition, prefix: str) -> None:
    name = prefix + node.name
    _keep(found, name, module, ast.get_docstring(node))
    if isinstance(node, ast.ClassDef):
        for member in _statements(node.body):
            if isinstance(member, _Definition) and _is_public(member.name):
                _define(found, module, member, f"{name}.")


def _keep(found: dict[str, _Entry], name: str, module: str, text: str | None) -> None:
    if text and text.strip():
        found.setdefault(name, _Entry((module, name), text.strip()))


def _is_public(name: str) -> bool:
    return bool(name) and not name.startswith("_")


def _exported(tree: ast.Module) -> frozenset[str] | None:
    """Return the names of `__all__`, or None where there is none or it is computed."""
    names: set[str] = set()
    for statement in _statements(tree.body):
        match statement:
            case (
                ast.Assign(targets=[ast.Name(id="__all__")], value=value)
                | ast.AugAssign(target=ast.Name(id="__all__"), value=value)
                | ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id="__all__")), args=[value]))
            ):
                try:
                    more = ast.literal_eval(value)
                except ValueError:
                    return None
                names.update([more] if isinstance(more, str) else more)
    return frozenset(names) or None


def _introspect(module: str) -> Iterator[tuple[str, _Entry]]:
    """Yield the documented members of a module written in C."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a deprecated module still has docstrings
        loaded = importlib.import_module(module)
    if loaded.__doc__:
        yield "", _Entry((module, ""), inspect.cleandoc(loaded.__doc__))
    for name, member in sorted(vars(loaded).items()):
        if not _is_public(name):
            continue
        # Hooks of `sys` may have been replaced in this process; it keeps the originals under such names.
        original = getattr(loaded, f"__{name}__", member) if loaded is sys else member
        if isinstance(original, type):
            yield from _introspect_class(name, original)
        elif inspect.isbuiltin(original) and original.__doc__:
            yield name, _Entry((module, name), inspect.cleandoc(original.__doc__))


def _introspect_class(name: str, cls: type) -> Iterator[tuple[str, _Entry]]:
    module, qualified = cls.__module__, cls.__qualname__
    if cls.__doc__:
        yield name, _Entry((module, qualified), inspect.cleandoc(cls.__doc__))
    for inner, member in sorted(vars(cls).items()):
        text = member.__doc__
        documented = inspect.isroutine(member) or inspect.isdatadescriptor(member)
        if _is_public(inner) and documented and isinstance(text, str) and text.strip():
            yield f"{name}.{inner}", _Entry((module, f"{qualified}.{inner}"), inspect.cleandoc(text))
