"""What a running worker is told of its keys, over its standard input."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import pytest

from flashq.model.keyring import Keyring, key_id
from flashq_worker.held_keys import HeldKeys, KeyWords, word

if TYPE_CHECKING:
    from collections.abc import Iterator

OLD, NEW = bytes(32), bytes(range(32))
BOTH = Keyring([NEW, OLD])


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue


def test_keys_are_replaced_by_a_line(pipe: tuple[int, int]) -> None:
    # Given a worker with one key
    held = HeldKeys(Keyring([OLD]).for_endpoint("embed"))
    words = KeyWords(pipe[0], b"", held)
    words.receive()  # nothing there: nothing happens
    assert held.ids == (key_id(OLD),)

    # If its agent writes of two, in pieces, expect both, the new one signing
    line = word(BOTH.for_endpoint("embed"))
    os.write(pipe[1], line[:100])
    words.receive()
    assert held.ids == (key_id(OLD),)
    os.write(pipe[1], line[100:])
    words.receive()
    assert held.ids == BOTH.ids

    # If nothing more comes, expect it to know
    os.close(pipe[1])
    words.receive()
    assert words.descriptor is None


def test_what_came_with_the_configuration_counts(pipe: tuple[int, int]) -> None:
    held = HeldKeys(Keyring([OLD]).for_endpoint("embed"))
    line = word(BOTH.for_endpoint("embed"))
    words = KeyWords(pipe[0], line[:50], held)
    os.write(pipe[1], line[50:])
    words.receive()
    assert held.ids == BOTH.ids

    # A whole line counts though nothing comes after it.
    late = HeldKeys(Keyring([OLD]).for_endpoint("embed"))
    KeyWords(pipe[0], line, late)
    assert late.ids == BOTH.ids


@pytest.mark.parametrize(
    "nonsense",
    [b"\n", b"{}\n", b"null\n", b'{"keys": 3}\n', b'{"keys": {"keys": {"call": [["a", "zz"]]}}}\n'],
)
def test_nonsense_changes_nothing_and_is_not_shown(
    pipe: tuple[int, int], nonsense: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    held = HeldKeys(Keyring([OLD]).for_endpoint("embed"))
    words = KeyWords(pipe[0], b"", held)
    os.write(pipe[1], nonsense)
    with caplog.at_level(logging.ERROR):
        words.receive()
    assert held.ids == (key_id(OLD),)
    assert [record.message for record in caplog.records] == [
        "a word of the host agent that makes no sense is ignored"
    ]


def test_keys_of_another_endpoint_are_not_taken() -> None:
    held = HeldKeys(Keyring([OLD]).for_endpoint("embed"))
    held.replace(BOTH.for_endpoint("other"))
    assert held.ids == (key_id(OLD),)


def test_a_word_with_as_many_keys_as_may_be_fits_into_one_write() -> None:
    eight = Keyring([bytes([n]) * 32 for n in range(1, 9)], "n" * 64)
    assert len(word(eight.for_endpoint("e" * 64))) <= 4096
