"""Plan → actions: what `apply` is to do, in order, without what is done or under way already.

Each action is idempotent, and guarded by what it names, so that a resend, a second autoscaler or a snapshot a
little newer than the plan's do no harm. Nothing is decided here.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from flashq_autoscaler.fleet import is_live
from flashq_autoscaler.views import Condition, Snapshot, Unknown, Withheld, WorkerView

if TYPE_CHECKING:
    from flashq_autoscaler.plan import Drain, Plan, Start, Stop


@dataclass(frozen=True, slots=True)
class DeclareLost:
    """Record the worker as lost, have its jobs requeued and its host end what is left of it."""

    stop: Stop


@dataclass(frozen=True, slots=True)
class DrainWorker:
    """Set the worker's draining flag; only if it holds no job at that moment, unless busy ones are meant."""

    drain: Drain


@dataclass(frozen=True, slots=True)
class StartWorker:
    """Record a worker as initializing and send its host the word, only while fewer than `ordinal` live."""

    start: Start


@dataclass(frozen=True, slots=True)
class SetCondition:
    """Record the endpoint's condition, with an event; None: it is over."""

    endpoint: str
    condition: Condition | None
    quiet: bool = False
    """It is the same one, of other hosts, holders or numbers: the record follows, and no event tells of it."""


@dataclass(frozen=True, slots=True)
class Note:
    """Record that a start is withheld, with an event."""

    withheld: Withheld


Action: TypeAlias = DeclareLost | DrainWorker | StartWorker | SetCondition | Note


def is_news(action: Action) -> bool:
    """Whether anything is asked for, or told, that was not before."""
    return not (isinstance(action, SetCondition) and action.quiet)


def reconcile(plan: Plan, snapshot: Snapshot) -> tuple[Action, ...]:
    """The actions that carry out `plan` in the world of `snapshot`: the plan's own or a newer one.

    Losses come first, since what they free is what the starts count on; then drains, starts, conditions,
    notes. With any part of the snapshot Unknown there are none.
    """
    endpoints, workers = snapshot.endpoints, snapshot.workers
    if isinstance(endpoints, Unknown) or isinstance(workers, Unknown) or isinstance(snapshot.hosts, Unknown):
        return ()
    by_id = {worker.id: worker for worker in workers}
    actions: list[Action] = []
    actions += [DeclareLost(stop) for stop in plan.stops if _may_be_lost(by_id.get(stop.worker))]
    actions += [DrainWorker(drain) for drain in plan.drains if _may_drain(drain, by_id.get(drain.worker))]
    actions += [StartWorker(start) for start in _starts_left(plan, workers)]

    conditions = {state.endpoint: state.condition for state in plan.states}
    for endpoint in sorted(endpoints, key=lambda endpoint: endpoint.name):
        condition = conditions.get(endpoint.name)
        if endpoint.name in plan.undecided:
            continue
        if not _same(condition, endpoint.condition):
            actions.append(SetCondition(endpoint.name, condition))
        elif _is_outdated(endpoint.condition, condition):
            actions.append(SetCondition(endpoint.name, condition, quiet=True))

    noted = {endpoint.name: endpoint.withheld for endpoint in endpoints}
    for withheld in plan.withheld:
        last = noted.get(withheld.endpoint)
        if last is None or last.code != withheld.code or last.due_at <= snapshot.now:
            actions.append(Note(withheld))
    return tuple(actions)


def _may_be_lost(worker: WorkerView | None) -> bool:
    return worker is not None and is_live(worker)


def _may_drain(drain: Drain, worker: WorkerView | None) -> bool:
    if worker is None or not is_live(worker) or worker.draining:
        return False
    return drain.busy or worker.jobs == 0


def _starts_left(plan: Plan, workers: tuple[WorkerView, ...]) -> list[Start]:
    if not plan.starts:
        return []
    stopped = {stop.worker for stop in plan.stops}
    live = Counter(worker.endpoint for worker in workers if is_live(worker) and worker.id not in stopped)
    return [start for start in plan.starts if live[start.endpoint] < start.ordinal]


def _is_outdated(recorded: Condition | None, new: Condition | None) -> bool:
    """Whether what is recorded names what has changed. How soon a start is tried again changes all the time."""
    if recorded is None or new is None or recorded.state != "throttled":
        return False
    return recorded.detail != new.detail


def _same(new: Condition | None, recorded: Condition | None) -> bool:
    return recorded is None if new is None else new.same_as(recorded)
