"""The digest that names a revision of an endpoint's code: the same script, the same digest, in every process.

It covers what travels with the function, in a canonical form: its source lines and its bytecode, the values
it captures (closure, defaults, the globals it names), and the user's own functions, classes and modules among
those, as deep as they go. It never looks at pickle bytes, which differ from run to run, nor at decorators,
line numbers, file names or addresses. Sets and dicts count by content, not by order.

Text alone would not do: a file may be newer than what is running. Bytecode alone would; the text is there so
that whatever a person sees as a changed line of the function counts as one.

What belongs to an installed package is a name; so is what the user's other modules define, which are shipped
as files and count by their text (see `flashq.model.bundle`). An endpoint is its name: calling another endpoint
does not take its code along. A value without a stable form (a lock, an open file) counts by its type, with a warning.
"""

from __future__ import annotations

import copyreg
import enum
import functools
import hashlib
import sys
import textwrap
import types
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flashq.local_modules import MAIN, find, module_exists
from flashq.model.bundle import Kind
from flashq.model.graph import Item, Node, graph_digest, plain, word
from flashq.model.imports import Imported, imports_of
from flashq.sources import (
    MOST_SHOWN,
    class_text,
    function_block,
    function_text,
    imported_modules,
    names_and_imports,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from flashq.sources import Text

ENDPOINT_MARK = "__flashq_endpoint__"
"""Attribute by which an endpoint in a captured value is known; holds its name."""


class RevisionWarning(UserWarning):
    """A captured value has no form that is the same in every run: a change of it makes no new revision."""


@dataclass(frozen=True, slots=True)
class CodeDescription:
    """What `describe` found out about a function."""

    digest: str
    by_value: frozenset[str]
    """Modules whose functions and classes are pickled by value: the function's own, and those without a file."""
    imports: frozenset[Imported]
    """The modules that it uses or imports: those of them that are the user's have to be shipped."""
    endpoints: tuple[Any, ...]
    """The endpoints that it captures, and so may call from inside its jobs."""
    uncomparable: tuple[str, ...]
    """Types of captured values that count by their type alone."""
    texts: tuple[Text, ...]
    """The lines of what is pickled by value, for tracebacks: the nearest first, as much as may be shown."""


def code_digest(function: Callable[..., Any]) -> str:
    """The code digest of a function (or a callable of any kind) as 64 hex digits.

    Warns with `RevisionWarning` where a captured value counts by its type alone.
    """
    description = describe(function)
    for name in description.uncomparable:
        shown = getattr(function, "__qualname__", repr(type(function)))
        warnings.warn(
            f"{shown} captures a {name}: a change in that value will not be noticed",
            RevisionWarning,
            stacklevel=2,
        )
    return description.digest


def describe(function: Callable[..., Any]) -> CodeDescription:
    """The digest of a function with what was found on the way."""
    walk = _Walk(function.__module__ if isinstance(function, types.FunctionType | type) else None)
    digest = walk.run(function)
    return CodeDescription(
        digest=digest,
        by_value=frozenset(walk.by_value),
        imports=frozenset(walk.imports),
        endpoints=tuple(walk.endpoints),
        uncomparable=tuple(sorted(set(walk.uncomparable))),
        texts=tuple(walk.texts),
    )


# -- the walk ----------------------------------------------------------------------------------------


class _Walk:
    """Turns a function and all it captures into a graph, node by node (no recursion: values may be deep)."""

    def __init__(self, own: str | None) -> None:
        self.by_value: set[str] = set() if own is None else {own}
        self.imports: set[Imported] = set()
        self.endpoints: list[Any] = []
        self._kind = functools.cache(lambda name: find(name).kind)
        self.uncomparable: list[str] = []
        self.texts: dict[Text, None] = {}
        self._shown = 0
        self._index: dict[object, int] = {}
        self._values: list[Any] = []  # also keeps them alive, so that an id stands for one value

    def run(self, root: Any) -> str:
        """The digest of everything reachable from `root`, as hex."""
        self._node(id(root), root)
        nodes: list[Node] = []
        while len(nodes) < len(self._values):
            nodes.append(self._expand(self._values[len(nodes)]))
        return hashlib.sha256(b"flashq/code/1\0" + graph_digest(nodes)).hexdigest()

    def item(self, value: Any) -> Item:
        """A value as part of another: bytes if it is plain or known by name, else the index of its node."""
        encoded = plain(value)
        if encoded is not None:
            return encoded
        if isinstance(value, types.ModuleType):
            return self.module(value.__name__)
        name = _endpoint_name(value)
        if name is not None:
            self.uses(getattr(value, "__module__", None), optional=True)
            self.endpoints.append(value)
            code = getattr(value, "code", None)
            if isinstance(code, types.FunctionType):  # for its `local`
                self.show(function_text(code, function_block(code)))
            return word(f"endpoint {name}")
        if isinstance(value, types.FunctionType | type):
            reference = self._reference(value)
            if reference is not None:
                return word(f"name {reference}")
        return self._node(id(value), value)

    def module(self, name: str) -> Item:
        """A module: its name. What it says counts where it is shipped."""
        if self._kind(name) is Kind.MADE:
            self.by_value.add(name)
        else:
            self.uses(name)
        return word(f"module {name}")

    def uses(self, module: object, *, optional: bool = False) -> None:
        """Note a module whose file, if it is the user's, has to be there on the worker."""
        if isinstance(module, str) and module not in MAIN and module not in self.by_value:
            self.imports.add(Imported(module, optional))

    def show(self, text: Text | None) -> None:
        """Note lines for tracebacks, while there is room for them."""
        if text is not None and text not in self.texts and self._shown + len(text.lines) <= MOST_SHOWN:
            self._shown += len(text.lines)
            self.texts[text] = None

    def parts(self, node: Node, kind: str, named: Iterable[tuple[Any, Any]]) -> None:
        """Add named values to a node, in no order."""
        node.unordered += [(word(kind), self.item(name), self.item(value)) for name, value in named]

    def _node(self, key: object, value: Any) -> int:
        if key not in self._index:
            self._index[key] = len(self._values)
            self._values.append(value)
        return self._index[key]

    def _reference(self, value: types.FunctionType | type) -> str | None:
        """How an installed package's function or class is imported; None if it has to be taken apart."""
        module: Any = value.__module__
        path = value.__qualname__
        if isinstance(value, type) and not value.__flags__ & _HEAP_TYPE:
            return f"{module}:{path}"  # part of the interpreter or of an extension module
        if not isinstance(module, str):
            return None
        if module in MAIN or module in self.by_value:
            return None
        if self._kind(module) in (Kind.MADE, Kind.MISSING):
            if module in sys.modules:
                self.by_value.add(module)
            return None
        found: Any = sys.modules.get(module)
        for part in path.split("."):
            found = getattr(found, part, None)
        if found is not value:
            return None
        self.uses(module)
        return f"{module}:{path}"

    def _expand(self, value: Any) -> Node:
        kind = type(value)
        expand = _EXPAND.get(kind)
        if expand is not None:
            return expand(self, value)
        if issubclass(kind, type):
            return _class(self, value)
        if issubclass(kind, enum.Enum):
            return Node(word("enum"), [self.item(kind), self.item(value.name), self.item(value.value)])
        if issubclass(kind, set | frozenset):
            state = getattr(value, "__dict__", None)
            return Node(
                word("set"), [self.item(kind), self.item(state)], [(self.item(each),) for each in value]
            )
        return self._reduced(value)

    def _reduced(self, value: Any) -> Node:
        """An object as the pickle protocol takes it apart (without pickling it)."""
        kind = type(value)
        try:
            reducer = copyreg.dispatch_table.get(kind)
            reduced = reducer(value) if reducer is not None else value.__reduce_ex__(4)
            if isinstance(reduced, str):
                return Node(word(f"name {getattr(value, '__module__', None)}:{reduced}"))
            build, arguments, state, each, pairs, setter = (*reduced, None, None, None, None)[:6]
            ordered, named = [arguments, state, setter, *(each or ())], list(pairs or ())
        except Exception:  # noqa: BLE001 -- a user's __reduce__ may raise anything
            name = f"{kind.__module__}.{kind.__qualname__}"
            self.uncomparable.append(name)
            return Node(word(f"opaque {name}"))
        node = Node(word("object"), [self.item(build), *map(self.item, ordered)])
        self.parts(node, "pair", named)
        return node


_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: a class statement made it (or could have)


def _endpoint_name(value: Any) -> str | None:
    try:
        name = getattr(value, ENDPOINT_MARK, None)
    except Exception:  # noqa: BLE001 -- a user's __getattr__ may raise anything
        return None
    return name if isinstance(name, str) else None


# -- how each kind of value is taken apart -----------------------------------------------------------


def _function(walk: _Walk, function: types.FunctionType) -> Node:
    code, block = function.__code__, function_text(function, function_block(function))
    walk.show(block)
    text = None if block is None else block.lines
    node = Node(
        word("function"),
        [walk.item(text), walk.item(code), walk.item(function.__defaults__)],
    )
    walk.parts(node, "default", (function.__kwdefaults__ or {}).items())
    walk.parts(node, "closure", _cells(function))
    names, imports = names_and_imports(code)
    walk.parts(
        node, "global", ((name, function.__globals__[name]) for name in names if name in function.__globals__)
    )
    walk.parts(node, "annotation", _annotations(function).items())
    walk.parts(node, "attribute", ((k, v) for k, v in vars(function).items() if not k.startswith("__flashq")))
    package = str(function.__globals__.get("__package__") or "")
    named = {name for statement in imports for name in imported_modules(*statement, package)}
    existing = {name for name in named if module_exists(name)}
    node.unordered += [(word("import"), word(f"module {name}")) for name in sorted(existing)]
    if text is None:  # nothing says what is optional
        walk.imports.update(Imported(name, maybe=True) for name in existing - MAIN)
    else:
        walk.imports.update(imports_of(textwrap.dedent(text), package))
    return node


def _cells(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not assigned yet
            yield name, NotImplemented


def _annotations(function: types.FunctionType) -> dict[str, Any]:
    try:
        return function.__annotations__
    except NameError:  # evaluated only now, and naming what does not exist
        return {}


def _code(walk: _Walk, code: types.CodeType) -> Node:
    shape = (
        *(code.co_name, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars, code.co_flags),
        *(code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount),
    )
    return Node(
        word("code"), [word(repr(shape)), code.co_code, code.co_exceptiontable, walk.item(code.co_consts)]
    )


def _class(walk: _Walk, cls: type) -> Node:
    text = class_text(cls)
    node = Node(
        word("class"),
        [walk.item(cls.__name__), walk.item(text), *map(walk.item, (type(cls), *cls.__bases__))],
    )
    walk.parts(node, "attribute", _attributes(cls, with_text=text is not None))
    return node


_SLOTS = (
    *(types.GetSetDescriptorType, types.MemberDescriptorType, types.WrapperDescriptorType),
    *(types.MethodDescriptorType, types.ClassMethodDescriptorType),
)
_CODE = (types.FunctionType, staticmethod, classmethod, property)
# What says of a class's fields what its text says too.
_FIELDS = frozenset({"__annotations__", "__dataclass_fields__", "__pydantic_fields__"})


def _attributes(cls: type, *, with_text: bool) -> Iterator[tuple[str, Any]]:
    """What of a class's dict is the user's: not what interpreter and frameworks keep there for themselves."""
    members = cls.__members__ if issubclass(cls, enum.Enum) else {}
    yield from ((name, member.value) for name, member in members.items())
    for name, value in vars(cls).items():
        private = name == "_abc_impl" or (members and name.startswith("_") and name.endswith("_"))
        own = not name.startswith("__") or isinstance(value, _CODE) or name in ("__doc__", "__slots__")
        own = own or (name in _FIELDS and not with_text)
        if own and not (private or name in members or isinstance(value, _SLOTS)):
            yield name, value


def _sequence(walk: _Walk, values: Any) -> Node:
    return Node(word(type(values).__name__), [walk.item(value) for value in values])


def _mapping(walk: _Walk, values: Any) -> Node:
    node = Node(word("dict"))
    walk.parts(node, "pair", values.items())
    return node


def _unordered(walk: _Walk, values: Any) -> Node:
    return Node(word(type(values).__name__), [], [(walk.item(value),) for value in values])


def _memory(walk: _Walk, view: memoryview) -> Node:
    return Node(
        word("memoryview"), [walk.item(view.format), walk.item(view.shape), walk.item(view.tobytes())]
    )


def _made_of(*names: str) -> Callable[[_Walk, Any], Node]:
    """A kind of value that is what these of its attributes are."""
    return lambda walk, value: Node(
        word(type(value).__name__), [walk.item(getattr(value, name)) for name in names]
    )


_EXPAND: dict[type, Callable[[_Walk, Any], Node]] = {
    types.FunctionType: _function,
    types.CodeType: _code,
    types.MethodType: _made_of("__func__", "__self__"),
    staticmethod: _made_of("__func__"),
    classmethod: _made_of("__func__"),
    property: _made_of("fget", "fset", "fdel"),
    functools.cached_property: _made_of("func"),
    type(functools.cache(len)): _made_of("__wrapped__"),
    list: _sequence,
    tuple: _sequence,
    dict: _mapping,
    types.MappingProxyType: _mapping,
    set: _unordered,
    frozenset: _unordered,
    **dict.fromkeys((type({}.keys()), type({}.values()), type({}.items())), _unordered),
    memoryview: _memory,
}
