"""A container that serves HTTP by itself, with an executor beside it, on the host, that passes requests on to it.

The image runs with its own start command, its port published on the loopback interface. The executor begins when that
port is known, and is told of it; whether the server answers is for the executor to find out (`flashq.image_server`).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
from typing import TYPE_CHECKING

from flashq_worker.containers import engine as engines
from flashq_worker.containers.order import TROUBLE, UNFIT, Order, say

if TYPE_CHECKING:
    from collections.abc import Sequence

AT = "FLASHQ_IMAGE_AT"
"""The executor's variable for where the server is: "127.0.0.1:49153"."""
_LOOK_EVERY_S = 0.1  # for the port
_ASK_S = 10.0
_LAST_S = 8.0  # for an engine to let go of a container


class Serving:
    """A runner's work where the image has its own server."""

    def __init__(self, order: Order, woken: int, passed_on: Sequence[int]) -> None:
        self._order, self._woken, self._passed_on = order, woken, passed_on
        self._lifeline = os.dup(order.given[1])  # ours: it ends when the supervisor does
        os.set_inheritable(self._lifeline, False)
        self._executor: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        """The code that the executor, or in its place the container, ended with. Raises OSError."""
        engine = subprocess.Popen(self._order.words, stdin=subprocess.DEVNULL)
        try:
            while True:
                self._wait()
                if (status := engine.poll()) is not None:
                    code, words = judged(status, self._order.image)
                    say(words)
                    return code
                if self._executor is None:
                    self._begin()
                elif (ended := self._executor.poll()) is not None:
                    return ended
        finally:
            self._end(engine)

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        poll.register(self._lifeline, select.POLLIN)
        ready = {number for number, _ in poll.poll(None if self._executor else _LOOK_EVERY_S * 1000)}
        if self._lifeline in ready:
            self._remove()
            os._exit(TROUBLE)  # the supervisor is gone; the executor saw it too
        if self._woken in ready:
            for number in os.read(self._woken, 4096):
                if number not in self._passed_on:
                    continue
                if self._executor is not None:
                    self._executor.send_signal(number)
                elif number == signal.SIGTERM:
                    self._remove()  # whereupon the engine ends

    def _begin(self) -> None:
        """Start the executor, if the container has its port by now."""
        at = published(self._ask("port", self._order.container, f"{self._order.port}/tcp"))
        if not at:
            return
        self._executor = subprocess.Popen(
            self._order.executor,
            stdin=subprocess.DEVNULL,
            pass_fds=self._order.given,
            env={**self._order.executor_env, AT: at},
            start_new_session=True,  # where the supervisor has gone it ends its group; this process has to tidy up
        )
        for descriptor in self._order.given:
            os.close(descriptor)

    def _ask(self, *words: str) -> str:
        """What the engine answers; nothing where it does not."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            return subprocess.run(
                [self._order.engine, *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                encoding="utf-8",
                errors="replace",
                timeout=_ASK_S,
                check=False,
            ).stdout
        return ""

    def _end(self, engine: subprocess.Popen[bytes]) -> None:
        if self._executor is not None and self._executor.poll() is None:
            self._executor.kill()
            self._executor.wait()
        if engine.poll() is None:
            self._remove()
            with contextlib.suppress(subprocess.TimeoutExpired):
                engine.wait(_LAST_S)

    def _remove(self) -> None:
        self._ask(*engines.remove_words(self._order.engine, self._order.container)[1:])


def published(said: str) -> str:
    """The address in an engine's answer about a port; empty where there is none: "80/tcp -> 127.0.0.1:49153"."""
    for line in said.splitlines():
        host, colon, port = line.split(" ")[-1].strip().rpartition(":")
        if colon and port.isdecimal() and int(port):
            return f"{host if host not in ('', '0.0.0.0', '::') else '127.0.0.1'}:{port}"  # noqa: S104 - compared
    return ""


def judged(status: int, image: str) -> tuple[int, str]:
    """What a runner ends with whose server's engine ended with `status`, and the words for it."""
    if status in (128 + signal.SIGKILL, -signal.SIGKILL):
        return -signal.SIGKILL, f"the container of image {image} was killed"
    if status == engines.REFUSED:
        return TROUBLE, f"no container of image {image} was begun (code {status})"
    if status in engines.NO_PROGRAM:
        return UNFIT, f"the start command of image {image} does not run (code {status})"
    return UNFIT, f"the server of image {image} ended with code {status}"
