"""Injects the faults of a schedule into a stage, and writes down what each of them hit."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import signal
import time
from typing import TYPE_CHECKING

from flashq.verify.door import Trap
from flashq.verify.history import Fault
from flashq.verify.kept import Victim

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from flashq.verify.history import Fact
    from flashq.verify.kept import Kept
    from flashq.verify.ledger import Ledger
    from flashq.verify.own_broker import OwnBroker
    from flashq.verify.schedule import Planned
    from flashq.verify.stage import Stage

    Action = Callable[["Injector", Planned], None]

_TRAP_S = 2.5
"""How long a trap waits for its call; then the fault happens without one."""

_DYING_S = 1.0
"""How long what is to die with a process may live on, and even begin a job."""


class Injector:
    """Faults by name. What lasts is ended in its time by `tend`."""

    def __init__(self, stage: Stage, ledger: Ledger, broker: OwnBroker | None = None) -> None:
        self.stage, self.broker = stage, broker
        self.done = 0
        """How many faults hit something."""
        self._ledger = ledger
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._victims: set[Victim] = set()

    def inject(self, planned: Planned, actions: Mapping[str, Action] | None = None) -> None:
        """Have one fault happen."""
        (actions or ACTIONS)[planned.kind](self, planned)

    # -- in time -------------------------------------------------------------------------------------
    @property
    def pending(self) -> bool:
        """Whether a fault is still under way."""
        return bool(self._later)

    def later(self, after_s: float, act: Callable[[], None]) -> None:
        """Do something when so many seconds have passed."""
        heapq.heappush(self._later, (time.monotonic() + after_s, next(self._order), act))

    def tend(self) -> float | None:
        """Do what is due; when there is more to do (monotonic), None where nothing is pending."""
        while self._later and self._later[0][0] <= time.monotonic():
            heapq.heappop(self._later)[2]()
        return self._later[0][0] if self._later else None

    def finish(self) -> None:
        """End at once all that lasts."""
        while self._later:
            heapq.heappop(self._later)[2]()
        for victim in list(self._victims):
            self._continue(victim)

    # -- what is written down ------------------------------------------------------------------------
    def say(
        self,
        planned: Planned,
        at: float,
        pids: Iterable[int] = (),
        *,
        lasts_s: float = 0.0,
        everybody: bool = False,
    ) -> None:
        """A fault happened, and hit these processes."""
        until = max(time.monotonic(), at + lasts_s)
        self._ledger.write(Fault(planned.kind, at, until, tuple(pids), everybody))
        self.done += 1

    def note(self, fact: Fact) -> None:
        """Write down something else that happened with it."""
        self._ledger.write(fact)

    def missed(self, planned: Planned) -> None:
        """It found nothing to hit."""
        now = time.monotonic()
        self._ledger.write(Fault(planned.kind, now, now, missed=True))

    # -- means ---------------------------------------------------------------------------------------
    def kill(self, planned: Planned, pids: Sequence[int], hit: Sequence[int] | None = None) -> None:
        """SIGKILL, to all at once; `hit`: those that suffer by it, if they are more."""
        at = time.monotonic()
        victims = [Victim(pid) for pid in pids]
        struck = [victim.send(signal.SIGKILL) for victim in victims]
        for victim in victims:
            victim.close()
        if any(struck):
            self.say(planned, at, pids if hit is None else hit, lasts_s=_DYING_S)
        else:
            self.missed(planned)

    def stop(self, planned: Planned, pids: Sequence[int], *, hits: bool) -> None:
        """SIGSTOP, and SIGCONT when it has lasted; `hits`: long enough to cost them what they hold."""
        at = time.monotonic()
        victims = [Victim(pid) for pid in pids]
        stopped = [victim.send(signal.SIGSTOP) for victim in victims]
        if not any(stopped):
            self.missed(planned)
            return
        for victim in victims:
            self._victims.add(victim)
            self.later(planned.lasts_s, lambda victim=victim: self._continue(victim))  # type: ignore[misc]
        self.say(planned, at, pids if hits else (), lasts_s=planned.lasts_s)

    def _continue(self, victim: Victim) -> None:
        victim.send(signal.SIGCONT)
        victim.close()
        self._victims.discard(victim)

    def trap(self, planned: Planned, act: Callable[[int], None], otherwise: Callable[[], None]) -> None:
        """Wait for a call; `act(pid)` in the door's thread when it passes, or `otherwise` when none does."""
        trap = Trap(planned.script, planned.moment, None, act)
        self.stage.door.lay(trap)

        def give_up() -> None:
            if self.stage.door.take_away(trap):
                otherwise()

        self.later(_TRAP_S, give_up)

    def kept(self, planned: Planned, among: Sequence[Kept]) -> Kept | None:
        """One of these that runs; None, and written down as missed, where none does."""
        found = self.stage.pick(planned.pick, among)
        if found is None:
            self.missed(planned)
        return found


# -- kills -------------------------------------------------------------------------------------------


def kill_worker(injector: Injector, planned: Planned) -> None:
    worker = injector.stage.pick_worker(planned.pick)
    if worker is None:
        injector.missed(planned)
    else:
        injector.kill(planned, [worker.supervisor], worker.pids)


def kill_executor(injector: Injector, planned: Planned) -> None:
    worker = injector.stage.pick_worker(planned.pick)
    if worker is None or not worker.executors:
        injector.missed(planned)
    else:
        injector.kill(planned, worker.executors)


def kill_caller(injector: Injector, planned: Planned) -> None:
    caller = injector.kept(planned, injector.stage.callers)
    if caller is not None and caller.pid is not None:
        injector.kill(planned, [caller.pid])


def kill_host_agent(injector: Injector, planned: Planned) -> None:
    host = injector.kept(planned, injector.stage.hosts)
    if host is not None and host.pid is not None:
        injector.kill(planned, [host.pid], injector.stage.of_host(host))


def lose_host(injector: Injector, planned: Planned) -> None:
    host = injector.kept(planned, injector.stage.hosts)
    if host is not None:
        injector.kill(planned, injector.stage.of_host(host))


def kill_autoscaler(injector: Injector, planned: Planned) -> None:
    pid = injector.stage.autoscaler.pid
    if pid is None:
        injector.missed(planned)
    else:
        injector.kill(planned, [pid])


def _kill_at_call(otherwise: Action) -> Action:
    def act(injector: Injector, planned: Planned) -> None:
        def kill(pid: int) -> None:
            injector.kill(planned, [pid], injector.stage.all_of(pid))

        injector.trap(planned, kill, lambda: otherwise(injector, planned))

    return act


# -- stops -------------------------------------------------------------------------------------------


def stop_worker(injector: Injector, planned: Planned) -> None:
    worker = injector.stage.pick_worker(planned.pick)
    if worker is None:
        injector.missed(planned)
    else:
        injector.stop(planned, worker.pids, hits=True)


def stop_supervisor(injector: Injector, planned: Planned) -> None:
    worker = injector.stage.pick_worker(planned.pick)
    if worker is None:
        injector.missed(planned)
        return
    injector.stop(planned, [worker.supervisor], hits=True)


def pause_worker(injector: Injector, planned: Planned) -> None:
    worker = injector.stage.pick_worker(planned.pick)
    if worker is None:
        injector.missed(planned)
    else:
        injector.stop(planned, worker.pids, hits=False)


def stop_executor(injector: Injector, planned: Planned) -> None:
    worker = injector.stage.pick_worker(planned.pick)
    if worker is None or not worker.executors:
        injector.missed(planned)
    else:
        injector.stop(planned, worker.executors, hits=False)


def _stop_kept(which: Callable[[Stage], Sequence[Kept]]) -> Action:
    def act(injector: Injector, planned: Planned) -> None:
        kept = injector.kept(planned, which(injector.stage))
        if kept is not None and kept.pid is not None:
            injector.stop(planned, [kept.pid], hits=False)

    return act


def drain_worker(injector: Injector, planned: Planned) -> None:
    worker = injector.stage.pick_worker(planned.pick)
    at = time.monotonic()
    if worker is None:
        injector.missed(planned)
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(worker.supervisor, signal.SIGTERM)
    injector.say(planned, at)


# -- the wire ----------------------------------------------------------------------------------------


def _lose_at_call(injector: Injector, planned: Planned) -> None:
    injector.trap(
        planned,
        lambda _pid: injector.say(planned, time.monotonic()),
        lambda: cut_all(injector, planned),
    )


def cut_process(injector: Injector, planned: Planned) -> None:
    at = time.monotonic()
    pids = sorted(injector.stage.door.pids())
    if not pids:
        injector.missed(planned)
        return
    injector.stage.door.cut([pids[int(planned.pick * len(pids)) % len(pids)]])
    injector.say(planned, at)


def cut_all(injector: Injector, planned: Planned) -> None:
    at = time.monotonic()
    injector.stage.door.cut()
    injector.say(planned, at)


def delay(injector: Injector, planned: Planned) -> None:
    at = time.monotonic()
    injector.stage.door.delay(None, 0.02 + 0.18 * planned.pick, planned.lasts_s)
    injector.later(planned.lasts_s, _nothing)
    injector.say(planned, at, lasts_s=planned.lasts_s)


def _part(injector: Injector, planned: Planned, pids: Sequence[int] | None, *, hits: bool) -> None:
    at = time.monotonic()
    injector.stage.door.hold(pids, planned.lasts_s)
    injector.later(planned.lasts_s, _nothing)
    injector.say(planned, at, pids if hits and pids is not None else (), lasts_s=planned.lasts_s)


def part_worker(injector: Injector, planned: Planned) -> None:
    worker = injector.stage.pick_worker(planned.pick)
    if worker is None:
        injector.missed(planned)
    else:
        _part(injector, planned, worker.pids, hits=True)


def part_caller(injector: Injector, planned: Planned) -> None:
    caller = injector.kept(planned, injector.stage.callers)
    if caller is not None and caller.pid is not None:
        _part(injector, planned, [caller.pid], hits=False)


def part_host(injector: Injector, planned: Planned) -> None:
    host = injector.kept(planned, injector.stage.hosts)
    if host is not None:
        _part(injector, planned, injector.stage.of_host(host), hits=True)


def part_all(injector: Injector, planned: Planned) -> None:
    _part(injector, planned, None, hits=False)


def _nothing() -> None:
    """The door ends by itself what was asked for a while; until then the fault is under way."""


# -- a broker of its own -----------------------------------------------------------------------------


def kill_broker(injector: Injector, planned: Planned) -> None:
    at, broker = time.monotonic(), injector.broker
    assert broker is not None
    if not broker.running:
        injector.missed(planned)
        return
    broker.kill()
    injector.later(planned.lasts_s, broker.start)
    injector.say(planned, at, lasts_s=planned.lasts_s)


def stop_broker(injector: Injector, planned: Planned) -> None:
    at, broker = time.monotonic(), injector.broker
    assert broker is not None
    if not broker.running:
        injector.missed(planned)
        return
    broker.signal(signal.SIGSTOP)
    injector.later(planned.lasts_s, lambda: broker.signal(signal.SIGCONT))
    injector.say(planned, at, lasts_s=planned.lasts_s)


ACTIONS: dict[str, Action] = {
    "kill worker": kill_worker,
    "kill executor": kill_executor,
    "kill worker at a call": _kill_at_call(kill_worker),
    "kill caller": kill_caller,
    "kill caller at a call": _kill_at_call(kill_caller),
    "kill host agent": kill_host_agent,
    "lose host": lose_host,
    "kill autoscaler": kill_autoscaler,
    "kill control at a call": _kill_at_call(kill_autoscaler),
    "stop worker": stop_worker,
    "stop supervisor": stop_supervisor,
    "pause worker": pause_worker,
    "stop executor": stop_executor,
    "stop caller": _stop_kept(lambda stage: stage.callers),
    "stop host agent": _stop_kept(lambda stage: stage.hosts),
    "stop autoscaler": _stop_kept(lambda stage: [stage.autoscaler]),
    "drain worker": drain_worker,
    "lose reply": _lose_at_call,
    "lose request": _lose_at_call,
    "cut a process off": cut_process,
    "cut all off": cut_all,
    "delay": delay,
    "part a worker": part_worker,
    "part a caller": part_caller,
    "part a host": part_host,
    "part all briefly": part_all,
    "kill broker": kill_broker,
    "stop broker": stop_broker,
}
