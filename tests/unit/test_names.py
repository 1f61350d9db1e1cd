"""Names are waited for as long as is asked, and asked for once at a time."""

from __future__ import annotations

import os
import socket
import threading
import time

import pytest

from flashq.store.names import Names


class Resolver:
    """Answers when it is let go."""

    def __init__(self, error: OSError | None = None) -> None:
        self.asked: list[str] = []
        self.let_go = threading.Event()
        self._error = error

    def __call__(self, name: str) -> None:
        self.asked.append(name)
        self.let_go.wait(30)
        if self._error is not None:
            raise self._error


def test_name_that_resolves_is_asked_for_each_time() -> None:
    resolver = Resolver()
    resolver.let_go.set()
    names = Names(resolver)
    for _ in range(2):
        names.wait_for("broker.example", 5.0)
    assert resolver.asked == ["broker.example"] * 2


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "fe80::1%eth0"])
def test_address_is_no_name(address: str) -> None:
    resolver = Resolver()
    Names(resolver).wait_for(address, 0.0)
    assert resolver.asked == []


def test_name_that_there_is_not_is_the_resolvers_error() -> None:
    resolver = Resolver(socket.gaierror(socket.EAI_NONAME, "Name or service not known"))
    resolver.let_go.set()
    with pytest.raises(OSError, match="Name or service not known"):
        Names(resolver).wait_for("broker.example", 5.0)


def test_nobody_waits_longer_than_asked_nor_asks_again_while_the_question_is_open() -> None:
    resolver = Resolver()
    names = Names(resolver)
    with pytest.raises(TimeoutError, match=r"broker.example is not resolved after 0\.\d s"):
        names.wait_for("broker.example", 0.05)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        names.wait_for("broker.example", 0.05)
    assert time.monotonic() - began < 0.04, "the time is over already"
    assert resolver.asked == ["broker.example"]

    resolver.let_go.set()
    names.wait_for("broker.example", 5.0)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_child_of_a_fork_asks_for_itself() -> None:
    resolver = Resolver()
    names = Names(resolver)
    with pytest.raises(TimeoutError):
        names.wait_for("broker.example", 0.01)
    child = os.fork()
    if not child:
        resolver.let_go.set()
        try:
            names.wait_for("broker.example", 10.0)
        except OSError:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    resolver.let_go.set()
    assert os.waitstatus_to_exitcode(status) == 0
