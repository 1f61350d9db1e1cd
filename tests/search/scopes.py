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
    """`letters`: names in alphabet.py. `restarts`: runs may end by a restart, which counts the attempt and no loss.

    `every_time`: searched by `make test`; the others take longer, and are for `make verify`.
    """

    name: str
    about: str
    cast: Cast
    letters: str
    blind: frozenset[str] = PLAINLY
    before: tuple[Step, ...] = field(default=(a.registration("r1"),))
    restarts: bool = False
    every_time: bool = False

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
TRIPLE = Cast(JOBS, WORKERS, most_losses=1)

SCOPES = (
    Scope(
        "outcomes",
        "how a run ends: by its worker, by its loss, by its caller",
        PAIR,
        "submit join claim_only claim_and_start start finish release crash cancel leave renew lapse reap",
        every_time=True,
    ),
    Scope(
        "once",
        "what may run once, beside what may run again",
        replace(PAIR, submissions=(a.PLAIN, a.ONCE)),
        "submit join claim_only start finish crash release give_back leave lapse reap",
        every_time=True,
    ),
    Scope(
        "retries",
        "a user's exception: tried again at once, or later",
        replace(PAIR, most_losses=1),
        "submit join claim_and_start finish fail retry_now retry_later cancel crash lapse reap",
        every_time=True,
    ),
    Scope(
        "ends",
        "every end, and what comes after: the next generation, or nothing",
        replace(PAIR, most_losses=1),
        "submit join claim_and_start finish fail stop time_out cancel requeue delete expire_result watch"
        " requeue_failed purge_failed lapse reap",
        every_time=True,
    ),
    Scope(
        "delays",
        "jobs for later, with and without a ttl",
        replace(PAIR, submissions=(a.DELAYED, a.LATER_TIMED)),
        "submit join claim_only start release cancel purge lapse reap",
    ),
    Scope(
        "ttls",
        "ttls of a job's own and of its endpoint",
        replace(PAIR, submissions=(a.TIMED, a.QUEUE_TIMED)),
        "submit join claim_only start release requeue fail_waiting lapse reap",
    ),
    Scope(
        "unbegun",
        "claimed while its ttl ends, given back unbegun, behind what has no ttl",
        replace(PAIR, submissions=(a.PLAIN, a.TIMED)),
        "submit join claim_only renew release lapse reap",
    ),
    Scope(
        "bells",
        "jobs that come with the ring of a bell",
        replace(PAIR, takes=True),
        "submit join claim_only claim_again start finish hear recover leave lapse",
        ALWAYS_THERE | NO_STRANGERS,
        every_time=True,
    ),
    Scope(
        "drains",
        "workers that are told to go, and orders for new ones, also by who led before",
        PAIR,
        "submit join claim_and_start finish join_late order drain drain_busy drain_deposed leave lapse",
        ALWAYS_THERE | NO_STRANGERS | {"bell"},
        before=(a.registration("r1"), *a.LEADERS),
    ),
    Scope(
        "steps",
        "a worker's step (ends, begins and claims at once), with places for two",
        replace(PAIR, capacity=2),
        "submit join claim_only advance cancel lapse",
    ),
    Scope(
        "silence",
        "everybody away, and a clock that jumps",
        PAIR,
        "submit join claim_only renew gap set_back lapse reap",
        NO_STRANGERS | NO_BELLS,
        every_time=True,
    ),
    Scope(
        "restarts",
        "the private broker starts again under runs",
        replace(PAIR, submissions=(a.PLAIN, a.ONCE)),
        "submit join claim_only claim_and_start finish restart cancel lapse reap",
        restarts=True,
    ),
    Scope(
        "held",
        "jobs of before are set aside and come back",
        replace(PAIR, submissions=(a.PLAIN, a.DELAYED, a.TIMED, a.HIGH)),
        "submit hold unhold cancel requeue purge delete lapse reap",
        ALWAYS_THERE | NO_BELLS,
    ),
    Scope(
        "keys",
        "idempotency keys, bounds, callers that come late, an endpoint that goes and comes",
        replace(PAIR, submissions=(a.KEYED, a.KEYED_ELSE, a.BOUNDED), most_losses=1),
        "submit submit_late join claim_and_start finish cancel requeue delete expire_result forget_key undeploy deploy"
        " lapse reap",
    ),
    Scope(
        "pauses",
        "pause and resume, and an endpoint that goes and comes",
        replace(PAIR, takes=True),
        "submit pause join claim_only hear release undeploy deploy lapse",
        ALWAYS_THERE | NO_STRANGERS,
        every_time=True,
    ),
    Scope(
        "priorities",
        "queues beside the endpoint's own, of another priority",
        replace(PAIR, submissions=(a.PLAIN, a.HIGH, a.HIGH_DELAYED)),
        "submit join claim_only release finish cancel delete lapse reap",
        ALWAYS_THERE | NO_BELLS,
    ),
    Scope(
        "revisions",
        "a queue of an older revision beside the newest",
        replace(PAIR, submissions=(a.PLAIN, a.OLD)),
        "submit join claim_only finish purge delete lapse reap",
        ALWAYS_THERE | NO_BELLS,
        before=(a.registration("r0"), a.registration("r1")),
    ),
)


def _three(name: str) -> Scope:
    """The scope of this name with three jobs, each of which one loss ends."""
    pair = next(scope for scope in SCOPES if scope.name == name)
    cast = replace(pair.cast, jobs=JOBS, most_losses=1)
    return replace(pair, name=f"three {name}", about=f"all of `{name}`", cast=cast, every_time=False)


#: With three jobs: whole scopes, as far as they end within minutes, and smaller alphabets.
LARGE = (
    *map(_three, ("outcomes", "once", "retries", "bells", "unbegun", "pauses", "silence")),
    Scope(
        "three begin anew",
        "ends, and the next generation",
        TRIPLE,
        "submit join claim_and_start finish fail cancel requeue delete lapse",
    ),
    Scope(
        "three ring",
        "jobs that come with the ring of a bell, while endpoints are paused",
        replace(TRIPLE, takes=True),
        "submit pause join claim_only hear leave lapse",
        ALWAYS_THERE | NO_STRANGERS,
    ),
    Scope(
        "three expire",
        "jobs of the endpoint's ttl, of their own, and without one",
        replace(TRIPLE, submissions=(a.PLAIN, a.TIMED, a.QUEUE_TIMED)),
        "submit join claim_only release lapse reap",
    ),
)


def scope(name: str) -> Scope:
    """The scope of this name."""
    return next(scope for scope in (*SCOPES, *LARGE) if scope.name == name)
