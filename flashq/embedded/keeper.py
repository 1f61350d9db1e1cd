"""The keeper: one process per user and FLASHQ_HOME that owns the private broker, host agent and autoscaler.

Scripts and `flashq up` hold a connection to it. When the last one closes, and no `flashq up --detach` asked
it to stay, it stops everything at once. It is one thread in one loop; `_pump` is the only place where it
waits, and it answers everybody there, also while it starts or stops.

    starting (lock, broker, what an earlier run left) → ready → stopping (drain, processes, broker) → gone

Where `flashq up` keeps it and the broker dies, it is started again, with all beside it; where that fails, or happens
too often, the stack ends, and the reason is kept for the next who looks.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING

from flashq._version import __version__
from flashq.embedded.control import Connection, Control, Message
from flashq.embedded.places import Places, open_lock, try_lock
from flashq.embedded.plan import GATEWAY, Leftovers
from flashq.embedded.processes import Processes
from flashq.embedded.secret import broker_password
from flashq.errors import BrokerError, FlashqError
from flashq.private_files import write_private

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from flashq.embedded.broker_line import BrokerLine
    from flashq.embedded.plan import Plan

_LOCK_PATIENCE_S = 60.0
_DRAIN_S = 30.0
_LOADING_PATIENCE_S = 3600.0
_MOST_DEATHS, _DEATHS_WITHIN_S = 5, 120.0
"""So often may the broker of a stack that is kept die before it is given up."""
_TOLD_S = 3600.0
"""For so long `status` says that the broker was started again."""


class Keeper:
    """Runs one stack: `run` returns when it has ended. Needs the main thread of its process.

    `holder`: the connection of whoever started it; without one it stays until it is told to stop.
    """

    def __init__(self, plan: Plan, holder: socket.socket | None = None) -> None:
        self._plan = plan
        self._places = Places(plan.home_path).prepare()
        self._selector = selectors.DefaultSelector()
        self._control = Control(self._selector, self._on_message)
        if holder is not None:
            self._control.adopt(holder)
        self._kept = holder is None
        self._phase = "starting"
        self._doing = "an earlier broker of this home ends"
        self._stop: Message | None = None  # what asked for the end, and how: {"now", "wait_s"}
        self._held = 0
        self._password = "" if plan.listen is None else broker_password(plan.home_path)
        self._sockets = self._places.sockets()
        self._owner = False  # of the home's lock, sockets and record
        self._processes: Processes | None = None
        self._deaths: list[float] = []  # when the broker died, and was started again
        self._death = ""

    def run(self) -> int:
        """Start, look after, stop. The exit code: 1 where the stack failed, which everybody was told."""
        self._catch_signals()
        problem = ""
        lock = open_lock(self._places.keeper_lock)  # never unlocked by hand: the broker holds it too
        try:
            if self._wait(lambda: try_lock(lock), _LOCK_PATIENCE_S):
                self._run_locked(lock)
            elif not self._ending():
                raise BrokerError(f"a broker still holds {self._places.keeper_lock}, and does not end")
        except FlashqError as error:
            problem = str(error)
        except OSError as error:
            problem = f"{error.filename or 'the keeper'}: {error.strerror}"
        self._phase = "stopping"
        self._say(problem or "stopping")
        self._end(problem)
        return 1 if problem else 0

    def _run_locked(self, lock: int) -> None:
        self._owner = True
        control = self._sockets / "control.sock"
        self._control.listen(control)
        write_private(self._places.record, json.dumps({"pid": os.getpid(), "control": str(control)}).encode())
        while True:
            try:
                return self._run_stack(lock)
            except BrokerError as error:
                if not self._is_worth_another():
                    raise
                self._death = self._how_it_died()
                self._say(f"{error}; starting again")
                self._stop_processes()
                self._plan = self._plan._replace(leftovers=Leftovers.CONTINUE)

    def _is_worth_another(self) -> bool:
        """Whether a broker that died is to be started again: it did answer, somebody keeps it, and it is no habit."""
        if self._phase != "ready" or self._ending() or not self._is_up():
            return False
        self._phase, now = "starting", time.monotonic()
        self._deaths = [*(death for death in self._deaths if now - death < _DEATHS_WITHIN_S), now]
        return len(self._deaths) < _MOST_DEATHS

    def _run_stack(self, lock: int) -> None:
        self._processes = processes = Processes(self._plan, self._places, self._sockets, self._password)
        self._doing = "the broker reads its data"
        processes.start(lock)
        line = self._connect(processes)
        if line is None:
            return
        with contextlib.closing(line):
            self._open(line, processes)
        while not self._ending():
            processes.check_broker()
            for happened in processes.tend():
                self._say(happened)
            self._pump(processes.next_start_s())

    # -- the loop ------------------------------------------------------------------------------------
    def _catch_signals(self) -> None:
        """Signals become events of the loop."""
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        wake_read, wake_write = socket.socketpair()
        wake_read.setblocking(False)
        wake_write.setblocking(False)
        signal.set_wakeup_fd(wake_write.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda _number, _frame: None)

        def on_signals() -> None:
            for number in wake_read.recv(4096):
                if number != signal.SIGCHLD:
                    self._stop = {"now": self._stop is not None or number == signal.SIGHUP}

        self._wake = wake_write
        self._selector.register(wake_read, selectors.EVENT_READ, on_signals)

    def _pump(self, timeout_s: float | None) -> None:
        """Wait for something to happen, at most so long (None: for ever), and deal with it."""
        for key, _ in self._selector.select(timeout_s):
            key.data()

    def _wait(
        self, happened: Callable[[], bool], timeout_s: float, given_up: Callable[[], bool] | None = None
    ) -> bool:
        """Until something is so; False where not in time, or given up (default: nobody wants the stack)."""
        deadline = time.monotonic() + timeout_s
        tell = time.monotonic() + 1.0
        while not happened():
            if (given_up or self._ending)() or time.monotonic() > deadline:
                return False
            if time.monotonic() > tell:
                tell += 1.0
                for connection in self._waiting():
                    connection.send({"waiting": self._doing})
            self._pump(0.01)
        return True

    def _ending(self) -> bool:
        return self._stop is not None or not (self._kept or self._control.connections)

    def _waiting(self) -> list[Connection]:
        return [connection for connection in self._control.connections if connection.asked is not None]

    def _say(self, text: str) -> None:
        with contextlib.suppress(OSError):  # a full disk is no reason to stop
            sys.stderr.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} keeper[{os.getpid()}] {text}\n")
            sys.stderr.flush()

    # -- the broker ----------------------------------------------------------------------------------
    def _connect(self, processes: Processes) -> BrokerLine | None:
        """A connection to the broker when it answers; None where nobody wants it any more."""
        lines: list[BrokerLine] = []

        def answers() -> bool:
            processes.check_broker()
            line = self._dial(processes.private_socket)
            if line is not None:
                lines.append(line)
            return line is not None

        return lines[0] if self._wait(answers, _LOADING_PATIENCE_S) else None

    def _dial(self, path: Path) -> BrokerLine | None:
        from flashq.embedded.broker_line import BrokerLine  # imported while the broker starts

        return BrokerLine.dial(path, password=self._password, prefix=self._plan.rq_prefix)

    def _open(self, line: BrokerLine, processes: Processes) -> None:
        """Deal with what an earlier run left, then let everybody in."""
        listen = self._plan.listen
        if listen is None:  # else workers on other machines may be alive; leases tell
            line.restart()
        match self._plan.leftovers:
            case Leftovers.HOLD:
                line.hold()
            case Leftovers.RUN:
                line.release()
            case Leftovers.CONTINUE:
                pass
        self._held = line.count_held()
        processes.open_broker()
        if listen is not None:
            line.listen(*listen)
        self._phase = "ready"
        self._places.problem.unlink(missing_ok=True)
        self._say(f"ready, {self._held} jobs of an earlier run held")
        for connection in self._waiting():
            asked, connection.asked = connection.asked, None
            self._on_message(connection, asked or {})

    def _with_broker(self, ask: Callable[[BrokerLine], int]) -> int:
        """Ask the broker something; 0 where it does not answer."""
        line = None if self._processes is None else self._dial(self._processes.socket)
        if line is None:
            return 0
        with contextlib.closing(line), contextlib.suppress(FlashqError):
            return ask(line)
        return 0

    # -- being asked ---------------------------------------------------------------------------------
    def _on_message(self, connection: Connection, message: Message) -> None:
        asked = message.get("ask")
        if asked == "status":
            connection.send(self._status())
        elif asked == "stop":
            connection.asked = message  # answered at the very end
            now = bool(message.get("now")) or self._stop is not None
            self._stop = {"now": now, "wait_s": message.get("wait_s")}
        elif self._phase == "starting":
            connection.asked = message  # answered when ready
        elif self._phase == "ready":
            connection.send(self._answer(connection, message))

    def _answer(self, connection: Connection, message: Message) -> Message:
        match message.get("ask"):
            case "join":
                return self._join(connection, message)
            case "leave":
                others = len(self._control.connections) > 1
                return {"ok": True, "ends": not (others or self._kept)}
            case "keep":
                self._kept, connection.up = True, False
                return {"ok": True}
            case unknown:
                return {"error": f"this stack is of flashq {__version__} and knows no {unknown!r}"}

    def _join(self, connection: Connection, message: Message) -> Message:
        plan = self._plan
        for name, ours in (("namespace", plan.namespace), ("rq_prefix", plan.rq_prefix)):
            if message.get(name) != ours:
                return {
                    "error": f"the stack of {plan.home} was started with {name} {ours!r}, this program has"
                    f" {message.get(name)!r}: give it another FLASHQ_HOME"
                }
        if message.get("resume") and self._held:
            released = self._with_broker(lambda line: line.release())
            self._held = self._with_broker(lambda line: line.count_held())
            self._say(f"{released} jobs of an earlier run put back")
        if message.get("up"):
            if self._is_up():
                return {"error": "up", **self._status()}
            connection.up = True
            if message.get("gateway"):
                self._begin_gateway()
        return {"ok": True, **self._status()}

    def _begin_gateway(self) -> None:
        if "gateway" in self._plan.commands or self._processes is None:
            return
        self._plan = self._plan._replace(commands={**self._plan.commands, "gateway": GATEWAY})
        self._processes.add("gateway", GATEWAY)

    def _is_up(self) -> bool:
        return self._kept or any(connection.up for connection in self._control.connections)

    def _status(self) -> Message:
        processes = self._processes
        return {
            "phase": self._phase,
            "pid": os.getpid(),
            "url": "" if processes is None else processes.url,
            "version": __version__,
            "python": sys.executable,
            "up": self._is_up(),
            "connections": len(self._control.connections),
            "held": self._with_broker(lambda line: line.count_held()) if self._held else 0,
            "listen": self._plan.listen,
            "problem": self._death if self._died_lately() else "",
            "processes": {} if processes is None else processes.states(),
        }

    def _how_it_died(self) -> str:
        broker = None if self._processes is None else self._processes.broker
        end = "" if broker is None else f" ({broker.last_end}; log: {broker.log})"
        return f"the private broker ended{end}, and was started again at {time.strftime('%H:%M:%S')}"

    def _died_lately(self) -> bool:
        return bool(self._deaths) and time.monotonic() - self._deaths[-1] < _TOLD_S

    # -- ending --------------------------------------------------------------------------------------
    def _end(self, problem: str) -> None:
        self._control.close_listener()
        self._doing = "the stack ends"
        for connection in self._control.connections:
            connection.send({"error": problem} if problem else {"stopping": True})
        unfinished = 0
        if self._processes is not None:
            if self._stop is not None and not self._stop["now"] and not problem:
                wait_s = self._stop.get("wait_s")
                self._processes.drain(self._until_impatient, _DRAIN_S if wait_s is None else wait_s)
            if self._stop is not None:
                unfinished = self._with_broker(lambda line: line.count_unfinished())
            self._stop_processes()
        if problem and self._is_up():
            self._note(problem)
        if self._owner:
            self._clear()
        for connection in self._control.connections:
            connection.send({"stopped": True, "unfinished": unfinished})

    def _stop_processes(self) -> None:
        if self._processes is not None:
            self._processes.stop(lambda happened, timeout_s: self._wait(happened, timeout_s, _never))
            self._processes = None

    def _note(self, problem: str) -> None:
        """Keep why a stack that was to stay has ended: nobody may be there to be told."""
        said = f"what `flashq up` kept running ended at {time.strftime('%Y-%m-%d %H:%M:%S')}: {problem}"
        with contextlib.suppress(OSError):  # it may be the disk that is full
            write_private(self._places.problem, said.encode())

    def _clear(self) -> None:
        """Leave no file behind that says we are there."""
        for path in (self._places.record, self._sockets / "control.sock"):
            path.unlink(missing_ok=True)
        if self._sockets != self._places.run:
            with contextlib.suppress(OSError):
                self._sockets.rmdir()

    def _until_impatient(self, happened: Callable[[], bool], timeout_s: float) -> bool:
        return self._wait(happened, timeout_s, lambda: self._stop is not None and bool(self._stop["now"]))


def _never() -> bool:
    return False
