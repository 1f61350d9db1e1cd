"""An artifact as one file: a plain tar, its manifest first, then each file that this names, in order.

Written the same for the same contents, byte for byte. Nothing is compressed but what already is (wheels' contents
rarely shrink much, and nothing that is not compressed can swell). Read by the manifest alone: what tar says of a member
counts for nothing but where its bytes are.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING

from flashq.apps.located import MANIFEST
from flashq.apps.manifest import MOST_BYTES, Manifest, digest_of
from flashq.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from flashq.apps.manifest import File

_BLOCK = 1 << 20
MOST_SIZE = 8 << 30
"""Bytes of all files of one artifact."""
_MOST_HEAD = 1 << 20
"""Bytes between two files: what tar says of the next one is held in memory."""


# -- writing -----------------------------------------------------------------------------------------


def write(target: Path, manifest: Manifest, places: Mapping[str, Path]) -> None:
    """Write an artifact; `places`: where each file of the manifest is. It is there whole, or not at all.

    Raises: ArtifactError where a file is not what the manifest says; OSError.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, aside = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with (
            os.fdopen(descriptor, "wb") as file,
            tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            raw = manifest.pack()
            tar.addfile(_member(MANIFEST, len(raw)), io.BytesIO(raw))
            for path, one in sorted(manifest.files.items()):
                with places[path].open("rb") as source:
                    tar.addfile(_member(path, one.size, executable=one.executable), source)
                    if source.read(1):
                        raise ArtifactError(f"{places[path]} changed while it was packed")
        Path(aside).chmod(0o644)
        Path(aside).replace(target)
    finally:
        Path(aside).unlink(missing_ok=True)


def _member(path: str, size: int, *, executable: bool = False) -> tarfile.TarInfo:
    """Without owner and time: they differ between machines and builds."""
    member = tarfile.TarInfo(path)
    member.size, member.mode = size, 0o755 if executable else 0o644
    return member


def described(places: Mapping[str, Path]) -> dict[str, File]:
    """What a manifest says of these files. Raises OSError."""
    from flashq.apps.manifest import File

    found = {}
    for path, place in places.items():
        digest = hashlib.sha256()
        with place.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
            status = os.fstat(file.fileno())
        found[path] = File(digest.hexdigest(), status.st_size, bool(status.st_mode & 0o100))
    return found


# -- reading -----------------------------------------------------------------------------------------


class _Chunks(io.RawIOBase):
    """An iterator of bytes, as a file."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks: Iterator[bytes] = iter(chunks)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while not self._rest:
            try:
                self._rest = memoryview(next(self._chunks))
            except StopIteration:
                return 0
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def read_manifest(artifact: Path) -> Manifest:
    """The manifest of a file. Raises ArtifactError, OSError."""
    with artifact.open("rb") as file:
        return _first(_Tar(file), artifact.name)[1]


def unpack(chunks: Iterable[bytes], digest: str, folder: Path, *, limit: int = MOST_SIZE) -> Manifest:
    """Unpack an artifact, of this digest, into `folder`, which is made whole or not at all.

    Only what the manifest names is written, under the paths that this says, once its contents were compared.
    Raises: ArtifactError where anything else is found, or more than `limit` bytes; OSError.
    """
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    aside = Path(tempfile.mkdtemp(prefix=".making-", dir=folder.parent))
    try:
        made = aside / "made"
        made.mkdir()
        manifest = _unpack(io.BufferedReader(_Chunks(chunks), _BLOCK), digest, made, limit)
        made.rename(folder)
    except tarfile.TarError as error:
        raise ArtifactError(f"the artifact is damaged: {error}") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return manifest


def _unpack(file: IO[bytes], digest: str, made: Path, limit: int) -> Manifest:
    tar = _Tar(file)
    raw, manifest = _first(tar, "the artifact")
    if digest_of(raw) != digest:
        raise ArtifactError(f"the artifact is another than {digest[:12]}: it was altered")
    if manifest.size > limit:
        raise ArtifactError(f"the artifact takes {manifest.size:,} bytes; {limit:,} are the most")
    missing = dict(manifest.files)
    for member in tar:
        wanted = missing.pop(member.name, None)
        if wanted is None:
            raise ArtifactError(f"the artifact holds {member.name!r:.200}, which its manifest does not name")
        if not _is_plain(member) or member.size != wanted.size:
            raise ArtifactError(
                f"{member.name!r:.200} in the artifact is not the file that its manifest names"
            )
        _write(tar.contents(member), made / member.name, wanted)
    if missing:
        raise ArtifactError(f"the artifact lacks {min(missing)!r:.200} ({len(missing):,} files in all)")
    (made / MANIFEST).write_bytes(raw)
    return manifest


def _write(contents: IO[bytes], place: Path, wanted: File) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(place, flags, 0o755 if wanted.executable else 0o644), "wb") as file:
        while block := contents.read(_BLOCK):
            digest.update(block)
            file.write(block)
    if digest.hexdigest() != wanted.digest:
        raise ArtifactError(f"{place.name!r:.200} in the artifact was altered: its digest is another")


class _Metered:
    """A file of which no more is read than was allowed."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.left = _MOST_HEAD

    def read(self, size: int) -> bytes:
        self.left -= size
        if self.left < 0:
            raise ArtifactError(f"what the artifact says of a file takes over {_MOST_HEAD:,} bytes")
        return self._file.read(size)


class _Tar:
    """What is in a tar, in turn: a member, then, if they are asked for, its contents."""

    def __init__(self, file: IO[bytes]) -> None:
        """Raises ArtifactError where it is no tar."""
        self._file = _Metered(file)
        try:
            self._tar: tarfile.TarFile = tarfile.open(  # type: ignore[call-overload]  # noqa: SIM115 - the file's owner closes
                fileobj=self._file, mode="r|", format=tarfile.PAX_FORMAT
            )
        except (tarfile.TarError, OSError, ValueError) as error:
            raise ArtifactError(f"it is no artifact: {error}") from None

    def __iter__(self) -> Iterator[tarfile.TarInfo]:
        while True:
            try:
                member = self._tar.next()
            except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
                raise ArtifactError(f"the artifact is damaged: {error}") from None
            if member is None:
                return
            self._tar.members.clear()  # type: ignore[attr-defined]  # a stream keeps all that it saw
            yield member

    def contents(self, member: tarfile.TarInfo) -> IO[bytes]:
        """Of a plain member, whose size has been judged."""
        self._file.left = member.size + _MOST_HEAD
        contents = self._tar.extractfile(member)
        assert contents is not None
        return contents


def _first(tar: _Tar, name: str) -> tuple[bytes, Manifest]:
    member = next(iter(tar), None)
    if member is None or member.name != MANIFEST or not _is_plain(member) or member.size > MOST_BYTES:
        raise ArtifactError(f"{name} is no artifact: it does not begin with a manifest")
    raw = tar.contents(member).read(MOST_BYTES + 1)
    return raw, Manifest.unpack(raw)


def _is_plain(member: tarfile.TarInfo) -> bool:
    """A regular file, told in the plainest way: no link, device, pipe, folder or sparse file."""
    return member.type == tarfile.REGTYPE and member.sparse is None and member.size >= 0


def verify(folder: Path, manifest: Manifest, under: str) -> list[str]:
    """Files below one of its folders that are not what the manifest says, or that it does not name.

    What Python has compiled beside them is removed: nobody could say whether it was made of them.
    """
    if (folder / under).resolve() != folder.resolve() / under:  # a link, here or above
        return [under]
    wanted = {path: one for path, one in manifest.files.items() if path.startswith(f"{under}/")}
    wrong = []
    for place, folders, names in os.walk(folder / under):
        if "__pycache__" in folders and not Path(place, "__pycache__").is_symlink():
            folders.remove("__pycache__")
            shutil.rmtree(Path(place, "__pycache__"), ignore_errors=True)
        for name in [*names, *(one for one in folders if Path(place, one).is_symlink())]:
            path = Path(place, name).relative_to(folder).as_posix()
            said = wanted.pop(path, None)
            file = Path(place, name)
            if said is None or file.is_symlink() or _differs(file, said):
                wrong.append(path)
    return sorted([*wrong, *wanted])


def _differs(file: Path, said: File) -> bool:
    found = described({"": file})[""]
    return found.digest != said.digest
