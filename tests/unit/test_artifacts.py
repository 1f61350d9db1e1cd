"""Artifacts that nobody's builder made: each attack is refused, and nothing is left of it on disk."""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from flashq.apps import archive
from flashq.apps.manifest import Environment, File, Manifest, check_path, check_paths, digest_of
from flashq.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Entry = tuple[tarfile.TarInfo, bytes]


def _manifest(**files: bytes) -> Manifest:
    described = {path: File(hashlib.sha256(raw).hexdigest(), len(raw)) for path, raw in _paths(files).items()}
    return Manifest("app", "3.11", "x86_64", "", (), {}, described)


def _paths(files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"source/{name.replace('__', '/')}.py": raw for name, raw in files.items()}


def _entry(name: str, raw: bytes = b"", **changes: Any) -> Entry:
    member = tarfile.TarInfo(name)
    member.size = len(raw)
    for field, value in changes.items():
        setattr(member, field, value)
    return member, raw


def _tar(*entries: Entry) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for member, raw in entries:
            tar.addfile(member, io.BytesIO(raw))
    return file.getvalue()


def _pieces(raw: bytes) -> Iterator[bytes]:
    """As chunks arrive: of any size."""
    sizes = random.Random(len(raw))  # the same for the same bytes
    at = 0
    while at < len(raw):
        size = sizes.randrange(1, 5000)
        yield raw[at : at + size]
        at += size


GOOD = _manifest(a=b"a = 1\n", lib__b=b"b = 2\n")
HEAD = _entry("manifest.json", GOOD.pack())
A, B = _entry("source/a.py", b"a = 1\n"), _entry("source/lib/b.py", b"b = 2\n")
LINK: dict[str, Any] = {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}

ATTACKS: list[tuple[str, Callable[[], bytes], str]] = [
    ("a path that leads out", lambda: _tar(HEAD, A, _entry("../evil.py", b"x")), "does not name"),
    ("an absolute path", lambda: _tar(HEAD, A, _entry("/tmp/evil.py", b"x")), "does not name"),
    ("a link", lambda: _tar(HEAD, _entry("source/a.py", **LINK), B), "is not the file"),
    (
        "a folder that is a link, and a file through it",
        lambda: _tar(HEAD, _entry("source/lib", **LINK), A, B),
        "does not name",
    ),
    (
        "a hard link",
        lambda: _tar(HEAD, _entry("source/a.py", type=tarfile.LNKTYPE, linkname="manifest.json"), B),
        "is not the file",
    ),
    ("a device", lambda: _tar(HEAD, _entry("source/a.py", type=tarfile.CHRTYPE, devmajor=1), B), "is not"),
    ("a pipe", lambda: _tar(HEAD, _entry("source/a.py", type=tarfile.FIFOTYPE), B), "is not the file"),
    (
        "a folder in place of a file",
        lambda: _tar(HEAD, _entry("source/a.py", type=tarfile.DIRTYPE), B),
        "is not",
    ),
    ("one name twice", lambda: _tar(HEAD, A, A, B), "does not name"),
    ("a file too few", lambda: _tar(HEAD, A), "lacks 'source/lib/b.py'"),
    ("other contents", lambda: _tar(HEAD, _entry("source/a.py", b"a = 9\n"), B), "its digest is another"),
    ("longer contents", lambda: _tar(HEAD, _entry("source/a.py", b"a = 1\n" * 99), B), "is not the file"),
    ("cut off", lambda: _tar(HEAD, A, B)[:-9000], "lacks|damaged|is not"),
    ("another manifest", lambda: _tar(_entry("manifest.json", _manifest(a=b"x").pack()), A), "was altered"),
    ("no manifest first", lambda: _tar(A, HEAD, B), "does not begin with a manifest"),
    ("no tar", lambda: b"PK\x03\x04" * 5000, "is no artifact"),
    ("nothing", lambda: b"", "no artifact"),
    (
        "a head that takes memory",
        lambda: _tar(HEAD, _entry("source/a.py", b"a = 1\n", pax_headers={"comment": "x" * (4 << 20)}), B),
        "says of a file takes over",
    ),
    (
        "a first head that takes memory",
        lambda: _tar(_entry("manifest.json", pax_headers={"comment": "x" * (4 << 20)})),
        "says of a file takes over",
    ),
    ("a manifest that is a link", lambda: _tar(_entry("manifest.json", **LINK)), "does not begin"),
]


@pytest.mark.parametrize(("attack", "make", "said"), ATTACKS, ids=[name for name, *_ in ATTACKS])
def test_an_altered_artifact_is_refused_and_nothing_stays(
    tmp_path: Path, attack: str, make: Callable[[], bytes], said: str
) -> None:
    with pytest.raises(ArtifactError, match=said):
        archive.unpack(_pieces(make()), GOOD.digest, tmp_path / "apps" / "one")
    assert list((tmp_path / "apps").iterdir()) == []
    assert [one.name for one in tmp_path.iterdir()] == ["apps"]


def test_a_good_one_is_unpacked(tmp_path: Path) -> None:
    made = archive.unpack(_pieces(_tar(HEAD, A, B)), GOOD.digest, tmp_path / "one")
    assert made == GOOD
    assert (tmp_path / "one/source/lib/b.py").read_bytes() == b"b = 2\n"
    assert archive.verify(tmp_path / "one", made, "source") == []

    # If something is changed, added or taken away, expect it to be named
    (tmp_path / "one/source/a.py").write_text("evil")
    (tmp_path / "one/source/more.py").write_text("")
    (tmp_path / "one/source/lib/b.py").unlink()
    (tmp_path / "one/source/link").symlink_to("/etc", target_is_directory=True)
    wrong = ["source/a.py", "source/lib/b.py", "source/link", "source/more.py"]
    assert archive.verify(tmp_path / "one", made, "source") == wrong


def test_what_is_compiled_beside_a_file_does_not_stay(tmp_path: Path) -> None:
    """Given a job that wrote what Python would run in place of a source, expect it to be gone; links are named."""
    made = archive.unpack(_pieces(_tar(HEAD, A, B)), GOOD.digest, tmp_path / "one")
    compiled = tmp_path / "one/source/__pycache__"
    compiled.mkdir()
    (compiled / "a.cpython-311.pyc").write_bytes(b"evil")
    assert archive.verify(tmp_path / "one", made, "source") == []
    assert not compiled.exists()
    compiled.symlink_to("/etc", target_is_directory=True)
    assert archive.verify(tmp_path / "one", made, "source") == ["source/__pycache__"]
    compiled.unlink()

    # If the folder itself becomes a link to one with the same contents, expect that to be named, too
    (tmp_path / "one/source").rename(tmp_path / "elsewhere")
    (tmp_path / "one/source").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert archive.verify(tmp_path / "one", made, "source") == ["source"]


def test_set_uid_and_other_bits_are_not_taken_over(tmp_path: Path) -> None:
    archive.unpack(
        _pieces(_tar(HEAD, _entry("source/a.py", b"a = 1\n", mode=0o6777), B)), GOOD.digest, tmp_path / "x"
    )
    assert (tmp_path / "x/source/a.py").stat().st_mode & 0o7111 == 0


def test_one_that_says_it_is_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    large = Manifest("app", "3.11", "x86_64", "", (), {}, {"source/a": File("0" * 64, 2**39)})
    raw = _tar(_entry("manifest.json", large.pack()))
    with pytest.raises(ArtifactError, match="bytes; 8,589,934,592 are the most"):
        archive.unpack([raw], large.digest, tmp_path / "x")


PATHS = [
    *("../x", "/etc/passwd", "source/../../x", "source//x", "source/./x", "source", "other/x", "source/a\\b"),
    *("source/a\nb", "source/\x00", "source/" + "a" * 300, "source/" + "a/" * 600 + "b", "manifest.json/x"),
]


@pytest.mark.parametrize("path", PATHS)
def test_a_path_that_is_none_is_refused(path: str) -> None:
    with pytest.raises(ArtifactError):
        check_path(path)


def test_a_file_that_is_a_folder_too_is_refused() -> None:
    with pytest.raises(ArtifactError, match="is a file and a folder"):
        check_paths(["source/a", "source/a/b"])


MANIFESTS: list[tuple[dict[str, Any], str]] = [
    ({"format": 2}, "format 1"),
    ({"app": "../x"}, "the name"),
    ({"files": {"source/a": ["x", 1, False]}}, "says of a file"),
    ({"files": {"source/a": ["0" * 64, -1, False]}}, "says of a file"),
    ({"files": {"source/a": ["0" * 64, 1, "yes"]}}, "says of a file"),
    ({"files": []}, "cannot be read"),
    ({"roots": ["../.."]}, "no plain path"),
    (
        {"environments": {"0" * 64: {"python": "3.11", "requirements": [], "lock": "", "packages": []}}},
        "digest",
    ),
    ({"endpoints": [{"name": "x"}]}, "cannot be read"),
]


@pytest.mark.parametrize(("changes", "said"), MANIFESTS)
def test_a_manifest_that_no_builder_writes_is_refused(changes: dict[str, Any], said: str) -> None:
    raw = json.dumps({**json.loads(GOOD.pack()), **changes}).encode()
    with pytest.raises(ArtifactError, match=said):
        Manifest.unpack(raw)


def test_an_environment_cannot_take_packages_from_elsewhere() -> None:
    environment = Environment("3.11", (), "x==1\n", ("../../source",))
    made = Manifest("app", "3.11", "x86_64", "", (), {environment.digest: environment}, {})
    with pytest.raises(ArtifactError):
        Manifest.unpack(made.pack())


def test_a_manifest_comes_back_as_it_was() -> None:
    assert Manifest.unpack(GOOD.pack()) == GOOD
    assert digest_of(GOOD.pack()) == GOOD.digest
