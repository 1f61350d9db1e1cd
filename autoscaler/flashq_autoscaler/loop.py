"""The autoscaler's loop: observe, decide, reconcile, apply; woken by a submit that found no idle worker.

Of several autoscalers one leads and does that; those that stand by only recover what stopped talking. A token
on the wake list begins a tick at once; behind it stand the time the last plan named and a tick a second. A
wake is followed by a short pause that grows while that goes on: after one that changed nothing, so that a full
fleet under a flood of submits costs little; after one that did, so that a burst is a few decisions. The loop
keeps nothing that it could not find out again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import time
from typing import TYPE_CHECKING

from flashq.errors import BrokerError, BrokerUnreachable, Deposed, SettingsError
from flashq.keychain import Keychain
from flashq.store import server
from flashq.store.broker import Broker
from flashq.store.inbox import Inbox
from flashq.store.transitions import REAP_AGAIN_S
from flashq_autoscaler.apply import Applier
from flashq_autoscaler.decide import DEFAULTS, decide
from flashq_autoscaler.health import gate_of
from flashq_autoscaler.leader import Leadership
from flashq_autoscaler.observe import Observer
from flashq_autoscaler.reconcile import is_news, reconcile
from flashq_autoscaler.record import Recorder
from flashq_autoscaler.views import Unknown

if TYPE_CHECKING:
    from flashq.model.envelope import RootKeys
    from flashq.settings import Settings
    from flashq.store.records import Term
    from flashq_autoscaler.observe import Seen
    from flashq_autoscaler.views import Params

log = logging.getLogger("flashq.autoscaler")
RECONCILE_S = 1.0
_RECONNECT_S = (0.05, 1.0)  # the first pause after losing the broker, and the longest
_QUIET_S = (0.001, 0.02)  # the pause after a wake that changed nothing, and the longest
_QUIET_SHARE = 4  # and at least so many times what the tick took
_SETTLE_S = (0.005, 0.02)  # the pause after a wake that changed something, and the longest


class Autoscaler:
    """Scales every endpoint of one broker, while it leads."""

    def __init__(
        self,
        broker: Broker,
        keyring: RootKeys,
        *,
        lease_s: float = 15.0,
        reconcile_s: float = RECONCILE_S,
        params: Params = DEFAULTS,
        take_over: bool = False,
        recorder: Recorder | None = None,
    ) -> None:
        """`reconcile_s`: how often it looks though nothing woke it, and recovers what stopped talking.

        `recorder`: writes down each decision that asks for something. None: nothing is written.

        `take_over`: lead at once, in place of whoever does.
        """
        self._params = params
        self._recorder = recorder
        self._reconcile_s = reconcile_s
        self._broker = broker
        self._leadership = Leadership(broker, keyring, lease_s=lease_s, take_over=take_over)
        self._lease_ms = int(lease_s * 1000)
        self._observer = Observer(broker, lease_ms=self._lease_ms)
        self._applier = Applier(broker, keyring)
        self._term: Term | None = None  # that of the last tick
        self._inbox = Inbox(broker, broker.keys.of("bell", self._leadership.id))
        self._reconcile_at = 0.0  # when the next tick with REAP is due; all of these are monotonic
        self._tick_at = 0.0  # when the next tick is due though nobody asks
        self._not_before = 0.0  # when it may come at the earliest
        self._pause_s = _QUIET_S[0]
        self._settle_s, self._settled_at = _SETTLE_S[0], 0.0  # the last such pause, and its end
        self._reconnect_s = _RECONNECT_S[0]
        self._stopping = False
        self._wake_r, self._wake_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def stop(self) -> None:
        """End `run` after the tick it is in; from any thread or signal handler."""
        self._stopping = True
        os.write(self._wake_w, b"\0")

    def run(self, lifeline: int | None = None) -> None:
        """Scale until `stop`, or until end of file on the descriptor `lifeline`; then another may lead at once."""
        try:
            while not self._stopping:
                woken = self._wait(lifeline)
                if not self._stopping:
                    self._step(woken=woken)
            with contextlib.suppress(BrokerError):
                self._leadership.resign()
        finally:
            self._inbox.close()
            os.close(self._wake_r)
            os.close(self._wake_w)
        log.info("ended")

    # -- one tick ------------------------------------------------------------------------------------
    def tick(self, *, reap: bool = True) -> tuple[bool, float | None]:
        """Bring the world one step nearer to what is wanted.

        Whether there was anything to do, and after how many seconds time alone changes the decision. `reap`:
        recover first what stopped talking; where another leads, that is all. Raises: BrokerError, Deposed where
        another took over in the middle of it.
        """
        term = self._lead()
        if term is None:
            if reap:
                self._observer.reap()
            return False, None
        seen = self._observer.look(reap=reap)
        snapshot = seen.snapshot
        if isinstance(snapshot.endpoints, Unknown):
            raise BrokerUnreachable(snapshot.endpoints.reason)
        failed = self._fail_hopeless(seen, term)
        plan = decide(snapshot, self._params)
        actions = reconcile(plan, snapshot)
        news = any(is_news(action) for action in actions)
        if actions:
            self._applier.apply(actions, snapshot, term)
            if news and self._recorder is not None:
                self._recorder.write(snapshot, self._params, plan)
        if seen.silent_hosts:
            self._applier.forget_hosts(seen.silent_hosts, term)
        return bool(news or failed), None if plan.wake_at is None else plan.wake_at - snapshot.now

    def _lead(self) -> Term | None:
        """The term to act under; None while another leads."""
        term = self._leadership.keep()
        if term != self._term:
            keys = self._broker.keys
            self._inbox.close()
            if term is None:
                self._inbox = Inbox(self._broker, keys.of("bell", self._leadership.id))
            else:
                self._inbox = Inbox(self._broker, keys.of("wake"))
                self._observer = Observer(
                    self._broker, lease_ms=self._lease_ms
                )  # its memory is of another time
            self._term = term
            self._tick_at = 0.0
        return term

    def _fail_hopeless(self, seen: Seen, term: Term) -> int:
        """Fail the jobs that wait for what cannot start, until it is registered anew or its retry is due."""
        snapshot, count = seen.snapshot, 0
        if isinstance(snapshot.endpoints, Unknown):
            return 0
        views = {view.name: view for view in snapshot.endpoints}
        for case in seen.hopeless:
            view = views[case.endpoint]
            if view.queued and not gate_of(view, snapshot.now, self._params).open:
                failed = self._applier.fail_waiting(case.endpoint, case.revision, case.why, term)
                why = view.last_failure_reason
                log.warning("%s: %d jobs failed, it cannot start: %s", view.name, failed, why)
                count += failed
        return count

    def _step(self, *, woken: bool) -> None:
        began = time.monotonic()
        reap = began >= self._reconcile_at
        try:
            self._lead()
            if not self._inbox.open:
                self._inbox.connect()
            if not woken and began < self._tick_at:
                return  # it was time to ask who leads, and no more
            changed, wake_s = self.tick(reap=reap)
        except Deposed as error:
            log.warning("deposed in the middle of a plan, the rest of which is void: %s", error)
            self._leadership.ask_anew()
            self._tick_at = self._not_before = began
            return
        except BrokerError as error:
            self._lost(error)
            return
        now = time.monotonic()
        self._reconnect_s = _RECONNECT_S[0]
        if reap:
            self._reconcile_at = began + (REAP_AGAIN_S if self._observer.unreaped else self._reconcile_s)
        if changed or not woken:
            self._pause_s = _QUIET_S[0]
        else:
            self._pause_s = min(2 * self._pause_s, _QUIET_S[1])
        pause_s = 0.0 if changed else max(self._pause_s, _QUIET_SHARE * (now - began))
        if changed and woken:  # what woke it may be the first of many
            follows = began < self._settled_at + self._settle_s
            self._settle_s = min(2 * self._settle_s, _SETTLE_S[1]) if follows else _SETTLE_S[0]
            pause_s, self._settled_at = self._settle_s, now + self._settle_s
        due_s = self._reconcile_s if wake_s is None else wake_s
        self._not_before = now + pause_s
        self._tick_at = max(self._not_before, min(now + due_s, self._reconcile_at))

    def _lost(self, error: BrokerError) -> None:
        if self._reconnect_s == _RECONNECT_S[0]:
            log.warning("%s; trying again", error)
        self._inbox.close()
        self._tick_at = self._not_before = time.monotonic() + self._reconnect_s
        self._reconnect_s = min(2 * self._reconnect_s, _RECONNECT_S[1])

    # -- waiting -------------------------------------------------------------------------------------
    def _wait(self, lifeline: int | None) -> bool:
        """Until a tick is due, or it is time to ask who leads; whether a token on the list made a tick due."""
        woken = False
        while not self._stopping:
            next_at = self._not_before if woken else min(self._tick_at, self._leadership.due_at)
            left_s = max(next_at, self._not_before) - time.monotonic()
            if left_s <= 0:
                break
            poll = select.poll()
            poll.register(self._wake_r, select.POLLIN)
            if lifeline is not None:
                poll.register(lifeline, select.POLLIN)
            if self._inbox.open and not woken:
                poll.register(self._inbox.fileno(), select.POLLIN)
            ready = {fd for fd, _ in poll.poll(left_s * 1000)}
            if lifeline in ready:
                log.info("what started this autoscaler has ended")
                self._stopping = True
            elif self._inbox.open and not woken:
                woken = self._take_tokens()
        return woken

    def _take_tokens(self) -> bool:
        try:
            taken = bool(self._inbox.take())
        except BrokerError as error:
            self._lost(error)
            return False
        if taken and self._term is None:  # the leader has resigned
            self._leadership.ask_anew()
        return taken


def serve(settings: Settings, lifeline: int | None = None, *, take_over: bool = False) -> None:
    """Be an autoscaler of the configured broker until SIGTERM, SIGINT or the end of `lifeline`.

    Raises SettingsError where no broker or key is set.
    """
    if settings.redis_url is None:
        raise SettingsError(
            "no broker: set FLASHQ_REDIS_URL, or let `flashq up` start one and this beside it"
        )
    broker = Broker(settings.redis_url, prefix=settings.rq_prefix, patience_s=0.5)
    keyring = Keychain.of(settings)
    with contextlib.suppress(BrokerError):  # it is away: the loop says so, and goes on trying
        server.warn(broker, log, settings.durability)
    recorder = Recorder(settings.home / "logs")
    autoscaler = Autoscaler(broker, keyring, lease_s=settings.lease_s, take_over=take_over, recorder=recorder)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: autoscaler.stop())
    autoscaler.run(lifeline=lifeline)
