"""What is searched: each scope is a cast and the commands that it may send, in every order, to the fixpoint. Pure.

One search of everything would not end; what decides together is searched together. `blind` names what no command
of a scope reads, so that it need not tell states apart.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tests.search import alphabet as a
from tests.search.alphabet import Cast
from tests.search.rules import JOBS, WORKERS

if TYPE_CHECKING:
    from tests.search.alphabet import Action, Step
    from tests.search.view import View

#: Reapers are never away: nothing has to be spared.
ALWAYS_THERE = frozenset({"seen", "spared"})
#: Nobody but flashq writes, and no queue is forgotten.
NO_STRANGERS = frozenset({"deep"})
#: Workers hear of jobs by looking for them, and nobody asks how many they have.
NO_BELLS = frozenset({"bell", "idle", "fq_jobs", "fq_room", "fq_state", "state"})
PLAINLY = ALWAYS_THERE | NO_STRANGERS | NO_BELLS


@dataclass(frozen=True)
class Scope:
    """`letters`: names in alphabet.py. `restarts`: runs may end by a restart, which counts the attempt and no loss."""

    name: str
    cast: Cast
    letters: str
    blind: frozenset[str] = PLAINLY
    before: tuple[Step, ...] = field(default=(a.registration("r1"),))
    restarts: bool = False

    def actions(self, view: View) -> list[Action]:
        """Everything that may be done in this state."""
        return [action for name in self.letters.split() for action in getattr(a, name)(view, self.cast)]

    @property
    def unread(self) -> frozenset[str]:
        """What no command reads. What has ended matters less where nothing begins anew."""
        return self.blind if "requeue" in self.letters else self.blind | {"ended"}

    def of_size(self, jobs: int, workers: int) -> Scope:
        """The same with so many jobs and workers."""
        cast = replace(self.cast, jobs=JOBS[:jobs], workers=WORKERS[:workers])
        return replace(self, cast=cast)


PAIR = Cast(JOBS[:2], WORKERS)

SCOPES = (
    # How a run ends: by its worker, by its loss, by its caller.
    Scope(
        "outcomes",
        PAIR,
        "submit join claim_only claim_and_start start finish release crash cancel leave renew lapse reap",
    ),
    # What may run once, beside what may run again.
    Scope(
        "once",
        replace(PAIR, submissions=(a.PLAIN, a.ONCE)),
        "submit join claim_only start finish crash release give_back leave lapse reap",
    ),
    # A user's exception: tried again at once, or later.
    Scope(
        "retries",
        replace(PAIR, most_losses=1),
        "submit join claim_and_start finish fail retry_now retry_later cancel crash lapse reap",
    ),
    # Every end, and what comes after: the next generation, or nothing.
    Scope(
        "ends",
        replace(PAIR, most_losses=1),
        "submit join claim_and_start finish fail stop time_out cancel requeue delete expire_result watch"
        " requeue_failed purge_failed lapse reap",
    ),
    Scope(
        "delays",
        replace(PAIR, submissions=(a.DELAYED, a.LATER_TIMED)),
        "submit join claim_only start release cancel purge lapse reap",
    ),
    Scope(
        "ttls",
        replace(PAIR, submissions=(a.TIMED, a.QUEUE_TIMED)),
        "submit join claim_only start release requeue fail_waiting lapse reap",
    ),
    # Claimed while its ttl ends, and given back unbegun, behind what has none.
    Scope(
        "unbegun",
        replace(PAIR, submissions=(a.PLAIN, a.TIMED)),
        "submit join claim_only renew release lapse reap",
    ),
    # Jobs that come with the ring of a bell.
    Scope(
        "bells",
        replace(PAIR, takes=True),
        "submit join claim_only claim_again start finish hear recover leave lapse",
        ALWAYS_THERE | NO_STRANGERS,
    ),
    # Workers that are told to go, and orders for new ones.
    Scope(
        "drains",
        PAIR,
        "submit join claim_and_start finish join_late order drain drain_busy drain_deposed leave lapse",
        ALWAYS_THERE | NO_STRANGERS | {"bell"},
        before=(a.registration("r1"), *a.LEADERS),
    ),
    # A worker's step, with places for two.
    Scope("steps", replace(PAIR, capacity=2), "submit join claim_only advance cancel lapse"),
    # Everybody away, and a clock that jumps.
    Scope(
        "silence",
        PAIR,
        "submit join claim_only renew gap set_back lapse reap",
        NO_STRANGERS | NO_BELLS,
    ),
    # The private broker starts again; jobs of before are set aside and come back.
    Scope(
        "restarts",
        replace(PAIR, submissions=(a.PLAIN, a.ONCE)),
        "submit join claim_only claim_and_start finish restart cancel lapse reap",
        restarts=True,
    ),
    Scope(
        "held",
        replace(PAIR, submissions=(a.PLAIN, a.DELAYED, a.TIMED, a.HIGH)),
        "submit hold unhold cancel requeue purge delete lapse reap",
        ALWAYS_THERE | NO_BELLS,
    ),
    # Idempotency keys, bounds, and callers that come late.
    Scope(
        "keys",
        replace(PAIR, submissions=(a.KEYED, a.KEYED_ELSE, a.BOUNDED), most_losses=1),
        "submit submit_late join claim_and_start finish cancel requeue delete expire_result forget_key undeploy deploy"
        " lapse reap",
    ),
    Scope(
        "pauses",
        replace(PAIR, takes=True),
        "submit pause join claim_only hear release undeploy deploy lapse",
        ALWAYS_THERE | NO_STRANGERS,
    ),
    # Queues beside the endpoint's own: of another priority, of an older revision.
    Scope(
        "priorities",
        replace(PAIR, submissions=(a.PLAIN, a.HIGH, a.HIGH_DELAYED)),
        "submit join claim_only release finish cancel delete lapse reap",
        ALWAYS_THERE | NO_BELLS,
    ),
    Scope(
        "revisions",
        replace(PAIR, submissions=(a.PLAIN, a.OLD)),
        "submit join claim_only finish purge delete lapse reap",
        ALWAYS_THERE | NO_BELLS,
        before=(a.registration("r0"), a.registration("r1")),
    ),
)


def scope(name: str) -> Scope:
    """The scope of this name."""
    return next(scope for scope in SCOPES if scope.name == name)
