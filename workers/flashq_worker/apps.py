"""Deployed apps on a host: their artifacts, unpacked once and shared, and the environments made of what is in them.

An artifact is a folder ``<home>/apps/<digest>``, made aside and renamed into place. Beside it are two files that are
locked: ``.lock`` by who makes it, ``.use`` (shared) by each worker that runs in it. Its own files are compared with its
manifest whenever they are to be used, since jobs run as the same user and may have written into them; that with its
digest, which the signed revision names. No package index is asked, but for what the app's builder left to hosts.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flashq.apps import archive
from flashq.apps.located import MANIFEST
from flashq.apps.manifest import MOST_BYTES, PACKAGES, SOURCE, Manifest, digest_of
from flashq.errors import ArtifactError
from flashq_worker.environments import environment
from flashq_worker.environments import store as environment_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from flashq.codec import Revision
    from flashq_worker.environments.environment import Environment
    from flashq_worker.environments.store import Hold

KEPT_S = 8 * 86_400.0
"""How long an artifact that no worker uses is kept: longer than a revision that is not current."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a deployed revision runs in."""

    environment: Environment
    sources: Path
    """The app's own files."""
    hold: Hold
    """Says that they are in use; to be released by who asked for it."""

    def release(self) -> None:
        """Nothing of it is used any more by who asked for it."""
        self.hold.release()
        if self.environment.hold is not None:
            self.environment.hold.touch()
            self.environment.hold.release()


class Apps:
    """The apps of a host, below its `home`. `fetch`: the bytes of an artifact by its digest."""

    def __init__(self, home: Path, fetch: Callable[[str], Iterable[bytes]]) -> None:
        self._root = home / "apps"
        self._environments = home / "environments"
        self._fetch = fetch

    def prepare(self, record: Revision, on_output: Callable[[str], None], *, fresh: bool = False) -> Prepared:
        """Have everything that a revision needs here. `fresh`: though it is there, it does not do.

        Blocks while it is fetched and made, or while another process does that. Raises: ArtifactError,
        EnvironmentBuildError, BrokerError, OSError.
        """
        digest = record.artifact
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        hold = environment_store.use(self._root, digest)
        try:
            folder, manifest = self._unpacked(digest, on_output, fresh=fresh)
            made = self._environment(folder, manifest, record.environment, on_output, fresh=fresh)
        except BaseException:
            hold.release()
            raise
        self._tidy()
        return Prepared(made, folder / SOURCE, hold)

    def _unpacked(
        self, digest: str, on_output: Callable[[str], None], *, fresh: bool
    ) -> tuple[Path, Manifest]:
        folder = self._root / digest
        with environment_store.lock(self._root / f"{digest}.lock"):
            manifest = None if fresh else _manifest(folder, digest)
            wrong = [] if manifest is None else archive.verify(folder, manifest, SOURCE)
            if wrong:
                on_output(f"files of the app were altered and are put back: {', '.join(wrong[:3])}")
            if manifest is None or wrong:
                on_output(f"fetching artifact {digest[:12]}")
                _remove(folder)
                manifest = archive.unpack(self._fetch(digest), digest, folder)
        return folder, manifest

    def _environment(
        self, folder: Path, manifest: Manifest, digest: str, on_output: Callable[[str], None], *, fresh: bool
    ) -> Environment:
        wanted = manifest.environments.get(digest)
        if wanted is None:
            raise ArtifactError(f"artifact {folder.name[:12]} has no environment {digest[:12]}")

        def packages() -> Iterator[Path]:
            for package in wanted.packages:
                if wrong := archive.verify(folder, manifest, f"{PACKAGES}/{package}"):
                    raise ArtifactError(f"{wrong[0]} of artifact {folder.name[:12]} was altered on this host")
                yield folder / PACKAGES / package

        return environment.ensure_made_of(
            environment.Parts(digest, wanted.python, wanted.requirements, packages, wanted.fetched),
            self._environments,
            on_output,
            fresh=fresh,
        )

    def _tidy(self) -> None:
        """Remove what no worker uses, and none has for a while."""
        before = time.time() - KEPT_S
        for folder in self._root.iterdir():
            used = self._root / f"{folder.name}.use"
            if folder.suffix or not folder.is_dir():
                continue
            with contextlib.suppress(OSError):
                if used.exists() and used.stat().st_mtime < before:
                    environment_store.remove(self._root, folder.name)


def _manifest(folder: Path, digest: str) -> Manifest | None:
    """That of a folder; None where there is none, or it is another."""
    try:
        with (folder / MANIFEST).open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
        return Manifest.unpack(raw) if digest_of(raw) == digest else None
    except (OSError, ArtifactError):
        return None


def _remove(folder: Path) -> None:
    """Renamed away first, so that nobody finds half of it."""
    doomed = folder.with_name(f".{folder.name}.{os.getpid()}.removed")
    shutil.rmtree(doomed, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)
