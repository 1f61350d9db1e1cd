"""Source text of functions and classes; what code names and imports.

The text on disk may be newer than the code that runs, or be missing; so text is an addition to what the code
itself says (see revision.py), and None is an answer. Nothing here imports a module that was not imported.
"""

from __future__ import annotations

import ast
import dis
import importlib.util
import inspect
import linecache
import sys
import tokenize
from functools import lru_cache
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


MOST_SHOWN = 256 * 1024
"""Characters of source that go with a revision for its tracebacks."""


class Text(NamedTuple):
    """Lines of a file as they are in it, from a line (the first is 1) on: what tracebacks show of a function."""

    file: str
    line: int
    lines: str


def function_block(function: Any) -> Text | None:
    """A function's lines, decorators and all; None without a source, and for what is no function of Python."""
    if not isinstance(function, FunctionType):
        return None
    code = function.__code__
    lines = _lines(code.co_filename, function.__globals__)[code.co_firstlineno - 1 :]
    try:
        block = inspect.getblock(lines) if lines else []
    except (SyntaxError, ValueError, tokenize.TokenError):
        return None
    return Text(code.co_filename, code.co_firstlineno, "".join(block)) if block else None


def function_text(function: FunctionType, text: Text | None) -> Text | None:
    """A function's block from `def` on, without its decorators, which may hold what nobody is to see (`env=`).

    None for a lambda or without a block.
    """
    code = function.__code__
    if text is None or not code.co_name.isidentifier():
        return None
    block = text.lines.split("\n")  # as files are read: not at form feeds
    try:
        inside = text.lines[:1].isspace()  # in a class or a function: parsed inside something, too
        tree = ast.parse(f"if 1:\n{text.lines}" if inside else text.lines)
    except (SyntaxError, ValueError):
        return None
    body = tree.body[0].body if inside and isinstance(tree.body[0], ast.If) else tree.body
    node = body[0] if body else None
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.name != code.co_name:
        return None
    first = 2 if inside else 1
    return Text(text.file, text.line + node.lineno - first, _text(block, node, first=first))


def class_text(cls: type) -> str | None:
    """A class's lines from `class` on, without its decorators; None where there is no source."""
    methods = [value.__code__ for value in vars(cls).values() if isinstance(value, FunctionType)]
    files = [code.co_filename for code in methods] + [
        getattr(sys.modules.get(cls.__module__), "__file__", None)
    ]
    for file in files:
        lines = _lines(file) if isinstance(file, str) else []
        nodes = _classes("".join(lines)).get(cls.__qualname__)
        if nodes:
            starts = {code.co_firstlineno for code in methods if code.co_filename == file}
            holding = [node for node in nodes if any(_holds(node, line) for line in starts)]
            return _text(lines, max(holding or nodes, key=lambda node: node.lineno), first=1)
    return None


def _holds(node: ast.ClassDef, line: int) -> bool:
    return node.lineno <= line <= (node.end_lineno or node.lineno)


def _text(lines: list[str], node: ast.stmt, *, first: int) -> str:
    end = node.end_lineno or node.lineno
    return "\n".join(line.rstrip() for line in lines[node.lineno - first : end - first + 1])


def _lines(file: str, module_globals: dict[str, Any] | None = None) -> list[str]:
    linecache.checkcache(file)
    return linecache.getlines(file, module_globals)


@lru_cache(maxsize=32)
def _parse(source: str) -> ast.Module | None:
    try:
        return ast.parse(source) if source else None
    except (SyntaxError, ValueError):
        return None


@lru_cache(maxsize=32)
def _classes(source: str) -> dict[str, list[ast.ClassDef]]:
    """Every class statement in a source by qualified name."""
    found: dict[str, list[ast.ClassDef]] = {}
    pending: list[tuple[ast.AST, str]] = [(tree, "")] if (tree := _parse(source)) else []
    while pending:
        node, prefix = pending.pop()
        if isinstance(node, ast.ClassDef):
            found.setdefault(prefix + node.name, []).append(node)
            prefix += f"{node.name}."
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            prefix += f"{node.name}.<locals>."
        # Only statements hold statements, but for except clauses and match cases.
        pending += [
            (inner, prefix)
            for inner in ast.iter_child_nodes(node)
            if isinstance(inner, ast.stmt | ast.excepthandler | ast.match_case)
        ]
    return found


# -- what bytecode names ------------------------------------------------------------------------------

_GLOBAL = frozenset(
    {"LOAD_GLOBAL", "LOAD_NAME", "STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS"}
)
_UNSTABLE = frozenset({"__builtins__", "__loader__", "__spec__", "__cached__"})


def names_and_imports(code: CodeType) -> tuple[set[str], set[tuple[int, str, tuple[str, ...]]]]:
    """Names of globals that code (and code within it) uses, and its imports as (level, module, names)."""
    names: set[str] = set()
    imports: set[tuple[int, str, tuple[str, ...]]] = set()
    pending = [code]
    while pending:
        current = pending.pop()
        pending += [constant for constant in current.co_consts if isinstance(constant, CodeType)]
        steps = [step for step in dis.get_instructions(current) if step.opname != "EXTENDED_ARG"]
        names.update(step.argval for step in steps if step.opname in _GLOBAL)
        for place, step in enumerate(steps):
            if step.opname == "IMPORT_NAME":
                imports.add((steps[place - 2].argval, step.argval, steps[place - 1].argval or ()))
    return names - _UNSTABLE, imports


def imported_modules(level: int, module: str, names: Iterable[str], package: str) -> Iterator[str]:
    """Names of the modules that `from <level dots><module> import <names>` may import."""
    try:
        base = importlib.util.resolve_name("." * level + module, package) if level else module
    except ImportError:
        return
    yield base
    yield from (f"{base}.{name}" for name in names)
