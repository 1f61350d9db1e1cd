"""A process's membership in the private stack: joining it, starting it where there is none, and leaving.

Membership is an open connection to the keeper, so that it ends with the process, however that ends. A lock
file covers looking for a keeper and starting one: two scripts that begin at once share one stack, and one
that finds its keeper about to stop starts the next.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashq._version import __version__
from flashq.embedded.child import tail
from flashq.embedded.link import SILENCE_S, Link, Stopping, connect
from flashq.embedded.places import Places, locked
from flashq.embedded.plan import Leftovers, Plan
from flashq.embedded.secret import secrets
from flashq.errors import BrokerError, ConfigurationError

if TYPE_CHECKING:
    from flashq.settings import Settings

_LOCK_PATIENCE_S = 60.0
_ATTEMPTS = 5
_LEAVE_S = 1.0
_joined_before: set[tuple[int, str]] = set()
"""Process ids (a forked child is another) and homes."""


class AlreadyUp(BrokerError):
    """A `flashq up` runs already; `status` is what its keeper says of itself."""

    def __init__(self, status: dict[str, Any]) -> None:
        super().__init__(f"it is up already (process {status['pid']}); `flashq down` ends it")
        self.status = status


class Membership:
    """What `join` returns. Hold it for as long as the broker is needed."""

    def __init__(self, link: Link, status: dict[str, Any], home: Path, *, started: bool) -> None:
        self._link = link
        self._pid = os.getpid()
        self._home = home
        self._left = False
        self.status = status
        """What the keeper said of itself when it was joined."""
        self.url: str = status["url"]
        """The broker's address."""
        self.started = started
        """Whether there was no stack before."""

    def __repr__(self) -> str:
        return f"Membership({str(self._home)!r}, alive={self.alive})"

    @property
    def alive(self) -> bool:
        """Whether the stack still runs, as far as this process was told; join again where it does not."""
        return not self._left and self._pid == os.getpid() and self._link.alive

    def leave(self, unfinished: int = 0) -> None:
        """Let go of the stack, which ends with its last member. `unfinished`: how many jobs are not done.

        Their number is said on stderr, and where they stay. Leaving twice is harmless.
        """
        if self._left or self._pid != os.getpid():
            return
        if unfinished and self.alive:
            with contextlib.suppress(Stopping, BrokerError):
                if self._link.ask({"ask": "leave"}, _LEAVE_S).get("ends"):
                    _say(_kept(unfinished, self._home))
                else:
                    _say(f"{unfinished} unfinished job{_s(unfinished)} will go on without this script")
        self._left = True
        self._link.close()

    def keep(self) -> None:
        """Let the stack stay without members, until it is told to stop."""
        with contextlib.suppress(Stopping):
            self._link.ask({"ask": "keep"})

    def await_end(self) -> None:
        """Until the stack ends. Raises BrokerError where it failed."""
        said = self._link.await_end()
        if "error" in said:
            raise BrokerError(said["error"])


def join(
    settings: Settings,
    *,
    plan: Plan | None = None,
    up: bool = False,
    resume: bool = False,
    gateway: bool = False,
) -> Membership:
    """Become a member of the private stack of `settings.home`; start one where there is none.

    Jobs that an earlier run left stay aside, and their number is said on stderr, unless `resume`. Where this
    process was a member before, and its stack ended, its own jobs may be among them: then they go on.
    `up`: on behalf of `flashq up`, and with a `gateway`. `plan`: what to start instead of the usual.

    Raises: SettingsError (the home cannot be written, the key is open to others), ConfigurationError (the
    stack that runs is of another namespace), AlreadyUp (`up`, and one is), BrokerError (it cannot start).
    """
    places = Places(settings.home).prepare()
    secrets(settings)  # every script and the host agent need it: made before any of them
    me = (os.getpid(), str(settings.home))
    again = me in _joined_before
    leftovers = Leftovers.RUN if resume else Leftovers.CONTINUE if again else Leftovers.HOLD
    plan = (plan or Plan.of(settings))._replace(leftovers=leftovers)
    message = {
        "ask": "join",
        "namespace": settings.namespace,
        "rq_prefix": settings.rq_prefix,
        "up": up,
        "gateway": gateway,
    }
    with locked(places.join_lock, _LOCK_PATIENCE_S):
        for _ in range(_ATTEMPTS):
            # Whoever started the stack that runs now may have set our jobs aside.
            membership = _join_running(places, message | {"resume": resume or again})
            membership = membership or _start(places, plan, message)
            if membership is not None:
                _joined_before.add(me)
                return membership
    raise BrokerError(f"the private broker in {settings.home} was told to stop each time it was started")


def find(settings: Settings) -> str | None:
    """The address of the private broker of `settings.home`; None where none runs. Joins nothing."""
    status = look(settings)
    return status["url"] if status is not None and status["phase"] == "ready" else None


def look(settings: Settings, *, patience_s: float = SILENCE_S) -> dict[str, Any] | None:
    """What the keeper of `settings.home` says of itself; None where there is none, or it is about to end.

    Raises BrokerError where it says nothing for `patience_s`.
    """
    link = connect(Places(settings.home))
    if link is None:
        return None
    with contextlib.closing(link), contextlib.suppress(Stopping):
        return link.ask({"ask": "status"}, patience_s)
    return None


def last_problem(settings: Settings) -> str:
    """Why what `flashq up` kept running in `settings.home` has ended; empty where it was told to, or runs again."""
    return Places(settings.home).last_problem()


def stop(settings: Settings, *, drain_s: float) -> dict[str, Any] | None:
    """End the stack of `settings.home`, giving workers `drain_s` to finish what they do; returns when it has.

    What the keeper said last (`unfinished`: how many jobs are kept); None where no stack ran. A
    KeyboardInterrupt ends the draining. Raises BrokerError where it does not end.
    """
    link = connect(Places(settings.home))
    if link is None:
        return None
    with contextlib.closing(link), contextlib.suppress(Stopping):
        link.send({"ask": "stop", "now": drain_s <= 0, "wait_s": drain_s})
        try:
            return link.await_end(drain_s + _LOCK_PATIENCE_S)
        except KeyboardInterrupt:
            link.send({"ask": "stop", "now": True})
            return link.await_end(_LOCK_PATIENCE_S)
    return {}


def _join_running(places: Places, message: dict[str, Any]) -> Membership | None:
    link = connect(places)
    if link is None:
        return None
    try:
        status = link.ask(message)
    except Stopping:
        link.close()
        return None
    except BaseException:
        link.close()
        raise
    if "error" in status:
        link.close()
        raise AlreadyUp(status) if "pid" in status else ConfigurationError(status["error"])
    if (status["python"], status["version"]) != (sys.executable, __version__) and not message["up"]:
        theirs = f"{status['python']} and flashq {status['version']}"
        _say(f"joined the private broker in {places.home}; its workers run {theirs}")
    return Membership(link, status, places.home, started=False)


def _start(places: Places, plan: Plan, message: dict[str, Any]) -> Membership | None:
    """Start a keeper and become its first member; None where somebody told it to stop meanwhile."""
    problem = places.last_problem()
    log = places.log("keeper")
    since = log.stat().st_size if log.exists() else 0
    ours, theirs = socket.socketpair()
    link = Link(ours)
    try:
        with theirs:
            _launch(plan, theirs, log)
        status = link.ask(message, tell=lambda what: _say(f"waiting: {what}"))
    except Stopping as end:
        link.close()
        if end.told:
            return None
        said = tail(log, 3, since=since) or "it said nothing"
        raise BrokerError(f"the private broker's keeper ended: {said} (log: {log})") from None
    except BaseException:
        link.close()
        raise
    if "error" in status:
        link.close()
        raise BrokerError(f"no private broker: {status['error']}")
    if problem:
        _say(problem)
    if not message["up"]:
        _say(f"started a private broker in {places.home}; it ends with this script. `flashq up` keeps one.")
    if status["held"]:
        _say(_kept(status["held"], places.home, "of an earlier run "))
    return Membership(link, status, places.home, started=True)


def _launch(plan: Plan, theirs: socket.socket, log: Path) -> None:
    """Run the keeper, detached from this process: it is nobody's child, and no Ctrl-C reaches it."""
    if not sys.executable:
        raise BrokerError("cannot start a private broker: this Python names no program (sys.executable)")
    holder = theirs.fileno()
    # -P: no module of the current folder stands in for one of ours.
    command = [sys.executable, "-P", "-m", "flashq.embedded", "--holder", str(holder), plan.dump()]
    environment = {**os.environ, "FLASHQ_HOME": plan.home}  # noqa: TID251 — handed on, not read
    if path := environment.get("PYTHONPATH"):  # it may name folders by their way from the current one
        folders = [str(Path(folder).absolute()) for folder in path.split(os.pathsep)]
        environment["PYTHONPATH"] = os.pathsep.join(folders)
    try:
        with log.open("ab") as out:
            # It forks at once and the parent ends: nothing is left for this process to wait for.
            subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=environment,
                cwd=plan.home,
                pass_fds=[holder],
                start_new_session=True,
                check=False,
            )
    except OSError as error:
        raise BrokerError(f"cannot start a private broker: {error}") from None


def _kept(count: int, home: Path, which: str = "") -> str:
    verb, pronoun = ("is", "it") if count == 1 else ("are", "them")
    return (
        f"{count} unfinished job{_s(count)} {which}{verb} kept in {home}: `flashq up --resume` runs {pronoun}"
    )


def _s(count: int) -> str:
    return "" if count == 1 else "s"


def _say(text: str) -> None:
    """One line to the person at the terminal, where there is one."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(f"flashq: {text}\n")
            sys.stderr.flush()
