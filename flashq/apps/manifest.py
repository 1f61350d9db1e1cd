"""What an artifact says of itself: its endpoints, their environments, and every file in it with its digest.

The digest of these bytes names the app: whatever is unpacked is compared with them, file by file. Pure.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from flashq.errors import ArtifactError
from flashq.model import parameters as rules

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FORMAT = 1
MOST_BYTES = 32 * 2**20
"""Of the manifest itself."""
MOST_FILES = 200_000
MOST_PATH = 1024
SOURCE, PACKAGES = "source", "packages"
"""The folders of an artifact: the project's files, and what was installed of each package."""
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PYTHON = re.compile(r"3\.\d{1,2}")


class File(NamedTuple):
    """One regular file. `mode`: whether it may be executed, and nothing else."""

    digest: str
    size: int
    executable: bool = False


@dataclass(frozen=True, slots=True)
class Environment:
    """What an endpoint's functions run in: one for each set of requirements."""

    python: str
    requirements: tuple[str, ...]
    lock: str
    """Hashed requirements, as uv writes them: all that is to be installed."""
    packages: tuple[str, ...]
    """Folders in `packages/`, whose contents are put together."""
    fetched: str = ""
    """Of the lock, what is not in the artifact: hosts install it from their own index, before traffic."""

    @property
    def digest(self) -> str:
        """Names it among the environments of a host."""
        content = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(f"flashq/app-environment/1\0{content}".encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class BuiltEndpoint:
    """One endpoint of an app. `public`: its parameters as listings have them, values of `env=` masked."""

    name: str
    module: str
    attribute: str
    qualname: str
    mode: str
    environment: str
    """Digest of its environment."""
    public: dict[str, Any]
    concurrency: int
    needs: str
    beside: tuple[str, ...] = ()
    """Further modules that put functions into it: they are imported, too."""
    targets: dict[str, str] = field(default_factory=dict)
    batch_ms: int | None = None
    calls_by_name: tuple[str, ...] = ()
    """Endpoints of others that its app calls by name."""
    about: str = ""
    """The first line of its docstring."""
    serves: int = 0
    """The port of its image's own server; 0: it is a function."""
    schemas: str = ""
    types: str = ""
    """Of its parameters, for calls in JSON, as in a revision record; types as hex of a pickle."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A whole artifact."""

    app: str
    python: str
    platform: str
    fingerprint: str
    """Of the sources alone: the same for the same files of the project."""
    endpoints: tuple[BuiltEndpoint, ...]
    environments: dict[str, Environment]
    files: dict[str, File]
    roots: tuple[str, ...] = ("",)
    flashq: str = ""
    """The version that built it."""

    def pack(self) -> bytes:
        """The bytes that name it."""
        content = {
            "format": FORMAT,
            **asdict(self),
            "files": {path: list(one) for path, one in sorted(self.files.items())},
        }
        return json.dumps(content, sort_keys=True, indent=1, ensure_ascii=True).encode() + b"\n"

    @property
    def digest(self) -> str:
        """What names the app's artifact."""
        return digest_of(self.pack())

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(one.size for one in self.files.values())

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Read and check one. Raises ArtifactError."""
        if len(raw) > MOST_BYTES:
            raise ArtifactError(f"its manifest takes {len(raw):,} bytes; {MOST_BYTES:,} are the most")
        try:
            given = json.loads(raw)
            if given.pop("format") != FORMAT:
                raise ArtifactError(f"this flashq reads artifacts of format {FORMAT}; build it anew")
            files = {path: File(*one) for path, one in given["files"].items()}
            made = cls(
                **{
                    **_known(cls, given),
                    "roots": tuple(map(str, given["roots"])),
                    "files": files,
                    "endpoints": tuple(_endpoint(one) for one in given["endpoints"]),
                    "environments": {key: _environment(one) for key, one in given["environments"].items()},
                }
            )
            made.check()
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ArtifactError(f"its manifest cannot be read: {type(error).__name__}: {error}") from None
        return made

    def check(self) -> None:
        """Raises ArtifactError, ValueError where it says what no builder writes."""
        check_name(self.app)
        if len(self.files) > MOST_FILES:
            raise ArtifactError(f"it holds {len(self.files):,} files; {MOST_FILES:,} are the most")
        check_paths(self.files)
        if not all(map(_is_file, self.files.values())):
            raise ArtifactError("its manifest says of a file what none can be")
        for root in filter(None, self.roots):
            check_path(f"{SOURCE}/{root}/x")
        for digest, environment in self.environments.items():
            if digest != environment.digest or not _PYTHON.fullmatch(environment.python):
                raise ArtifactError("an environment in its manifest is not what its digest says")
            for package in environment.packages:
                check_path(f"{PACKAGES}/{package}/x")
        names = [check_name(one.name) for one in self.endpoints]
        if len(set(names)) != len(names):
            raise ArtifactError("it has two endpoints of one name")
        for one in self.endpoints:
            if one.environment not in self.environments:
                raise ArtifactError(f"it lacks the environment of endpoint {one.name}")


def _is_file(one: File) -> bool:
    said = type(one.size) is int and 0 <= one.size < 2**40 and type(one.executable) is bool
    return said and _DIGEST.fullmatch(one.digest) is not None


def _known(cls: type[Any], given: Mapping[str, Any]) -> dict[str, Any]:
    return {one.name: given[one.name] for one in fields(cls) if one.name in given}


def _endpoint(given: Mapping[str, Any]) -> BuiltEndpoint:
    known = _known(BuiltEndpoint, given)
    words = {name: tuple(map(str, given.get(name, ()))) for name in ("calls_by_name", "beside")}
    return BuiltEndpoint(**{**known, **words})


def _environment(given: Mapping[str, Any]) -> Environment:
    known = _known(Environment, given)
    return Environment(
        **{
            **known,
            "requirements": tuple(map(str, given["requirements"])),
            "packages": tuple(map(str, given["packages"])),
        }
    )


def digest_of(raw: bytes) -> str:
    """SHA-256 of a manifest's bytes (hex)."""
    return hashlib.sha256(raw).hexdigest()


def fingerprint(files: Mapping[str, File]) -> str:
    """SHA-256 (hex) of the project's own files: their paths, contents and whether they are executable."""
    told = hashlib.sha256(b"flashq/fingerprint/1\0")
    for path, one in sorted(files.items()):
        if path.startswith(f"{SOURCE}/"):
            told.update(f"{path}\0{one.digest}\0{int(one.executable)}\0".encode())
    return told.hexdigest()


def check_name(name: str) -> str:
    """An app's, an environment's or an endpoint's name. Raises ArtifactError."""
    try:
        checked = rules.name(name)
    except ValueError as error:
        raise ArtifactError(f"the name {name!r:.80}: {error}") from None
    if checked is None:
        raise ArtifactError("it has something without a name")
    return checked


def check_paths(paths: Iterable[str]) -> None:
    """Raises ArtifactError where a path leads elsewhere, or one stands for two files on some file systems."""
    seen: set[str] = set()
    folders: set[str] = set()
    for path in paths:
        check_path(path)
        parts = path.split("/")
        seen.add(path)
        folders.update("/".join(parts[:count]) for count in range(1, len(parts)))
    if both := seen & folders:
        raise ArtifactError(f"{min(both)!r:.200} is a file and a folder in it")


def check_path(path: str) -> None:
    """One relative path, in one of the artifact's folders. Raises ArtifactError."""
    parts = path.split("/")
    if len(parts) < 2 or parts[0] not in (SOURCE, PACKAGES) or len(path) > MOST_PATH:
        raise ArtifactError(f"it holds {path!r:.200}, which is in none of its folders")
    for part in parts:
        if (
            part in ("", ".", "..")
            or "\\" in part
            or any(ord(char) < 32 or ord(char) == 127 for char in part)
        ):
            raise ArtifactError(f"it holds {path!r:.200}, which is no plain path")
        if len(part.encode("utf-8", "surrogateescape")) > 255:
            raise ArtifactError(f"it holds {path!r:.80}…, whose name is too long")
    path.encode("utf-8")  # a lone surrogate is no name: UnicodeEncodeError is a ValueError
