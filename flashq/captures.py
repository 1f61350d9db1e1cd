"""What of all that a function takes along cannot be pickled, asked where pickling it has failed."""

from __future__ import annotations

import contextlib
import inspect
from types import FunctionType
from typing import TYPE_CHECKING, Any

from flashq.sources import names_and_imports

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def culprit(function: Any, trouble: Callable[[Any], Exception | None]) -> tuple[str, Exception] | None:
    """What it is, in words, and why it cannot; None where no part of the function is to blame alone.

    `trouble`: what pickling a value raises. Functions and classes are looked into, values are not.
    """
    pending, seen = [function], {id(function)}
    while pending:
        owner = pending.pop(0)
        for words, value in _captured(owner):
            if id(value) in seen:
                continue
            seen.add(id(value))
            error = trouble(value)
            if error is None:
                continue
            if isinstance(value, FunctionType | type):
                pending.append(value)
                continue
            of = "" if owner is function else f" of {owner.__qualname__}"
            return f"{words} ({_type_name(type(value))}){of}", error
    return None


def _captured(owner: Any) -> Iterator[tuple[str, Any]]:
    """What a function or a class holds, each with what it is called there."""
    if isinstance(owner, type):
        for name, value in vars(owner).items():
            if not name.startswith("__") or callable(value):
                yield f"the attribute {name}", getattr(value, "__func__", getattr(value, "fget", value))
    elif isinstance(owner, FunctionType):
        space = owner.__globals__
        names = sorted(names_and_imports(owner.__code__)[0] & space.keys())
        yield from ((f"the global {name}", space[name]) for name in names)
        for name, cell in zip(owner.__code__.co_freevars, owner.__closure__ or (), strict=True):
            with contextlib.suppress(ValueError):  # not assigned yet
                yield f"the variable {name}", cell.cell_contents
        defaults = {name: each.default for name, each in inspect.signature(owner).parameters.items()}
        yield from ((f"the default of {name}", value) for name, value in defaults.items())


def _type_name(kind: type) -> str:
    bare = kind.__module__ in ("builtins", "__main__")
    return kind.__qualname__ if bare else f"{kind.__module__}.{kind.__qualname__}"
