"""Classes of a program that are the same class in its next run, for whoever unpickles what both have pickled.

cloudpickle pickles a class of `__main__` by value, under a random name by which processes know it again. The first
run's code stays on record, while the next run pickles its arguments anew: by random names their classes would be two.
"""

from __future__ import annotations

import sys
from typing import Any

from flashq.revision import describe


def settle(cls: type[Any]) -> None:
    """Have cloudpickle know a class by its module, its name and what it says, where the module has it by that name.

    By cloudpickle's own books: it has no other way to name a class. A class that changed is another one.
    """
    from cloudpickle import cloudpickle

    if cls in cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS or not _is_named(cls):  # noqa: SLF001
        return
    name = f"flashq:{cls.__module__}:{cls.__qualname__}:{describe(cls).digest}"
    with cloudpickle._DYNAMIC_CLASS_TRACKER_LOCK:  # noqa: SLF001
        cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS[cls] = name  # noqa: SLF001
        cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID[name] = cls  # noqa: SLF001


def _is_named(cls: type[Any]) -> bool:
    """Whether its module has it under its name; else there may be several that say the same."""
    found: Any = sys.modules.get(cls.__module__)
    for part in cls.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is cls
