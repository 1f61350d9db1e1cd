"""The modules that travelled with a revision, as files that an executor imports: ``<root>/<digest>``.

Made aside and renamed into place; one that is there is compared with what it should be, since jobs run as the
same user and may have written into it. Files, and not only a finder in the executor, so that tracebacks and
`inspect` show lines and processes that a job starts can import the same.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from flashq.model import bundle as bundles

if TYPE_CHECKING:
    from collections.abc import Iterator

KEPT_S = 7 * 86_400.0
"""How long a folder that no worker uses is kept: as long as a revision that is not current."""
_CACHE = "__pycache__"


class ShippedSources:
    """The folders under `root`, shared by the workers of a host. One for the life of a worker."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._held: dict[str, int] = {}  # digest → a lock that says: it is in use

    def place(self, raw: bytes) -> Path:
        """The folder of a bundle out of a verified record. Raises MalformedEnvelope, OSError."""
        digest, files = bundles.unpack(raw)
        folder = self._root / digest
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._hold(digest)
        if not _is(folder, files):
            with self._alone():
                if not _is(folder, files):  # else another worker was first, and its executor reads it by now
                    self._make(folder, files)
        os.utime(folder)
        self._tidy(before=folder.stat().st_mtime - KEPT_S)
        return folder

    def _hold(self, digest: str) -> None:
        if digest not in self._held:
            lock = os.open(self._lock_file(digest), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._held[digest] = lock
            fcntl.flock(lock, fcntl.LOCK_SH)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        lock = os.open(self._lock_file("making"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _lock_file(self, digest: str) -> Path:
        return self._root / f"{digest}.lock"

    def _make(self, folder: Path, files: dict[str, bytes]) -> None:
        aside = tempfile.mkdtemp(prefix=".making-", dir=self._root)
        try:
            made = self._root / aside / "made"
            for path, source in files.items():
                file = made / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(source)
            with contextlib.suppress(FileNotFoundError):
                folder.rename(self._root / aside / "spoiled")
            made.rename(folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def _tidy(self, before: float) -> None:
        """Remove what no worker uses, and none has for a while."""
        for folder in self._root.iterdir():
            with contextlib.suppress(OSError):
                if folder.suffix == ".lock" or folder.stat().st_mtime >= before:
                    continue
                lock = os.open(self._lock_file(folder.name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder)
                finally:
                    os.close(lock)


def _is(folder: Path, files: dict[str, bytes]) -> bool:
    """Whether the folder holds these files and, but for what Python made of them, nothing else."""
    there: set[str] = set()
    for place, folders, names in os.walk(folder):
        if _CACHE in folders:
            folders.remove(_CACHE)
        there |= {Path(place, name).relative_to(folder).as_posix() for name in names}
    try:
        return there == files.keys() and all(
            not (folder / path).is_symlink() and (folder / path).read_bytes() == source
            for path, source in files.items()
        )
    except OSError:  # it is being made anew
        return False
