"""Commands on their way: in which order they are answered, and what a loss and a replica's word have to do with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import hiredis
import pytest

from flashq.errors import BrokerRefused, BrokerUnreachable
from flashq.store.command import Command, text
from flashq.store.confirm import WAIT
from flashq.store.line import pack_script
from flashq.store.scripts import library
from flashq.store.stream import CommandStream

if TYPE_CHECKING:
    from flashq.store.line import Line


class FakeLine:
    """A connection whose other end is the test."""

    def __init__(self) -> None:
        self.sent = b""
        self.replies: list[Any] = []
        self.called: list[bytes] = []
        self.refuses: BrokerRefused | None = None

    def send(self, packed: bytes) -> None:
        self.sent += packed

    def receive(self) -> list[Any]:
        replies, self.replies = self.replies, []
        return replies

    def call(self, packed: bytes) -> None:
        self.called.append(packed)
        if self.refuses is not None:
            raise self.refuses

    def close(self) -> None: ...

    def taken(self) -> bytes:
        """What was sent since this was last asked."""
        sent, self.sent = self.sent, b""
        return sent


class Sender:
    """A stream over a fake line, and what its commands were answered."""

    def __init__(self, *, confirm: bool = True) -> None:
        self.stream = CommandStream(library(), confirm=confirm)
        self.answers: list[tuple[str, Any]] = []
        self.line = FakeLine()
        self.attach(self.line)

    def attach(self, line: FakeLine) -> None:
        self.line = line
        self.stream.attach(cast("Line", line))

    def add(self, script: str, name: str) -> bytes:
        """Queue a command; what it is on the wire."""
        command = Command(script, name, (name,), text)
        self.stream.add(command, lambda answer, error: self.answers.append((name, error or answer)))
        return pack_script(command, library())

    def hear(self, *replies: Any) -> None:
        self.line.replies += replies
        self.stream.receive()


def test_a_submit_counts_once_a_replica_has_it() -> None:
    # Given two submits and something else in one batch
    sender = Sender()
    sent = [sender.add("submit", "a"), sender.add("watch", "b"), sender.add("submit", "c")]
    sender.stream.flush()
    assert sender.line.taken() == b"".join([*sent, WAIT])

    # If all are answered, expect the submits to be held until a replica has confirmed
    sender.hear(b"1", b"2", b"3")
    assert sender.answers == [("b", "2")]
    assert sender.stream.busy
    sender.hear(1)
    assert sender.answers == [("b", "2"), ("a", "1"), ("c", "3")]
    assert not sender.stream.busy


def test_without_a_submit_nothing_waits() -> None:
    for sender in (Sender(), Sender(confirm=False)):
        sent = sender.add("watch" if sender.stream._confirm else "submit", "a")
        sender.stream.flush()
        assert sender.line.taken() == sent


def test_a_connection_lost_before_the_confirmation_has_everything_sent_again_in_order() -> None:
    # Given a submit that was answered and one that was not, with no confirmation of either
    sender = Sender()
    first = sender.add("submit", "a")
    sender.stream.flush()
    sender.hear(b"1")
    second = sender.add("submit", "b")
    sender.stream.flush()

    # If the connection is another one now, expect both again and one confirmation for both
    sender.attach(FakeLine())
    sender.stream.flush()
    assert sender.line.taken() == first + second + WAIT
    sender.hear(b"dup", b"2", 2)
    assert sender.answers == [("a", "dup"), ("b", "2")]


def test_no_replicas_word_is_waited_for_three_times_and_then_said() -> None:
    sender = Sender()
    sent = sender.add("submit", "a") + sender.add("submit", "b")
    for _ in range(3):
        assert sender.answers == []
        sender.stream.flush()
        assert sender.line.taken() == sent + WAIT
        sender.hear(b"1", b"2", 0)
    assert sorted(name for name, _ in sender.answers) == ["a", "b"]
    assert all(isinstance(error, BrokerRefused) for _, error in sender.answers)
    assert "no replica of the broker has confirmed it within 12 s" in str(sender.answers[0][1])


def test_a_broker_that_does_not_let_wait_is_said() -> None:
    sender = Sender()
    sender.add("submit", "a")
    sender.stream.flush()
    sender.hear(b"1", hiredis.ReplyError("NOPERM no permissions to run the 'wait' command"))
    ((_, error),) = sender.answers
    assert isinstance(error, BrokerRefused)


def test_a_read_only_replica_and_one_that_became_so_are_left() -> None:
    for refusal in ("READONLY You can't write against a read only replica.", "UNBLOCKED force unblock"):
        sender = Sender()
        sent = sender.add("watch", "a")
        sender.stream.flush()
        assert sender.line.taken() == sent
        with pytest.raises(BrokerUnreachable, match="connecting anew"):
            sender.hear(hiredis.ReplyError(refusal))
        sender.attach(FakeLine())
        sender.stream.flush()
        assert sender.line.taken() == sent


def test_a_library_that_this_user_may_not_load_is_said_with_what_to_do() -> None:
    # Given a broker without our functions
    sender = Sender()
    sender.add("watch", "a")
    sender.stream.flush()
    with pytest.raises(BrokerUnreachable):
        sender.hear(hiredis.ReplyError("ERR Function not found"))

    # If loading them is refused, expect the caller to be told who loads them
    line = FakeLine()
    line.refuses = BrokerRefused("the broker refused: this user may not do that (NOPERM function|load)")
    sender.attach(line)
    assert len(line.called) == 1
    ((_, error),) = sender.answers
    assert "flashq doctor --load" in str(error)
    assert not sender.stream.busy
