"""The environments of a host on disk: what is whole, what is in use, how one is removed.

Beside each folder ``<root>/<digest>`` are ``.log`` (the installer's output) and two files that are locked:
``.lock`` by who builds it, ``.use`` (shared) by each worker that runs in it. Its time of change is when it was last
seen in use. The kernel lets go of a lock when the process that has it dies, however it dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from dataclasses import dataclass
from importlib.metadata import distributions
from typing import TYPE_CHECKING, Any

from flashq_worker.environments.expiry import Aged, expired

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from flashq_worker.environments.expiry import Expired, Limits

MARKER = ".flashq-environment.json"
"""Written last; a folder without it is not whole."""
_DIGITS = frozenset("0123456789abcdef")


@dataclass(frozen=True, slots=True)
class Stored:
    """An environment that was completed, as its marker tells."""

    digest: str
    python: str
    requirements: tuple[str, ...]
    packages: tuple[str, ...]
    """What these were resolved to: name==version, sorted."""
    size_bytes: int
    """Of its files; most share their contents with the installer's cache."""
    built_at: float
    used_at: float
    """When it was last seen in use (seconds since the epoch)."""

    def as_dict(self) -> dict[str, Any]:
        """For the host's listing."""
        return {
            "digest": self.digest,
            "python": self.python,
            "requirements": list(self.requirements),
            "packages": list(self.packages),
            "size_bytes": self.size_bytes,
            "built_at": int(self.built_at * 1000),
            "used_at": int(self.used_at * 1000),
        }


# -- one folder --------------------------------------------------------------------------------------


def complete(place: Path, requirements: tuple[str, ...], python: str) -> None:
    """Mark an environment as complete, with what is in it."""
    packages = _packages(place)
    marker = {
        "requirements": requirements,
        "python": python,
        "packages": sorted(f"{name}=={version}" for name, version in _named(packages)),
        "entries": sorted(entry.name for entry in packages.iterdir()),
        "size_bytes": _size_bytes(place),
        "built_at": time.time(),
    }
    (place / MARKER).write_text(json.dumps(marker, indent=1), encoding="utf-8")


def is_whole(place: Path) -> bool:
    """Whether the folder was completed, and its interpreter and every package are still there."""
    marker = _marker(place)
    if marker is None or not (place / "bin" / "python").exists():
        return False
    try:
        return not set(marker["entries"]) - {entry.name for entry in _packages(place).iterdir()}
    except (OSError, KeyError, TypeError):  # gone, or marked by a version that said less
        return False


def _marker(place: Path) -> dict[str, Any] | None:
    try:
        marker = json.loads((place / MARKER).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return marker if isinstance(marker, dict) else None


def _packages(place: Path) -> Path:
    """Its site-packages. Raises OSError where there is none."""
    for folder in (place / "lib").glob("python3*/site-packages"):
        return folder
    raise FileNotFoundError(f"{place} has no site-packages")


def _named(packages: Path) -> Iterator[tuple[str, str]]:
    for found in distributions(path=[str(packages)]):
        yield found.name, found.version


def _size_bytes(place: Path) -> int:
    seen: set[int] = set()
    total = 0
    for folder, _, names in os.walk(place):
        for name in names:
            status = os.lstat(os.path.join(folder, name))  # noqa: PTH118 — of tens of thousands
            if status.st_ino not in seen:
                seen.add(status.st_ino)
                total += status.st_blocks * 512
    return total


def damage(place: Path) -> tuple[list[str], bool]:
    """Files of its packages that are gone, or not as large as they were installed; whether there are any of the latter.

    Looks at every file, so it is for an environment in which something did not load.
    """
    wrong: list[str] = []
    altered = False
    try:
        packages = _packages(place)
        for found in distributions(path=[str(packages)]):
            for file in found.files or ():
                try:
                    size = os.stat(packages / file).st_size  # noqa: PTH116 — of tens of thousands
                except OSError:
                    wrong.append(f"{file} is gone")
                    continue
                if file.size is not None and size != file.size:
                    wrong.append(f"{file} has {size} bytes, not {file.size}")
                    altered = True
    except OSError as error:
        wrong.append(str(error))
    return wrong, altered


def identity(place: Path) -> str | None:
    """What one build of an environment has, and no other; None where it was not completed."""
    try:
        marker = (place / MARKER).stat()
    except OSError:
        return None
    return f"{marker.st_ino}-{marker.st_mtime_ns}"


def forget(place: Path) -> None:
    """Have it built anew by the next that wants it; who runs in it goes on."""
    (place / MARKER).unlink(missing_ok=True)


# -- locks -------------------------------------------------------------------------------------------


class Hold:
    """A lock on a file, until `release` or the end of this process."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor: int | None = descriptor

    def touch(self) -> None:
        """Note that what it stands for is in use now."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.utime(self._descriptor)

    def unlink(self) -> None:
        """Remove the file; whoever waits for the lock sees that, and makes a new one."""
        self._path.unlink(missing_ok=True)

    def release(self) -> None:
        """Let go of it. Safe to call twice."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Hold:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def lock(path: Path, *, shared: bool = False, on_wait: Callable[[], None] | None = None) -> Hold:
    """Hold the lock on `path`; `on_wait` is called where somebody else has it. Raises OSError."""
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    while True:
        hold = _try_lock(path, kind)
        if hold is not None:
            return hold
        if on_wait is not None:
            on_wait()
            on_wait = None
        hold = _try_lock(path, kind, wait=True)
        if hold is not None:
            return hold


def use(root: Path, digest: str) -> Hold:
    """Say that this process uses an environment: it is not removed meanwhile. Raises OSError."""
    hold = lock(root / f"{digest}.use", shared=True)
    hold.touch()
    return hold


def _try_lock(path: Path, kind: int, *, wait: bool = False) -> Hold | None:
    """The lock, or None: somebody has it, or has removed the file while it was waited for."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    hold = Hold(path, descriptor)
    try:
        fcntl.flock(descriptor, kind if wait else kind | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return hold
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:
        hold.release()
        raise
    hold.release()
    return None


# -- all of them -------------------------------------------------------------------------------------


def stored(root: Path) -> list[Stored]:
    """The completed environments of a host, by digest."""
    found = []
    for place in sorted(root.glob("[0-9a-f]*")):
        if len(place.name) != 64 or not _DIGITS.issuperset(place.name):
            continue
        marker = _marker(place)
        if marker is None:
            continue
        with contextlib.suppress(KeyError, TypeError, ValueError, OSError):
            built_at = float(marker["built_at"])
            used = root / f"{place.name}.use"
            found.append(
                Stored(
                    place.name,
                    str(marker["python"]),
                    tuple(map(str, marker["requirements"])),
                    tuple(map(str, marker["packages"])),
                    int(marker["size_bytes"]),
                    built_at,
                    used.stat().st_mtime if used.exists() else built_at,
                )
            )
    return found


def sweep(root: Path, limits: Limits, on_removed: Callable[[Expired], None]) -> None:
    """Remove what `environment_expiry` says and nobody uses, and what builds left that were killed.

    Raises OSError where the folder cannot be written.
    """
    for one in stored(root):
        with contextlib.suppress(OSError):
            hold = _try_lock(root / f"{one.digest}.use", fcntl.LOCK_EX)
            if hold is None:  # in use now
                os.utime(root / f"{one.digest}.use")
            else:
                hold.release()
    aged = [Aged(one.digest, one.size_bytes, one.used_at) for one in stored(root)]
    for due in expired(aged, limits, time.time()):
        if remove(root, due.digest):
            on_removed(due)
    _sweep_leftovers(root)


def remove(root: Path, digest: str) -> bool:
    """Remove an environment, or a folder that is locked as they are; False where it is in use, or being made."""
    in_use = _try_lock(root / f"{digest}.use", fcntl.LOCK_EX)
    if in_use is None:
        return False
    with in_use:
        building = _try_lock(root / f"{digest}.lock", fcntl.LOCK_EX)
        if building is None:
            return False
        with building:
            doomed = root / f".{digest}.removed"
            shutil.rmtree(doomed, ignore_errors=True)
            with contextlib.suppress(FileNotFoundError):
                (root / digest).rename(doomed)  # so that nobody finds half of it
            (root / f"{digest}.log").unlink(missing_ok=True)
            building.unlink()
            in_use.unlink()
    shutil.rmtree(
        doomed, ignore_errors=True
    )  # whoever builds it anew removes it too; what stays, the next sweep does
    return True


def _sweep_leftovers(root: Path) -> None:
    """What was being built or removed by processes that are no more."""
    for left in root.glob(".[0-9a-f]*.*"):
        digest = left.name[1:65]
        hold = _try_lock(root / f"{digest}.lock", fcntl.LOCK_EX)
        if hold is not None:
            with hold:
                shutil.rmtree(left, ignore_errors=True)
                if not (root / digest).exists():
                    hold.unlink()
