"""The user's own modules that travel with a revision: found by following imports, packed as one string of bytes.

Pure: where modules are and what their files say is asked of whoever calls.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

import msgpack

from flashq.errors import MalformedEnvelope, PayloadTooLarge, SerializationError
from flashq.model.imports import Imported, imports_of, listed_names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

MOST_BYTES = 8 * 2**20
"""The most source text of one revision."""
_NAMED = 5  # of the largest files, in the error
_FILE = re.compile(r"(?:[^\W\d]\w*/)*[^\W\d]\w*\.py")


class Kind(Enum):
    """What there is of a module's name."""

    SOURCE = "source"
    """A file of the user's own: it is shipped."""
    FOLDER = "folder"
    """A namespace package of the user's own: nothing but what is in it."""
    INSTALLED = "installed"
    """Of the standard library, of an installed package, or of flashq."""
    MADE = "made"
    """It was made while the program ran, from no file."""
    MISSING = "missing"
    REFUSED = "refused"
    """The user's own, and not to be shipped: `reason` says why."""


class Found(NamedTuple):
    kind: Kind
    file: str = ""
    package: bool = False
    reason: str = ""


class Module(NamedTuple):
    """A module that is shipped."""

    name: str
    package: bool
    source: bytes
    file: str

    @property
    def path(self) -> str:
        """Its file in the bundle."""
        return self.name.replace(".", "/") + ("/__init__.py" if self.package else ".py")


class _Step(NamedTuple):
    """An import to follow, and who says so."""

    wanted: Imported
    importer: str = ""

    def refuse(self, name: str, why: str) -> SerializationError:
        by = f", imported by {self.importer} (line {self.wanted.line})," if self.importer else ""
        return SerializationError(f"the module {name!r}{by} cannot be shipped to workers: {why}")


def follow(
    roots: Iterable[Imported], find: Callable[[str], Found], read: Callable[[Found], bytes]
) -> dict[str, Module]:
    """The user's modules that `roots` import, and those that these import, and so on; by name.

    What cannot be shipped is left out where its import is optional, or nobody but an optional import wants it.
    A name of which nothing is found here is left out, too: the worker's environment may have it.
    Raises: SerializationError naming the module and who imports it.
    """
    shipped: dict[str, Module] = {}
    later: list[_Step] = []
    _follow([_Step(root) for root in roots], shipped, later, find, read)
    _follow(later, shipped, None, find, read)
    return shipped


def _follow(
    pending: list[_Step],
    shipped: dict[str, Module],
    later: list[_Step] | None,
    find: Callable[[str], Found],
    read: Callable[[Found], bytes],
) -> None:
    """Follow what must be there, and put off what is optional to `later`; with None, everything is optional."""
    seen: set[Imported] = set()
    while pending:
        step = pending.pop()
        wanted = step.wanted._replace(line=0)
        if wanted in seen:
            continue
        seen.add(wanted)
        if later is not None and wanted.optional:
            later.append(step)
            continue
        try:
            pending += _walk(step, shipped, find, read)
        except SerializationError:
            if later is not None:
                raise


def _walk(
    step: _Step,
    shipped: dict[str, Module],
    find: Callable[[str], Found],
    read: Callable[[Found], bytes],
) -> list[_Step]:
    """Ship a module and the packages it is in; the imports that follow from those that were not shipped before."""
    wanted = step.wanted
    parts = wanted.name.split(".")
    following: list[_Step] = []
    for count in range(1, len(parts) + 1):
        name = ".".join(parts[:count])
        found = find(name) if name not in shipped else Found(Kind.SOURCE)
        if found.kind is Kind.INSTALLED or (
            found.kind is Kind.MISSING and count == 1 and not wanted.relative
        ):
            break
        if found.kind is Kind.MISSING:
            if wanted.maybe and count == len(parts):
                break
            raise step.refuse(name, "it is not found")
        if found.kind is Kind.MADE:
            raise step.refuse(name, "it was made while the program ran, from no file")
        if found.kind is Kind.REFUSED:
            raise step.refuse(name, found.reason)
        if found.kind is Kind.SOURCE and name not in shipped:
            module = Module(name, found.package, read(found), found.file)
            package = name if found.package else name.rpartition(".")[0]
            try:
                imported = imports_of(module.source, package)
            except (SyntaxError, ValueError) as error:
                raise step.refuse(name, f"{found.file} is no Python source: {error}") from None
            shipped[name] = module
            following += [_Step(each, name) for each in imported]
    if wanted.star and wanted.name in shipped and shipped[wanted.name].package:
        listed = listed_names(shipped[wanted.name].source)
        following += [_Step(Imported(f"{wanted.name}.{name}", maybe=True), step.importer) for name in listed]
    return following


# -- as bytes ----------------------------------------------------------------------------------------


def pack(modules: Mapping[str, Module], *, limit: int = MOST_BYTES) -> tuple[str, bytes]:
    """The digest and the bytes of a bundle; both empty for no modules.

    The digest is that of names and source texts. Raises: PayloadTooLarge naming the largest files.
    """
    if not modules:
        return "", b""
    total = sum(len(module.source) for module in modules.values())
    if total > limit:
        largest = sorted(modules.values(), key=lambda module: -len(module.source))[:_NAMED]
        raise PayloadTooLarge(
            f"the modules shipped with the function take {total:,} bytes of source; the limit is {limit:,}. "
            f"The largest: {', '.join(f'{each.file} ({len(each.source):,})' for each in largest)}. "
            "Import less, or install them as a package on the workers."
        )
    plain = _plain({module.path: module.source for module in modules.values()})
    return _digest(plain), zlib.compress(plain, 6)


def unpack(raw: bytes, *, limit: int = MOST_BYTES) -> tuple[str, dict[str, bytes]]:
    """The digest and the files of a bundle, by relative path. Raises MalformedEnvelope."""
    inflate = zlib.decompressobj()
    try:
        plain = inflate.decompress(raw, 2 * limit)
        files = msgpack.unpackb(plain)
    except (zlib.error, ValueError, TypeError, msgpack.UnpackException) as error:
        raise MalformedEnvelope(f"not a bundle of sources: {type(error).__name__}") from None
    if not inflate.eof or not isinstance(files, dict):
        raise MalformedEnvelope("not a bundle of sources, or one that is too large")
    for path, source in files.items():
        if not isinstance(path, str) or not _FILE.fullmatch(path) or not isinstance(source, bytes):
            raise MalformedEnvelope(f"a bundle of sources holds {path!r:.200}, which is no module's file")
    return _digest(plain), files


def _plain(files: Mapping[str, bytes]) -> bytes:
    return bytes(msgpack.packb(dict(sorted(files.items()))))


def _digest(plain: bytes) -> str:
    return hashlib.sha256(b"flashq/bundle/1\0" + plain).hexdigest()
