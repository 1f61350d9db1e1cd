"""Checks of one value a user gave: each returns it in its one form, or raises `ValueError`.

The message says what is allowed, as a predicate ("must be at least 0 seconds"); the caller adds which
parameter it was about. Pure, standard library only.
"""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def kind(value: object) -> str:
    """A value as an error names it: its type, and itself where that is short."""
    shown = repr(value)
    name = type(value).__name__
    return f"{name} {shown}" if len(shown) <= 60 else name


def whole(value: object, *, minimum: int, maximum: int, unit: str = "") -> int:
    """A whole number within bounds; a bool, a float or text is none."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise ValueError(f"must be a whole number{_of(unit)}, not {kind(value)}") from None
    _within(number, minimum, maximum, unit)
    return number


def number(value: object, *, minimum: float, maximum: float, unit: str = "", above: bool = False) -> float:
    """A finite number within bounds (`above`: more than `minimum`); whole ones come back as int."""
    if isinstance(value, bool) or not (isinstance(value, float) or hasattr(value, "__index__")):
        raise ValueError(f"must be a number{_of(unit)}, not {kind(value)}")
    given = float(value)
    if not math.isfinite(given):
        raise ValueError(f"must be a finite number{_of(unit)}")
    if above and given <= minimum:
        raise ValueError(f"must be more than {minimum:g}{_space(unit)}")
    _within(given, minimum, maximum, unit)
    return int(given) if given.is_integer() else given


def flag(value: object) -> bool:
    """True or False, and nothing that merely counts as one."""
    if not isinstance(value, bool):
        raise ValueError(f"must be True or False, not {kind(value)}")
    return value


def text(value: object, *, maximum: int) -> str:
    """A string of 1 to `maximum` characters."""
    if not isinstance(value, str):
        raise ValueError(f"must be a string, not {kind(value)}")
    if not value:
        raise ValueError("must not be empty")
    if len(value) > maximum:
        raise ValueError(f"must be at most {maximum} characters long; it has {len(value)}")
    return value


def nearest(name: str, candidates: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the candidates that look like `name` (without case), else nothing."""
    import difflib  # here, since it takes longer to import than all the rest and is needed in errors only

    by_fold = {candidate.casefold(): candidate for candidate in candidates}
    near = [by_fold[match] for match in difflib.get_close_matches(name.casefold(), by_fold, n=2, cutoff=0.6)]
    return f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""


def _within(number: float, minimum: float, maximum: float, unit: str) -> None:
    if number < minimum:
        raise ValueError(f"must be at least {minimum:g}{_space(unit)}")
    if number > maximum:
        raise ValueError(f"must be at most {maximum:.15g}{_space(unit)}")


def _space(unit: str) -> str:
    return f" {unit}" if unit else ""


def _of(unit: str) -> str:
    return f" of {unit}" if unit else ""
