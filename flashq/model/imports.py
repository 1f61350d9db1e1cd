"""What a module's source says it imports: read from its syntax tree, nothing is executed.

Statements anywhere in it count, and `importlib.import_module` and `__import__` with a literal name. What stands
under `if TYPE_CHECKING` is never imported, and does not.
"""

from __future__ import annotations

import ast
from functools import lru_cache
from importlib.util import resolve_name
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator


class Imported(NamedTuple):
    """A name that may be a module's, and how sure that is."""

    name: str
    optional: bool = False
    """The program goes on without it: inside `try` with a handler for ImportError, or its like."""
    maybe: bool = False
    """It may as well be something the module before the last dot defines: `b` of `from a import b`."""
    star: bool = False
    """All that the module lists in `__all__` is imported, modules among it."""
    relative: bool = False
    """It is a sibling's: nothing else can be meant."""
    line: int = 0


@lru_cache(maxsize=512)
def imports_of(source: bytes | str, package: str, *, deep: bool = True) -> tuple[Imported, ...]:
    """Every import in a source. `package`: what relative ones are relative to; `deep`: inside functions, too.

    Raises SyntaxError or ValueError where it is no Python of this version.
    """
    return tuple(_imports(ast.parse(source), package, deep))


def listed_names(source: bytes | str) -> tuple[str, ...]:
    """The names in a literal `__all__`."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
                names += [word for word in map(_literal, getattr(node.value, "elts", ())) if word]
    return tuple(names)


def _imports(tree: ast.AST, package: str, deep: bool) -> Iterator[Imported]:
    pending: list[tuple[ast.AST, bool]] = [(tree, False)]
    while pending:
        node, optional = pending.pop()
        if isinstance(node, ast.Import):
            yield from (Imported(alias.name, optional, line=node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from _from(node, package, optional)
        elif isinstance(node, ast.Call):
            yield from _call(node, package, optional)
        pending += _inner(node, optional, deep)


def _inner(node: ast.AST, optional: bool, deep: bool) -> Iterator[tuple[ast.AST, bool]]:
    """The nodes within, each with whether what it imports is optional."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not deep:
        return
    if isinstance(node, ast.If) and _is_type_checking(node.test):
        yield from ((inner, optional) for inner in node.orelse)
    elif isinstance(node, ast.Try | ast.TryStar) and any(_is_import_error(h.type) for h in node.handlers):
        yield from ((inner, True) for inner in (*node.body, *node.handlers))
        yield from ((inner, optional) for inner in (*node.orelse, *node.finalbody))
    elif isinstance(node, ast.With) and any(_is_suppress(item.context_expr) for item in node.items):
        yield from ((inner, True) for inner in node.body)
    else:
        yield from ((inner, optional) for inner in ast.iter_child_nodes(node))


def _from(node: ast.ImportFrom, package: str, optional: bool) -> Iterator[Imported]:
    relative, written = bool(node.level), "." * node.level + (node.module or "")
    base = _resolved(written, package) if relative else written
    stars = any(alias.name == "*" for alias in node.names)
    yield Imported(base, optional, star=stars, relative=relative, line=node.lineno)
    for alias in node.names:
        if alias.name != "*":
            yield Imported(f"{base}.{alias.name}", optional, maybe=True, line=node.lineno)


def _call(node: ast.Call, package: str, optional: bool) -> Iterator[Imported]:
    function, arguments = node.func, node.args
    called = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    name = _literal(arguments[0]) if arguments else ""
    if called not in ("import_module", "__import__") or not name:
        return
    if not name.startswith("."):
        yield Imported(name, optional, line=node.lineno)
        return
    anchors = [*arguments[1:], *(word.value for word in node.keywords if word.arg == "package")]
    anchor = _literal(anchors[0]) if anchors else ""
    if anchors and isinstance(anchors[0], ast.Name) and anchors[0].id in ("__package__", "__name__"):
        anchor = package
    if anchor:
        yield Imported(_resolved(name, anchor), optional, relative=True, line=node.lineno)


def _resolved(name: str, package: str) -> str:
    """The absolute name; the name as written where it leads out of the package: no module has that."""
    try:
        return resolve_name(name, package)
    except ImportError:
        return name


def _literal(node: ast.AST) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _last(node: ast.AST | None) -> str:
    """The last part of a dotted name."""
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _is_type_checking(test: ast.expr) -> bool:
    return _last(test) == "TYPE_CHECKING"


_CATCHING = frozenset({"ImportError", "ModuleNotFoundError", "Exception", "BaseException"})


def _is_import_error(caught: ast.expr | None) -> bool:
    kinds = caught.elts if isinstance(caught, ast.Tuple) else [caught]
    return caught is None or any(_last(kind) in _CATCHING for kind in kinds)


def _is_suppress(context: ast.expr) -> bool:
    return (
        isinstance(context, ast.Call)
        and _last(context.func) == "suppress"
        and any(_is_import_error(kind) for kind in context.args)
    )
