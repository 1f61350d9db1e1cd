"""Actions → broker: each one idempotent there, and bounded by what it names; one line of log each.

Each goes out under the leader's term, and the broker refuses all of them once another leads (`Deposed`). A
start is booked and its host told in one step, which fails where the endpoint has as many workers already as it
would have with that start.
"""

from __future__ import annotations

import logging
import uuid
from collections import Counter
from typing import TYPE_CHECKING, Any, assert_never

from flashq.model import host_command
from flashq.model.envelope import Header, seal
from flashq.model.host_command import KillWorker, StartWorker
from flashq.model.keyring import Direction
from flashq.store.workers import facts
from flashq_autoscaler import reconcile, rows
from flashq_autoscaler.views import Unknown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flashq.model.envelope import RootKeys
    from flashq.model.host_command import HostCommand
    from flashq.store.broker import Broker
    from flashq.store.command import Command
    from flashq.store.records import Term
    from flashq_autoscaler.plan import Start, Stop
    from flashq_autoscaler.reconcile import Action
    from flashq_autoscaler.views import Condition, Snapshot

log = logging.getLogger("flashq.autoscaler")
PATIENCE_MS = 30_000
"""How long a worker may take to report in before its start counts as lost."""
COMMAND_LIFE_MS = 60_000
_FAIL_AT_ONCE = 500


class Applier:
    """Carries actions out. Each call may raise BrokerError (Deposed, too); the next decision sees what came of it."""

    def __init__(self, broker: Broker, keyring: RootKeys) -> None:
        self._broker = broker
        self._transitions = broker.transitions
        self._keyring = keyring

    def apply(self, actions: Iterable[Action], snapshot: Snapshot, term: Term) -> None:
        """Carry out `actions`, decided from `snapshot` under `term`, in their order and in one round trip."""
        now_ms = int(snapshot.now * 1000)
        limits = self._limits(snapshot)
        steps = [(action, self._command(action, now_ms, limits, term)) for action in actions]
        answers = self._broker.run_all([command for _, command in steps])
        for (action, _), answer in zip(steps, answers, strict=True):
            _tell(action, answer)

    @staticmethod
    def _limits(snapshot: Snapshot) -> dict[str, int]:
        """The most workers each endpoint may have."""
        if isinstance(snapshot.endpoints, Unknown) or isinstance(snapshot.workers, Unknown):
            return {}
        lending = Counter(worker.endpoint for worker in snapshot.workers if worker.lends)
        return {
            each.name: each.maximum + (lending[each.name] if each.nested else 0)
            for each in snapshot.endpoints
        }

    def _command(self, action: Action, now_ms: int, limits: dict[str, int], term: Term) -> Command[Any]:
        made = self._transitions
        match action:
            case reconcile.StartWorker(start):
                most = min(start.ordinal, limits.get(start.endpoint, 0))
                return self._order(start, now_ms, most, term)
            case reconcile.DrainWorker(drain):
                return made.drain(drain.endpoint, drain.worker, drain.reason, force=drain.busy, term=term)
            case reconcile.DeclareLost(stop):
                return self._give_up(stop, now_ms, term)
            case reconcile.SetCondition(endpoint, condition, quiet):
                written, event = rows.condition_json(condition), "" if quiet else _event(condition)
                return made.set_condition(endpoint, "condition", written, event, term=term)
            case reconcile.Note(withheld):
                written, event = rows.withheld_json(withheld), f"{withheld.code}: {withheld.detail}"
                return made.set_condition(withheld.endpoint, "withheld", written, event, term=term)
            case _:
                assert_never(action)

    def _give_up(self, stop: Stop, now_ms: int, term: Term) -> Command[int]:
        """The worker is off the record, and its host told to end what is left of it."""
        word = b""
        if stop.host:
            word = self._sign(stop.endpoint, stop.host, KillWorker(stop.worker), now_ms, term)
        return self._transitions.leave(
            stop.endpoint, stop.worker, stop.reason, term=term, host=stop.host, command=word
        )

    def _order(self, start: Start, now_ms: int, most: int, term: Term) -> Command[str]:
        worker = f"{start.endpoint}-{uuid.uuid4()}"
        word = StartWorker(
            worker=worker,
            endpoint=start.endpoint,
            revision=start.revision,
            environment=start.environment,
            gpu_uuids=start.gpu_uuids,
            cpus=start.cpus,
            memory_bytes=start.memory_bytes,
            requires=start.requires,
        )
        return self._transitions.order(
            start.endpoint,
            worker,
            host=start.host,
            revision=start.revision,
            environment=start.environment,
            most=most,
            patience_ms=PATIENCE_MS,
            command=self._sign(start.endpoint, start.host, word, now_ms, term),
            term=term,
            fields=facts(
                gpus=start.gpu_uuids,
                cpus=start.cpus,
                memory_bytes=start.memory_bytes,
                why=start.reason,
            ),
        )

    def _sign(self, endpoint: str, host: str, word: HostCommand, now_ms: int, term: Term) -> bytes:
        header = Header(
            direction=Direction.HOST_COMMAND,
            endpoint=endpoint,
            host=host,
            epoch=term.epoch,
            created_ms=now_ms,
            expires_ms=now_ms + COMMAND_LIFE_MS,
        )
        return seal(header, host_command.pack(word), self._keyring)

    def fail_waiting(self, endpoint: str, revision: str, why: str, term: Term) -> int:
        """Fail every job that waits for a revision that cannot start; how many there were."""
        message = f"endpoint {endpoint} cannot start: {why}"
        command = self._transitions.fail_waiting(endpoint, revision, message, _FAIL_AT_ONCE, term=term)
        total = count = self._broker.run(command)
        while count >= _FAIL_AT_ONCE:
            count = self._broker.run(command)
            total += count
        return total

    def forget_hosts(self, hosts: Iterable[str], term: Term) -> None:
        """Take hosts off the list, unless they have been heard of meanwhile."""
        silent = list(hosts)
        commands = [self._transitions.host_leave(host, only_overdue=True, term=term) for host in silent]
        for host, removed in zip(silent, self._broker.run_all(commands), strict=True):
            if removed:
                log.warning("host %s is silent: forgotten", host)


def _event(condition: Condition | None) -> str:
    if condition is None:
        return "it may have the workers it wants again"
    return f"{condition.state}, {condition.code}: {condition.detail}"


def _tell(action: Action, answer: Any) -> None:
    match action:
        case reconcile.StartWorker(start):
            which = f"worker {start.ordinal} on {start.host}"
            log.info("%s: start %s: %s [%s]", start.endpoint, which, start.reason, answer)
        case reconcile.DrainWorker(drain):
            log.info("%s: drain %s: %s [%s]", drain.endpoint, drain.worker, drain.reason, answer)
        case reconcile.DeclareLost(stop):
            log.warning("%s: lost %s: %s [%s]", stop.endpoint, stop.worker, stop.reason, answer)
        case reconcile.SetCondition(endpoint, condition, quiet):
            level = logging.DEBUG if quiet else logging.INFO if condition is None else logging.WARNING
            log.log(level, "%s: %s", endpoint, _event(condition))
        case reconcile.Note(withheld):
            log.info("%s: no start yet: %s: %s", withheld.endpoint, withheld.code, withheld.detail)
        case _:
            assert_never(action)
