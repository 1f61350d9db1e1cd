"""Whether a history of faults keeps flashq's promises: what was lost, accepted from a stale attempt, or changed.

Every violation has a kind of `KINDS` and names the job. An attempt is meant to be followed by another only where a
fault hit its process, or where it asked for it; but execution is at least once, and a machine too busy to renew a lease
in time has its jobs run again too: so reruns that no fault explains are counted, and the promise is that there are no
more reruns than hits. Pure: the history is all it knows.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from flashq.errors import BrokerStateLost
from flashq.model.lifecycle import TERMINAL, JobState
from flashq.verify.history import token
from flashq.verify.workload import Behaviour, behaviour

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from flashq.verify.history import Acknowledged, Began, Ended, Fault, History, Read

KINDS = {
    "lost": "acknowledged, and gone without having ended",
    "unfinished": "acknowledged, and not ended when the campaign was",
    "late": "ended longer after the last fault than allowed",
    "unaccepted": "a call that was never acknowledged, though its caller went on trying",
    "doubled": "one idempotency key stands for several jobs",
    "stale": "the outcome of an attempt was accepted though a newer one had begun",
    "changed": "two readers were told different endings",
    "contradicted": "told as ended, and later as not ended",
    "foreign": "a value that no attempt of this job returned",
    "wrong": "it ended otherwise than its function had to end",
    "refenced": "two attempts had one fence",
    "revived": "an attempt began under a newer fence than the one that it ended with",
    "reruns": "more attempts were repeated than faults hit",
    "excess": "run more often than its budgets allow",
    "untold": "lost with the broker's data, and its caller was told something else than BrokerStateLost",
    "leftover": "the broker still counts work that is over",
}
"""Each kind of violation, and what it means."""

_SOON_S = 0.15
"""An attempt hit this soon after its begin may not have been counted yet."""
_ENDINGS = frozenset(state.value for state in TERMINAL)


@dataclass(frozen=True, slots=True)
class Terms:
    """What was promised in this campaign."""

    calls: int
    max_losses: int = 3
    retries: int = 2
    settle_s: float = 30.0
    """Everything has ended so long after the last fault."""


class Violation(NamedTuple):
    """A promise broken."""

    kind: str
    subject: str
    """A job's id, or what else it is about."""
    text: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a history amounts to."""

    violations: tuple[Violation, ...]
    jobs: int
    attempts: int
    extra_runs: int
    """Attempts beyond the first of each job, but for those it asked for."""
    unexplained: int
    """Of these, how many follow on an attempt that no fault hit."""
    failed_unexplained: int
    """Jobs that failed with their budget used up, though fewer of their attempts were hit than it allows."""
    hits: int
    """(fault, attempt under way) pairs."""
    refused: int
    """Submits answered with an error, and tried again."""
    lost_by_design: int
    """Acknowledged before the broker came back empty, and not ended by then."""
    settled_s: float | None
    """From the last fault to the last ending; None where not all ended."""
    faults: Mapping[str, tuple[int, int]]
    """By kind: how many, and how many attempts under way they hit."""
    missed: int
    """Faults that found nothing to befall."""

    def count(self, kind: str) -> int:
        """How many violations of one kind."""
        return sum(violation.kind == kind for violation in self.violations)

    @property
    def holds(self) -> bool:
        """Whether every promise was kept."""
        return not self.violations


@dataclass(slots=True)
class _Job:
    """What is known of one job."""

    id: str
    acknowledged: list[Acknowledged] = field(default_factory=list)
    runs: list[Began] = field(default_factory=list)
    ended: dict[tuple[int, int], Ended] = field(default_factory=dict)
    reads: list[Read] = field(default_factory=list)

    @property
    def number(self) -> int:
        return self.acknowledged[0].number if self.acknowledged else self.runs[0].number

    @property
    def endings(self) -> list[Read]:
        return [read for read in self.reads if read.state in _ENDINGS]

    @property
    def first_told(self) -> float:
        """When its ending was first told; infinity where it never was."""
        return min((read.told for read in self.endings), default=float("inf"))

    def end_of(self, run: Began) -> Ended | None:
        return self.ended.get((run.fence, run.pid))

    @property
    def asked_again(self) -> int:
        """How many attempts asked for another one, by an error that is retried."""
        return sum((ended := self.end_of(run)) is not None and ended.how == "retry" for run in self.runs)

    @property
    def repeated(self) -> int:
        """How many attempts came after another that had not asked for it."""
        return max(0, len(self.runs) - 1 - self.asked_again)

    def closed(self, index: int) -> float:
        """Until when run number `index` was surely of no consequence to anybody else."""
        following = [run.at for run in self.runs[index + 1 : index + 2]]
        return min([*following, self.first_told])


class _Checker:
    def __init__(self, history: History, terms: Terms) -> None:
        self.history, self.terms = history, terms
        self.violations: list[Violation] = []
        self.unexplained = 0
        self.failed_unexplained = 0

    def say(self, kind: str, subject: str, text: str) -> None:
        assert kind in KINDS
        self.violations.append(Violation(kind, subject, text))

    @cached_property
    def jobs(self) -> dict[str, _Job]:
        made: dict[str, _Job] = {}

        def job(name: str) -> _Job:
            return made.setdefault(name, _Job(name))

        for acknowledged in self.history.acknowledged:
            job(acknowledged.job).acknowledged.append(acknowledged)
        for began in self.history.began:
            job(began.job).runs.append(began)
        for ended in self.history.ended:
            job(ended.job).ended[ended.fence, ended.pid] = ended
        for read in self.history.reads:
            job(read.job).reads.append(read)
        return made

    # -- faults --------------------------------------------------------------------------------------
    @cached_property
    def _by_pid(self) -> Mapping[int, Sequence[Fault]]:
        found: defaultdict[int, list[Fault]] = defaultdict(list)
        for fault in self.history.faults:
            for pid in fault.pids:
                found[pid].append(fault)
        return found

    @cached_property
    def _for_all(self) -> Sequence[Fault]:
        return [fault for fault in self.history.faults if fault.everybody]

    def hits(self, run: Began, until: float) -> Iterator[Fault]:
        """The faults that hit an attempt's process or supervisor between its begin and `until`."""
        candidates = [*self._by_pid.get(run.pid, ()), *self._by_pid.get(run.parent, ()), *self._for_all]
        seen: set[int] = set()
        for fault in candidates:
            if fault.at <= until and fault.until >= run.at and id(fault) not in seen:
                seen.add(id(fault))
                yield fault

    def wiped_after(self, at: float) -> float | None:
        """When the broker next came back empty."""
        return next((wiped.at for wiped in self.history.wiped if wiped.at >= at), None)

    # -- one job -------------------------------------------------------------------------------------
    def excused(self, job: _Job) -> bool:
        """Whether the broker came back empty before it ended: then it is lost, and nobody promised otherwise."""
        if not self.history.wiped:
            return False
        known = job.acknowledged[0].at if job.acknowledged else job.runs[0].at
        wiped = self.wiped_after(known)
        return wiped is not None and job.first_told > wiped

    def check(self, job: _Job) -> None:
        if not self.excused(job):
            self._ending(job)
        else:
            self._told_of_loss(job)
        self._readers(job)
        self._accepted(job)
        self._runs(job)

    def _ending(self, job: _Job) -> None:
        if not job.acknowledged:
            return
        if not job.endings:
            last = job.reads[-1] if job.reads else None
            gone = last is None or not last.state
            seen = "nobody ever saw it" if last is None else f"last seen {last.state or 'absent'}"
            self.say("lost" if gone else "unfinished", job.id, seen)
            return
        healed = self.history.healed
        if healed is not None and job.first_told > healed.at + self.terms.settle_s:
            self.say("late", job.id, f"ended {job.first_told - healed.at:.1f} s after the last fault")
        self._expected(job)

    def _told_of_loss(self, job: _Job) -> None:
        told = {read.problem for read in job.reads if read.problem and not read.state}
        if told - {BrokerStateLost.__name__}:
            self.say("untold", job.id, f"its caller was told {', '.join(sorted(told))}")

    def _expected(self, job: _Job) -> None:
        read = job.endings[0]
        wanted = behaviour(job.number)
        if wanted is Behaviour.ERROR:
            right = read.state == JobState.FAILED and bool(read.value)
        else:
            right = read.state == JobState.FINISHED and bool(read.value)
        if right:
            return
        lost = len(job.runs) - job.asked_again
        # Claims of which no attempt is known: killed after the broker was told of its begin, and before it began.
        unseen = max(0, max(ending.fence for ending in job.endings) - len({run.fence for run in job.runs}))
        most = 1 if wanted is Behaviour.ONCE else self.terms.max_losses
        if read.state == JobState.FAILED and not read.value and lost + unseen >= most:
            # A budget used up. Deliveries are bounded, and one whose lease ran out counts, whatever the reason: a
            # worker that got no CPU for a lease is as lost as one that was killed. So a job may end like this though
            # no fault hit it. It is not lost, since its caller is told; how many did is said beside the promises.
            hit = sum(any(self.hits(run, job.closed(at))) for at, run in enumerate(job.runs))
            self.failed_unexplained += hit + unseen < most
            return
        told = f"{read.state} {read.problem}".strip()
        text = (
            f"meant to end with {wanted}, ended {told} after {lost} attempts, and {unseen} that were not seen"
        )
        self.say("wrong", job.id, text)

    def _readers(self, job: _Job) -> None:
        endings = {(read.state, read.value) for read in job.endings}
        if len(endings) > 1:
            self.say("changed", job.id, " and ".join(sorted(f"{state} {value}" for state, value in endings)))
        for read in job.reads:
            if read.state not in _ENDINGS and read.asked > job.first_told and not self._vanished(job, read):
                when = f"{read.asked - job.first_told:.3f} s after its ending was told"
                self.say("contradicted", job.id, f"{read.state or 'absent'} {when}, to {read.by}")
                return

    def _vanished(self, job: _Job, read: Read) -> bool:
        """Whether a wipe explains that an ended job is not there any more."""
        wiped = self.wiped_after(job.first_told)
        return not read.state and wiped is not None and wiped <= read.told

    def _accepted(self, job: _Job) -> None:
        newest = max((run.fence for run in job.runs), default=0)
        for value in {read.value for read in job.endings if read.value}:
            run = next((run for run in job.runs if token(run.job, run.fence, run.pid) == value), None)
            if run is None:
                self.say("foreign", job.id, f"{value!r} is of none of its {len(job.runs)} attempts")
            elif run.fence != newest:
                self.say("stale", job.id, f"fence {run.fence} was accepted, {newest} had begun")
        told = max((read.fence for read in job.endings), default=0)
        for read in job.endings:
            if read.fence and read.state == JobState.FINISHED and not read.value:
                self.say("stale", job.id, f"ended under fence {read.fence} with {read.problem or 'nothing'}")
                break
        if told and newest > told:
            self.say("revived", job.id, f"ended under fence {told}, and began under {newest}")

    def _runs(self, job: _Job) -> None:
        uses = Counter(run.fence for run in job.runs)
        for fence, times in uses.items():
            if times > 1:
                self.say("refenced", job.id, f"{times} attempts under fence {fence}")
        uncounted = 0
        for index, run in enumerate(job.runs):
            ended = job.end_of(run)
            asked = ended is not None and ended.how == "retry"
            uncounted += not asked and any(self.hits(run, run.at + _SOON_S))
            last = index == len(job.runs) - 1
            self.unexplained += not (last or asked or any(self.hits(run, job.closed(index))))
        most = self.terms.max_losses + self.terms.retries
        if behaviour(job.number) is Behaviour.ONCE:
            most, uncounted = 1, 0
        if len(job.runs) > most + uncounted:
            text = (
                f"{len(job.runs)} attempts, {uncounted} of them perhaps uncounted, and at most {most} allowed"
            )
            self.say("excess", job.id, text)

    # -- all together --------------------------------------------------------------------------------
    def check_keys(self) -> None:
        """One key, one job; and every call got in."""
        by_key: defaultdict[str, list[Acknowledged]] = defaultdict(list)
        for fact in self.history.acknowledged:
            if fact.key:
                by_key[fact.key].append(fact)
        for key, facts in by_key.items():
            for before, after in pairwise(facts):
                wiped = self.wiped_after(before.at)
                free = self._valueless(before.job) or (wiped is not None and wiped <= after.at)
                if before.job != after.job and not free:
                    self.say("doubled", key, f"{before.job} and {after.job}")
        missing = set(range(self.terms.calls)) - {fact.number for fact in self.history.acknowledged}
        for number in sorted(missing):
            self.say("unaccepted", f"call {number}", "never acknowledged")

    def _valueless(self, job: str) -> bool:
        """Whether it ended without a value: then its key is free for another job."""
        endings = self.jobs[job].endings
        return bool(endings) and all(read.state != JobState.FINISHED for read in endings)

    def check_left(self) -> None:
        left = self.history.left
        if left is not None and (left.queued or left.scheduled or left.leased):
            counts = f"{left.queued} queued, {left.scheduled} scheduled, {left.leased} leased"
            self.say("leftover", "the endpoint", counts)

    def verdict(self) -> Verdict:
        for job in self.jobs.values():
            self.check(job)
        self.check_keys()
        self.check_left()
        acknowledged = [job for job in self.jobs.values() if job.acknowledged]
        hit: Counter[int] = Counter()
        for job in self.jobs.values():
            for index, run in enumerate(job.runs):
                hit.update(id(fault) for fault in self.hits(run, job.closed(index)))
        extra = sum(job.repeated for job in self.jobs.values())
        if extra > hit.total():
            self.say("reruns", "all jobs", f"{extra} attempts repeated, {hit.total()} hits")
        kinds = Counter(fault.kind for fault in self.history.faults if not fault.missed)
        by_kind = {
            kind: (count, sum(hit[id(f)] for f in self.history.faults if f.kind == kind))
            for kind, count in sorted(kinds.items())
        }
        return Verdict(
            violations=tuple(self.violations),
            jobs=len(acknowledged),
            attempts=len(self.history.began),
            extra_runs=extra,
            unexplained=self.unexplained,
            failed_unexplained=self.failed_unexplained,
            hits=hit.total(),
            refused=len(self.history.refused),
            lost_by_design=sum(self.excused(job) for job in acknowledged),
            settled_s=self._settled(acknowledged),
            faults=by_kind,
            missed=sum(fault.missed for fault in self.history.faults),
        )

    def _settled(self, jobs: Iterable[_Job]) -> float | None:
        if self.history.healed is None:
            return None
        last = max((job.first_told for job in jobs if not self.excused(job)), default=self.history.healed.at)
        return None if last == float("inf") else max(0.0, last - self.history.healed.at)


def check(history: History, terms: Terms) -> Verdict:
    """Judge a campaign by its history."""
    return _Checker(history, terms).verdict()
