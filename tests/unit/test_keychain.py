"""Keys that follow their file, and files of keys as the command line edits them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from flashq import keychain
from flashq.errors import ConfigurationError, SettingsError
from flashq.key_file import KeyFile
from flashq.keychain import Keychain
from flashq.model.keyring import Direction, Keyring, key_id
from flashq.private_files import new_private, write_private
from flashq.secret_keys import read_secret_keys
from flashq.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

A, B, C = (bytes([n]) * 32 for n in (1, 2, 3))
IDS = [key_id(key) for key in (A, B, C)]
CALL = (Direction.CALL, "embed")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    put(tmp_path / "key", A)
    return tmp_path / "key"


def put(file: Path, *keys: bytes) -> None:
    write_private(file, "".join(f"{key.hex()}\n" for key in keys).encode())


def chain(file: Path) -> Keychain:
    return Keychain.of(Settings.load({"FLASHQ_SECRET_KEY_FILE": str(file), "FLASHQ_HOME": "/h"}, file.parent))


# -- following ---------------------------------------------------------------------------------------


def test_keys_follow_their_file_within_a_second(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keychain, "_LOOK_S", 0.0)
    keys = chain(file)
    assert list(keys.ids) == IDS[:1]
    put(file, A, B)
    assert list(keys.ids) == IDS[:2]
    put(file, B, A)
    assert keys.signing(*CALL) == Keyring([B]).signing(*CALL)
    assert keys.for_endpoint("embed").ids == (IDS[1], IDS[0])
    assert [key.id for key in keys.verifying(*CALL)] == [IDS[1], IDS[0]]
    put(file, B)
    assert keys.find(IDS[0], *CALL) is None


def test_a_key_that_is_not_known_has_the_file_looked_at_before_that_is_said(file: Path) -> None:
    keys = chain(file)
    put(file, A, B)
    assert list(keys.ids) == IDS[:1]  # it was looked at a moment ago
    assert keys.find(IDS[1], *CALL) == Keyring([B]).signing(*CALL)
    assert list(keys.ids) == IDS[:2]


def test_what_was_in_force_can_be_kept(file: Path) -> None:
    keys = chain(file)
    before = keys.snapshot()
    put(file, B)
    keys.refresh()
    assert before.find(IDS[0], *CALL) is not None
    assert keys.find(IDS[0], *CALL) is None


@pytest.mark.parametrize("spoil", ["short", "open", "gone"])
def test_a_file_that_is_wrong_changes_nothing_and_is_said_once(
    file: Path, spoil: str, caplog: pytest.LogCaptureFixture
) -> None:
    keys = chain(file)
    if spoil == "short":
        write_private(file, b"too short")
    elif spoil == "open":
        file.chmod(0o644)
    else:
        file.unlink()
    for _ in range(3):
        keys.refresh()
    assert keys.ids == (IDS[0],)
    assert len([record for record in caplog.records if "stay as they were" in record.message]) == 1
    put(file, B)
    keys.refresh()
    assert keys.ids == (IDS[1],)


def test_keys_from_a_variable_follow_nothing(tmp_path: Path) -> None:
    settings = Settings.load({"FLASHQ_SECRET_KEY": f"{A.hex()},{B.hex()}", "FLASHQ_HOME": "/h"}, tmp_path)
    keys = Keychain.of(settings)
    assert keys.ids == (IDS[0], IDS[1])
    keys.refresh()
    assert keys.find(IDS[2], *CALL) is None
    with pytest.raises(SettingsError, match="no signing key"):
        Keychain.of(Settings(home=tmp_path))


def test_asking_costs_little(file: Path) -> None:
    keys = chain(file)
    began = time.perf_counter()
    for _ in range(1000):
        assert keys.ids
    assert time.perf_counter() - began < 0.5  # it does not read the file each time


# -- files -------------------------------------------------------------------------------------------


def test_several_keys_stand_one_a_line_with_comments() -> None:
    written = (
        f"# ours\n\n{A.hex()}  # the first\n  {B.hex()}\ncorrect horse battery staple and more\n{A.hex()}\n"
    )
    assert [key.value for key in read_secret_keys(written)] == [
        A,
        B,
        b"correct horse battery staple and more",
    ]
    assert read_secret_keys(written.encode()) == read_secret_keys(written)
    assert [key.value for key in read_secret_keys(b"\xff" * 32)] == [b"\xff" * 32]


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (f"{A.hex()}\nshort\n", "line 2: a signing key has at least 32 bytes, this one 5"),
        ("# nothing\n\n", "at least 32 bytes, this one 0"),
        ("\n".join(f"{n:064x}" for n in range(9)), "9 keys; at most 8"),
    ],
)
def test_a_wrong_line_is_named(written: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_secret_keys(written)


def test_a_rotation_is_three_edits_of_a_file() -> None:
    # Given a file that somebody made by hand
    first = KeyFile.parse(f"# of the lab\n{A.hex()}\n".encode())
    assert (first.signing.id, first.next) == (IDS[0], None)

    # If a key is added, expect the first to sign still, and the file to say which is the next
    second = KeyFile.parse(first.added("2026-01-31").render())
    added = second.next
    assert added is not None
    assert second.signing.id == IDS[0]
    assert f"# {added.id} next made 2026-01-31" in second.render().decode()

    # If that is promoted, expect it to sign and the other to be an old one; and then to be without that
    third = KeyFile.parse(second.promoted(added).render())
    assert ([entry.id for entry in third.entries], third.next) == ([added.id, IDS[0]], None)
    assert third.entries[1].role == "old"
    fourth = KeyFile.parse(third.without(third.find(IDS[0][:5])).render())
    assert [entry.id for entry in fourth.entries] == [added.id]
    assert fourth.render().decode().startswith("# of the lab\n")
    assert [key.value for key in read_secret_keys(fourth.render())] == [added.key.value]


def test_a_key_is_found_by_how_its_id_begins() -> None:
    keys = KeyFile.parse(f"{A.hex()}\n{B.hex()}\n".encode())
    assert keys.find(IDS[1]).key.value == B
    with pytest.raises(ConfigurationError, match=f"'xyz' is none of the keys there: {IDS[0]}, {IDS[1]}"):
        keys.find("xyz")
    with pytest.raises(ConfigurationError, match=r"is several|is none"):
        keys.find("")


def test_no_more_keys_are_added_than_may_verify() -> None:
    keys = KeyFile.fresh("2026-01-31")
    for _ in range(7):
        keys = keys.added("2026-01-31")
    with pytest.raises(ConfigurationError, match="there are 8 keys; retire some first"):
        keys.added("2026-01-31")


def test_a_file_of_bytes_becomes_one_of_lines() -> None:
    raw = b"\xff" * 40
    assert KeyFile.parse(KeyFile.parse(raw).added("2026-01-31").render()).signing.key.value == raw


def test_no_key_shows() -> None:
    keys = KeyFile.parse(A.hex().encode())
    assert A.hex() not in repr(keys)
    assert repr(A)[2:-1] not in repr(keys)


def test_a_new_file_replaces_none(tmp_path: Path) -> None:
    file = tmp_path / "key"
    new_private(file, b"one")
    assert (file.read_bytes(), file.stat().st_mode & 0o777) == (b"one", 0o600)
    with pytest.raises(FileExistsError):
        new_private(file, b"two")
    assert file.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [file]
