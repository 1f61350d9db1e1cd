"""Broker → snapshot: every endpoint, worker and host at one moment, in two round trips.

What could not be found out is Unknown: all of it where the broker is away, one endpoint where only its record
cannot be read. Time is the broker's.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from flashq.errors import BrokerError, BrokerRefused, BrokerUnreachable
from flashq.store import gpu_leases
from flashq.store.command import mapping, number, text
from flashq.store.queries_workers import endpoints_of_all
from flashq_autoscaler import rows
from flashq_autoscaler.estimates import Estimates
from flashq_autoscaler.views import EndpointView, HostView, Snapshot, Unknown, WorkerView

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from flashq.store.broker import Broker
    from flashq.store.gpu_leases import GpuLease
    from flashq.store.records import Observed
    from flashq.store.workers import WorkerRow

log = logging.getLogger("flashq.autoscaler")
_DATED = (32, 1000)  # the oldest waiting jobs whose age is asked for: at least, at most


@dataclass(frozen=True, slots=True)
class Hopeless:
    """An endpoint that cannot start: its last starts failed, and another would fail the same way."""

    endpoint: str
    revision: str
    why: str


@dataclass(frozen=True, slots=True)
class Seen:
    """A snapshot, and what in it is not for `decide`."""

    snapshot: Snapshot
    hopeless: tuple[Hopeless, ...] = ()
    silent_hosts: tuple[str, ...] = ()
    """Hosts without a heartbeat for twice their lease: to be forgotten."""


class Observer:
    """Looks at the broker, and remembers of each endpoint what outlives its workers."""

    def __init__(self, broker: Broker, *, lease_ms: int) -> None:
        self._broker = broker
        self._lease_ms = lease_ms
        self._estimates = Estimates()
        self._views: dict[str, EndpointView] = {}
        self._workers: dict[str, tuple[WorkerView, ...]] = {}
        self._hosts: tuple[str, ...] = ()
        self._leases: dict[str, GpuLease] = {}
        self._drains: dict[str, str] = {}
        self._retired: set[str] | None = None
        """Endpoints that are gone and may have workers left; None: not looked for yet."""
        self._now = 0.0
        self.unreaped = False
        """Whether the last that was recovered was not all of it: to go on with soon."""

    def reap(self) -> None:
        """Only recover what stopped talking. Raises: BrokerUnreachable."""
        broker = self._broker
        names = [text(name) for name in broker.execute("SMEMBERS", broker.keys.of("endpoints"))]
        try:
            reaped = broker.run_all(
                [broker.transitions.reap(name, lease_ms=self._lease_ms) for name in names]
            )
            self.unreaped = any(each.more for each in reaped)
        except BrokerUnreachable:
            raise
        except BrokerError as error:  # of one of them; the others are done
            log.warning("cannot recover all that stopped talking: %s", error)

    def look(self, *, reap: bool) -> Seen:
        """See everything; with `reap`, recover first what stopped talking."""
        try:
            return self._look(reap=reap)
        except BrokerError as error:
            unknown = Unknown(str(error))
            return Seen(Snapshot(self._now, unknown, unknown, unknown))

    def _look(self, *, reap: bool) -> Seen:
        names, host_rows = self._list()
        observed = self._observe(names, reap=reap)
        times = [seen.now_ms for seen in observed.values() if not isinstance(seen, Unknown)]
        now = self._now = (max(times) if times else self._time_ms()) / 1000
        endpoints: list[EndpointView] = []
        workers: list[WorkerView] = []
        hopeless: list[Hopeless] = []
        for name, seen in observed.items():
            view, staff = self._endpoint(name, seen, now)
            workers += staff
            if view is not None:
                endpoints.append(view)
                hopeless += _hopeless(view, seen)
        hosts = [read for host, row in host_rows.items() if (read := self._host(host, *row)) is not None]
        overdue = [host for host, (until, _) in host_rows.items() if now * 1000 > until + self._lease_ms]
        snapshot = Snapshot(now, tuple(endpoints), tuple(workers), tuple(hosts))
        return Seen(snapshot, tuple(hopeless), tuple(overdue))

    def _time_ms(self) -> int:
        seconds, micros = self._broker.execute("TIME")
        return int(seconds) * 1000 + int(micros) // 1000

    # -- names and hosts -----------------------------------------------------------------------------
    def _list(self) -> tuple[list[str], dict[str, tuple[float, dict[str, str]]]]:
        """The endpoints there are (and were), and each host's record with when its lease ends."""
        keys = self._broker.keys
        listed, leased, drained, scored, *records = self._broker.read_all(
            [
                ("SMEMBERS", keys.of("endpoints")),
                ("HGETALL", keys.of("gpus")),
                ("HGETALL", keys.of("drains")),
                ("ZRANGE", keys.of("hosts"), 0, -1, "WITHSCORES"),
                *(("HGETALL", keys.of("host", host)) for host in self._hosts),
            ]
        )
        if listed is None or leased is None or drained is None or scored is None:
            raise BrokerRefused(
                "of the keys endpoints, gpus, drains and hosts one is of another type than it must be"
            )
        until = {text(scored[i]): float(scored[i + 1]) for i in range(0, len(scored), 2)}
        fresh = [host for host in until if host not in self._hosts]
        records += self._broker.read_all([("HGETALL", keys.of("host", host)) for host in fresh])
        known = dict(zip((*self._hosts, *fresh), records, strict=True))
        self._hosts = tuple(until)
        self._leases, self._drains = gpu_leases.parse_all(leased), mapping(drained)
        current = {text(name) for name in listed}
        if self._retired is None:
            self._retired = endpoints_of_all(self._broker)
        self._retired |= self._views.keys()
        self._retired -= current
        return sorted(current | self._retired), {
            host: (end, mapping(known[host] or [])) for host, end in until.items()
        }

    def _host(self, host: str, until: float, fields: dict[str, str]) -> HostView | None:
        try:
            return rows.host_view(host, fields, until, self._leases, self._drains.get(host))
        except ValueError as error:
            if fields:
                log.warning("host %s is not used, its record cannot be read: %s", host, error)
            return None

    # -- endpoints -----------------------------------------------------------------------------------
    def _observe(self, names: Iterable[str], *, reap: bool) -> dict[str, Observed | Unknown]:
        transitions = self._broker.transitions
        asked = {name: transitions.observe(name, self._dated(name)) for name in names}
        reaps: list[Any] = []
        if reap:
            reaped = [name for name in asked if name not in (self._retired or ())]
            reaps = [transitions.reap(name, lease_ms=self._lease_ms) for name in reaped]
        try:
            answers = self._broker.run_all([*reaps, *asked.values()])
            if reap:
                self.unreaped = any(reaped.more for reaped in answers[: len(reaps)])
            return dict(zip(asked, answers[len(reaps) :], strict=True))
        except BrokerUnreachable:
            raise
        except BrokerError:  # somewhere in there: one by one, so that it is Unknown for that one alone
            return {name: self._ask(command) for name, command in asked.items()}

    def _ask(self, command: Any) -> Observed | Unknown:
        try:
            seen: Observed = self._broker.run(command)
        except BrokerUnreachable:
            raise
        except BrokerError as error:
            return Unknown(str(error))
        return seen

    def _dated(self, name: str) -> int:
        view = self._views.get(name)
        wanted = view.maximum * view.concurrency if view is not None else 0
        return min(max(_DATED[0], wanted), _DATED[1])

    def _endpoint(
        self, name: str, seen: Observed | Unknown, now: float
    ) -> tuple[EndpointView | None, tuple[WorkerView, ...]]:
        if isinstance(seen, Unknown):
            return self._unknown(name, seen, now)
        if not seen.record:
            return None, self._retire(name, seen, now)
        self._estimates.learn(name, seen.workers)
        try:
            view = rows.endpoint_view(
                name, seen, service_s=self._estimates.service_s(name), cold_s=self._estimates.cold_s(name)
            )
            workers = tuple(
                rows.worker_view(row, name, now, current=view.environment) for row in seen.workers
            )
        except ValueError as error:
            return self._unknown(name, Unknown(f"the record of {name} cannot be read: {error}"), now)
        self._views[name], self._workers[name] = view, workers
        return view, workers

    def _unknown(
        self, name: str, why: Unknown, now: float
    ) -> tuple[EndpointView | None, tuple[WorkerView, ...]]:
        """Its workers as they were last seen: they hold what they hold."""
        log.warning("endpoint %s: %s", name, why.reason)
        workers = tuple(replace(worker, beat_at=now) for worker in self._workers.get(name, ()))
        view = self._views.get(name)
        return (None if view is None else replace(view, queued=why)), workers

    def _retire(self, name: str, seen: Observed, now: float) -> tuple[WorkerView, ...]:
        """An endpoint that was undeployed: remembered until its last worker has ended."""
        self._views.pop(name, None)
        self._workers.pop(name, None)
        self._estimates.forget(name)
        if seen.workers:
            (self._retired or set()).add(name)
        elif self._retired is not None:
            self._retired.discard(name)
        return tuple(_readable(name, seen.workers, now))


def _hopeless(view: EndpointView, seen: Observed | Unknown) -> list[Hopeless]:
    """The endpoint, where it cannot start. Of one whose record cannot be read nothing is known."""
    if isinstance(seen, Unknown) or isinstance(view.queued, Unknown):
        return []
    if number(seen.record.get("broken")) < rows.HOPELESS:
        return []
    return [Hopeless(view.name, view.revision, seen.record.get("failure", ""))]


def _readable(endpoint: str, workers: Iterable[WorkerRow], now: float) -> Iterator[WorkerView]:
    """The workers of an endpoint that is gone, but for those whose records cannot be read."""
    for row in workers:
        try:
            yield rows.worker_view(row, endpoint, now, current=None)
        except ValueError as error:
            log.warning("worker %s of %s, which is gone, cannot be read: %s", row.id, endpoint, error)
