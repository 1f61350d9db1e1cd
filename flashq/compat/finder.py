"""`import runpod_flash`, answered: a module finder that comes before all others.

The modules it gives are files of `stand_in/`, which import everything from here. They travel with a function as a
user's own modules do, so that workers can import `runpod_flash` as well.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING

from flashq.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

PACKAGE = "runpod_flash"
STAND_IN = Path(__file__).parent / "stand_in"


class Finder(MetaPathFinder):
    """Finds `runpod_flash` and its modules here, and nothing else."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """A module of `stand_in/`. Raises ModuleNotFoundError for one that Flash has and this has not."""
        if fullname.partition(".")[0] != PACKAGE:
            return None
        found = PathFinder.find_spec(fullname, [str(STAND_IN)] if fullname == PACKAGE else path, target)
        if found is None:
            raise ModuleNotFoundError(
                f"{fullname} is not among the modules of runpod_flash that flashq stands in for; "
                "what programs use is in runpod_flash itself",
                name=fullname,
            )
        return found


def install() -> None:
    """See `flashq.compat.install`."""
    imported = sys.modules.get(PACKAGE)
    if imported is not None and not str(imported.__file__).startswith(str(STAND_IN)):
        raise ConfigurationError(
            f"{PACKAGE} was imported already, from {imported.__file__}: install flashq.compat before that"
        )
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder())


def uninstall() -> None:
    """Undo `install`, and forget what was imported."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, Finder)]
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]
