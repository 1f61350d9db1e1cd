"""The checker of campaigns: a history that keeps every promise passes, and each broken promise is found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from flashq.verify.check import KINDS, Terms, Verdict, check
from flashq.verify.history import (
    Acknowledged,
    Began,
    Ended,
    Fact,
    Fault,
    Healed,
    History,
    Left,
    Read,
    Refused,
    Wiped,
    token,
)
from flashq.verify.workload import Behaviour, behaviour

if TYPE_CHECKING:
    from collections.abc import Callable

HEALED = 100.0
TERMS = Terms(calls=1, max_losses=3, retries=2, settle_s=30.0)


def ran(job: str, fence: int, at: float, *, pid: int = 10, how: str = "value", number: int = 0) -> list[Fact]:
    """An attempt that ran through; its executor is `pid`, its supervisor the next one."""
    return [
        Began(job, number, fence, fence, pid, pid + 1, at),
        Ended(job, fence, pid, how, at + 0.1),
    ]


def began(job: str, fence: int, at: float, pid: int = 10) -> Began:
    """An attempt of which no more was heard."""
    return Began(job, 0, fence, fence, pid, pid + 1, at)


def told(
    job: str, fence: int, at: float, *, pid: int = 10, by: str = "reader", state: str = "finished"
) -> Read:
    """A reader was told the value of an attempt."""
    return Read(job, by, state, token(job, fence, pid), "", at - 0.01, at, fence if by == "reader" else 0)


def seen(job: str, state: str, at: float) -> Read:
    """A reader was told that it has not ended, or ('') is not there."""
    return Read(job, "reader", state, "", "", at - 0.01, at)


def killed(at: float, *pids: int) -> Fault:
    return Fault("kill worker", at, at + 1.0, pids)


def judged(*facts: Fact, terms: Terms = TERMS) -> Verdict:
    return check(History.of(facts), terms)


GOOD: list[Fact] = [
    Acknowledged(0, "a", "key", 1.0),
    *ran("a", 1, 2.0),
    told("a", 1, 3.0, by="caller 7"),
    told("a", 1, 3.5),
    Healed(HEALED),
    Left(0, 0, 0),
]


def without(*kinds: type[Fact]) -> list[Fact]:
    """The good history less the facts of some kinds."""
    return [fact for fact in GOOD if not isinstance(fact, kinds)]


def test_a_history_that_keeps_every_promise_holds() -> None:
    verdict = judged(*GOOD)

    assert verdict.holds, verdict.violations
    assert (verdict.jobs, verdict.attempts, verdict.extra_runs, verdict.hits) == (1, 1, 0, 0)
    assert verdict.settled_s == 0.0


def reruns(count: int) -> list[Fact]:
    """Attempts that each were killed, one after the other."""
    facts: list[Fact] = []
    for fence in range(1, count + 1):
        facts += [began("a", fence, 2.0 * fence, pid=100 * fence), killed(2.0 * fence + 0.5, 100 * fence)]
    return facts


BROKEN: dict[str, list[Fact]] = {
    "lost": [Acknowledged(0, "a", "", 1.0), seen("a", "", 5.0), Healed(HEALED)],
    "unfinished": [
        Acknowledged(0, "a", "", 1.0),
        *ran("a", 1, 2.0),
        seen("a", "running", 5.0),
        Healed(HEALED),
    ],
    "late": [Acknowledged(0, "a", "", 1.0), *ran("a", 1, 2.0), told("a", 1, HEALED + 31), Healed(HEALED)],
    "unaccepted": [Refused(0, "BrokerUnreachable", 1.0), Healed(HEALED)],
    "doubled": [*GOOD, Acknowledged(0, "b", "key", 4.0), *ran("b", 1, 5.0), told("b", 1, 6.0)],
    "stale": [*GOOD, killed(2.05, 10), Began("a", 0, 2, 2, 20, 21, 2.5)],
    "changed": [*GOOD, killed(2.05, 10), *ran("a", 2, 2.5, pid=20), told("a", 2, 9.0, pid=20)],
    "contradicted": [*GOOD, seen("a", "running", 9.0)],
    "foreign": [*without(Read), told("a", 1, 3.0, pid=99)],
    "wrong": [*without(Read), Read("a", "caller 7", "failed", "", "WorkerCrashed", 1.0, 9.0)],
    "refenced": [*GOOD, *ran("a", 1, 2.5, pid=20)],
    "revived": [*GOOD, killed(2.05, 10), *ran("a", 2, 4.0, pid=20)],
    "reruns": [*without(Read), *ran("a", 2, 4.0, pid=20), told("a", 2, 5.0, pid=20)],
    "excess": [
        Acknowledged(0, "a", "", 1.0),
        *reruns(6),
        Read("a", "reader", "failed", "", "WorkerCrashed", 19, 20),
    ],
    "untold": [
        Acknowledged(0, "a", "key", 1.0),
        Wiped(2.5),
        Read("a", "caller 7", "", "", "JobNotFound", 1.0, 3.0),
    ],
    "leftover": [*without(Left), Left(0, 0, 1)],
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_broken_promise_is_found(kind: str) -> None:
    """Given a history made to break one promise, expect it to be named, and a good history not to have it."""
    verdict = judged(*BROKEN[kind])

    assert verdict.count(kind) >= 1, verdict.violations
    assert not verdict.holds
    assert judged(*GOOD).count(kind) == 0


def test_the_value_that_does_not_fit_its_fence_counts_as_stale() -> None:
    """Given an outcome that no reader can verify, as a broker without fences would store it, expect it found."""
    unverifiable = Read("a", "reader", "finished", "", "WrongBinding", 2.9, 3.0, 2)
    assert judged(*without(Read), unverifiable).count("stale") == 1


# -- what is no violation ----------------------------------------------------------------------------


def test_a_rerun_after_a_hit_is_explained() -> None:
    """Given an attempt whose supervisor was killed, expect the next one to be counted, and nothing else."""
    verdict = judged(
        *without(Read, Began, Ended),
        began("a", 1, 2.0),
        killed(2.2, 11),
        *ran("a", 2, 4.0, pid=20),
        told("a", 2, 5.0, pid=20),
    )

    assert verdict.holds, verdict.violations
    assert (verdict.extra_runs, verdict.hits, verdict.unexplained) == (1, 1, 0)
    assert verdict.faults == {"kill worker": (1, 1)}


def test_a_rerun_that_nothing_explains_is_counted_and_needs_a_hit_elsewhere() -> None:
    """Given as many hits as reruns, but on other attempts, expect the unexplained ones to be said."""
    verdict = judged(
        *without(Read, Began, Ended),
        began("a", 1, 2.0),
        *ran("a", 2, 4.0, pid=20),
        told("a", 2, 5.0, pid=20),
        Acknowledged(1, "b", "", 1.0),
        *ran("b", 1, 2.0, pid=30, number=1),
        killed(2.05, 30),
        told("b", 1, 5.0, pid=30),
        terms=Terms(calls=2),
    )

    assert verdict.holds, verdict.violations
    assert verdict.unexplained == 1


def numbered(wanted: Behaviour) -> int:
    return next(number for number in range(100) if behaviour(number) is wanted)


def test_an_attempt_that_asked_for_another_is_no_extra_run() -> None:
    number = numbered(Behaviour.RETRY)
    verdict = judged(
        Acknowledged(number, "a", "", 1.0),
        *ran("a", 1, 2.0, how="retry", number=number),
        *ran("a", 2, 4.0, number=number),
        told("a", 2, 5.0),
        terms=Terms(calls=0),
    )

    assert verdict.holds, verdict.violations
    assert (verdict.attempts, verdict.extra_runs) == (2, 0)


def test_a_call_that_was_to_fail_has_to_fail_with_its_own_error() -> None:
    number = numbered(Behaviour.ERROR)
    facts = [Acknowledged(number, "a", "", 1.0), *ran("a", 1, 2.0, how="error", number=number)]

    right = judged(*facts, told("a", 1, 5.0, state="failed"), terms=Terms(calls=0))
    wrong = judged(*facts, told("a", 1, 5.0), terms=Terms(calls=0))

    assert right.holds, right.violations
    assert wrong.count("wrong") == 1


@pytest.mark.parametrize(("kills", "holds"), [(2, False), (3, True)])
def test_a_job_may_fail_for_losses_once_its_budget_is_used_up(kills: int, holds: bool) -> None:
    failed = Read("a", "reader", "failed", "", "WorkerCrashed", 19.0, 20.0)
    verdict = judged(Acknowledged(0, "a", "", 1.0), *reruns(kills), failed)

    assert verdict.holds is holds, verdict.violations


@pytest.mark.parametrize(("kills", "unexplained"), [(2, 1), (3, 0)])
def test_a_job_may_fail_for_lost_leases_that_no_fault_explains_and_is_counted(
    kills: int, unexplained: int
) -> None:
    """Given three attempts without an outcome, some of them hit, expect its failure to be right, and counted."""
    failed = Read("a", "reader", "failed", "", "WorkerCrashed", 29.0, 30.0)
    starved = [began("a", 10 + n, 20.0 + n, pid=500 + 10 * n) for n in range(3 - kills)]
    verdict = judged(Acknowledged(0, "a", "", 1.0), *reruns(kills), *starved, failed)

    assert verdict.holds, verdict.violations
    assert verdict.failed_unexplained == unexplained


@pytest.mark.parametrize(("fence", "holds"), [(2, False), (3, True)])
def test_a_claim_lost_before_its_attempt_began_uses_up_the_budget_too(fence: int, holds: bool) -> None:
    """Given two attempts that were hit, expect the failure to need a third claim, of which nobody saw an attempt."""
    failed = Read("a", "reader", "failed", "", "WorkerCrashed", 19.0, 20.0, fence)
    verdict = judged(Acknowledged(0, "a", "", 1.0), *reruns(2), failed)

    assert verdict.holds is holds, verdict.violations


def test_attempts_hit_before_they_could_be_counted_do_not_use_up_the_budget() -> None:
    """Given six attempts of which one was killed the moment it began, expect five to be counted."""
    early: list[Fact] = [began("a", 9, 1.5, pid=900), killed(1.55, 900)]
    failed = Read("a", "reader", "failed", "", "WorkerCrashed", 19.0, 20.0)

    assert judged(Acknowledged(0, "a", "", 1.0), *early, *reruns(5), failed).count("excess") == 0
    assert judged(Acknowledged(0, "a", "", 1.0), *early, *reruns(6), failed).count("excess") == 1


def test_a_submit_without_a_key_may_be_made_twice() -> None:
    """Given a caller killed after its submit, which it repeats without a key, expect two jobs to be allowed."""
    verdict = judged(
        *without(Acknowledged),
        Acknowledged(0, "a", "", 1.0),
        Acknowledged(0, "b", "", 4.0),
        *ran("b", 1, 5.0, pid=20),
        told("b", 1, 6.0, pid=20),
    )
    assert verdict.holds, verdict.violations


def test_a_key_is_free_once_its_job_has_ended_without_a_value() -> None:
    """Given a job that failed for good, if its call is repeated with its key, expect another job to be allowed."""
    number = numbered(Behaviour.ERROR)
    verdict = judged(
        Acknowledged(number, "a", "key", 1.0),
        *ran("a", 1, 2.0, how="error", number=number),
        told("a", 1, 3.0, state="failed"),
        Acknowledged(number, "b", "key", 4.0),
        *ran("b", 1, 5.0, how="error", number=number, pid=20),
        told("b", 1, 6.0, state="failed", pid=20),
        terms=Terms(calls=0),
    )
    assert verdict.holds, verdict.violations


@pytest.mark.parametrize("again", [False, True])
def test_what_is_to_begin_at_most_once_may_be_lost_and_not_run_again(again: bool) -> None:
    number = numbered(Behaviour.ONCE)
    first = Began("a", number, 1, 1, 10, 11, 2.0)
    if again:
        ending: list[Fact] = [*ran("a", 2, 4.0, pid=20, number=number), told("a", 2, 5.0, pid=20)]
    else:
        ending = [Read("a", "reader", "failed", "", "WorkerCrashed", 4.9, 5.0, 1)]
    verdict = judged(
        Acknowledged(number, "a", "", 1.0), first, killed(2.05, 10), *ending, terms=Terms(calls=0)
    )

    assert verdict.count("excess") == int(again)
    assert verdict.holds is not again, verdict.violations


# -- a broker that comes back empty ------------------------------------------------------------------


def test_what_was_lost_by_a_wipe_is_lost_by_design() -> None:
    """Given a wipe before a job ended, expect it counted apart; its key may stand for another job afterwards."""
    verdict = judged(
        Acknowledged(0, "a", "key", 1.0),
        began("a", 1, 2.0),
        Wiped(2.5),
        seen("a", "", 3.0),
        Read("a", "caller 7", "", "", "BrokerStateLost", 1.5, 3.0),
        Acknowledged(0, "b", "key", 4.0),
        *ran("b", 1, 5.0, pid=20),
        told("b", 1, 6.0, pid=20),
        Healed(HEALED),
    )
    assert verdict.holds, verdict.violations
    assert verdict.lost_by_design == 1


@pytest.mark.parametrize(("at", "holds"), [(0.5, False), (5.0, True)])
def test_what_ended_may_be_gone_only_after_a_wipe(at: float, holds: bool) -> None:
    verdict = judged(*GOOD, Wiped(at), seen("a", "", 9.0))

    assert verdict.holds is holds, verdict.violations


def test_a_wipe_excuses_nothing_that_was_acknowledged_after_it() -> None:
    verdict = judged(Wiped(0.5), Acknowledged(0, "a", "", 1.0), seen("a", "", 5.0))

    assert verdict.count("lost") == 1
    assert verdict.lost_by_design == 0


def test_every_kind_of_violation_has_a_history_that_breaks_it() -> None:
    assert BROKEN.keys() == KINDS.keys()


SCENES: list[Callable[[], Verdict]] = [lambda: judged(*GOOD), lambda: judged(*reruns(2), killed(50.0, 1))]


@pytest.mark.parametrize("scene", SCENES)
def test_hits_by_kind_add_up(scene: Callable[[], Verdict]) -> None:
    verdict = scene()
    assert sum(hits for _, hits in verdict.faults.values()) == verdict.hits
