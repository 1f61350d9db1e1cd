"""The folders of shipped modules on a host: made whole, kept while they are used, mended, and removed in the end."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

import pytest

from flashq.errors import MalformedEnvelope
from flashq.model import bundle as bundles
from flashq.model.bundle import Module
from flashq_worker.shipped_sources import KEPT_S, ShippedSources

FILES = {"shop/__init__.py": b"", "shop/prices.py": b"VAT = 2\n", "late.py": b"x = 1\n"}


def packed(text: bytes = b"VAT = 2\n") -> tuple[str, bytes]:
    modules = [
        Module("shop", package=True, source=b"", file=""),
        Module("shop.prices", package=False, source=text, file=""),
        Module("late", package=False, source=b"x = 1\n", file=""),
    ]
    return bundles.pack({module.name: module for module in modules})


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def entries(root: Path) -> set[str]:
    return {path.name for path in root.iterdir() if path.suffix != ".lock"}


def age(folder: Path) -> None:
    """Have it last used longer ago than it is kept."""
    long_ago = folder.stat().st_mtime - KEPT_S - 60
    os.utime(folder, (long_ago, long_ago))


def test_a_bundle_is_files_under_its_digest(tmp_path: Path) -> None:
    digest, raw = packed()
    folder = ShippedSources(tmp_path / "sources").place(raw)
    assert folder == tmp_path / "sources" / digest
    assert contents(folder) == FILES
    assert entries(tmp_path / "sources") == {digest}


def test_a_folder_that_is_whole_is_used_as_it_is(tmp_path: Path) -> None:
    _, raw = packed()
    folder = ShippedSources(tmp_path).place(raw)
    before = (folder / "late.py").stat().st_ino
    (folder / "__pycache__").mkdir()
    assert ShippedSources(tmp_path).place(raw) == folder
    assert (folder / "late.py").stat().st_ino == before
    assert (folder / "__pycache__").exists()


def spoil_text(folder: Path) -> None:
    (folder / "late.py").write_bytes(b"x = 2\n")


def spoil_extra(folder: Path) -> None:
    (folder / "shop" / "added.py").write_bytes(b"")


def spoil_missing(folder: Path) -> None:
    (folder / "shop" / "prices.py").unlink()


def spoil_link(folder: Path) -> None:
    elsewhere = folder.parent.parent / "elsewhere.py"
    elsewhere.write_bytes(b"x = 1\n")
    (folder / "late.py").unlink()
    (folder / "late.py").symlink_to(elsewhere)


@pytest.mark.parametrize("spoil", [spoil_text, spoil_extra, spoil_missing, spoil_link])
def test_what_was_altered_is_made_anew(tmp_path: Path, spoil: object) -> None:
    assert callable(spoil)
    root, (digest, raw) = tmp_path / "sources", packed()
    folder = ShippedSources(root).place(raw)
    spoil(folder)
    assert ShippedSources(root).place(raw) == folder
    assert contents(folder) == FILES
    assert not (folder / "late.py").is_symlink()
    assert entries(root) == {digest}


def test_many_make_the_same_at_once(tmp_path: Path) -> None:
    digest, raw = packed()
    start, failures = threading.Barrier(8), list[BaseException]()

    def place() -> None:
        start.wait()
        try:
            assert contents(ShippedSources(tmp_path).place(raw)) == FILES
        except BaseException as error:  # noqa: BLE001 — for the main thread
            failures.append(error)

    threads = [threading.Thread(target=place) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert entries(tmp_path) == {digest}


def test_what_nobody_uses_is_removed_after_a_while_and_what_is_used_is_not(tmp_path: Path) -> None:
    old, used, fresh = (packed(b"VAT = %d\n" % number)[1] for number in (3, 4, 5))
    holder = ShippedSources(tmp_path)
    kept, gone = holder.place(used), tmp_path / bundles.unpack(old)[0]
    leaver = ShippedSources(tmp_path)
    leaver.place(old)
    for lock in leaver._held.values():
        os.close(lock)
    age(gone)
    age(kept)
    ShippedSources(tmp_path).place(fresh)
    assert not gone.exists()
    assert contents(kept) != {}


def test_a_lock_that_is_taken_away_is_waited_for(tmp_path: Path) -> None:
    # Given a folder that is being removed: its lock is held alone
    digest, raw = packed()
    root = tmp_path
    root.mkdir(exist_ok=True)
    lock = os.open(root / f"{digest}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    placed = list[Path]()
    thread = threading.Thread(target=lambda: placed.append(ShippedSources(root).place(raw)))
    thread.start()
    assert placed == []
    os.close(lock)
    thread.join()
    assert contents(placed[0]) == FILES


@pytest.mark.parametrize("raw", [b"", b"junk", packed()[1][:-3]])
def test_what_is_no_bundle_makes_no_files(tmp_path: Path, raw: bytes) -> None:
    with pytest.raises(MalformedEnvelope):
        ShippedSources(tmp_path / "sources").place(raw)
    assert not (tmp_path / "sources").exists()
