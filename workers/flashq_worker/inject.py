"""The inject folder: what an executor needs in an environment that has no flashq, and nothing else.

``<home>/inject/<digest>`` holds links to the packages flashq, flashq_worker and cloudpickle of the worker's
own installation. First on the executor's `sys.path`, it lends these three to any interpreter, whereas the
worker's whole site-packages would lend it packages of other versions than the endpoint asked for.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from flashq._version import __version__

_CLOUDPICKLE = version("cloudpickle")
PACKAGES = ("flashq", "flashq_worker", "cloudpickle")


def inject_folder(home: Path) -> Path:
    """The inject folder of this installation under `home`, made where it is not there.

    Named by the versions and places of what it links to, so that an upgrade gets a new one. Made aside and
    renamed into place: whoever finds it finds a whole one. Raises OSError where it cannot be made.
    """
    targets = packages()
    named = [__version__, _CLOUDPICKLE, *map(str, targets.values())]
    folder = home / "inject" / hashlib.sha256("\0".join(named).encode()).hexdigest()[:16]
    if _is_whole(folder, targets):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".making-", dir=folder.parent))
    try:
        for name, target in targets.items():
            (aside / name).symlink_to(target, target_is_directory=True)
        aside.rename(folder)
    except OSError:
        if not _is_whole(folder, targets):
            raise
        # Another process was first, and its folder is as good.
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def packages() -> dict[str, Path]:
    """The folders of the packages themselves, by name."""
    return {name: _package(name) for name in PACKAGES}


def _is_whole(folder: Path, targets: dict[str, Path]) -> bool:
    return all(os.path.realpath(folder / name) == str(target) for name, target in targets.items())


def _package(name: str) -> Path:
    """The folder of an installed package, its links resolved."""
    spec = find_spec(name)
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    if not places:
        raise ModuleNotFoundError(f"the package {name} is not installed as a folder", name=name)
    return Path(places[0]).resolve()
