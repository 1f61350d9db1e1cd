"""The jobs of this process that have not ended: told how they end, and asking where nobody told.

Outcomes are pushed on the client's channel. A push is a hint: what it may have missed is asked for after every
connection made, and every few seconds. Knows nothing of how a call is made: see `submission`.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from flashq import codec, errors, notices
from flashq.ending import verified, verified_value
from flashq.job import Reply
from flashq.model.job_id import kept_s, made_ms, missing
from flashq.model.lifecycle import STATUS, TERMINAL, JobState, Status
from flashq.model.outcome import Ending
from flashq.store.replies import coldness

if TYPE_CHECKING:
    from collections.abc import Callable

    from flashq.client import Client
    from flashq.job import Call
    from flashq.model.durability import Server
    from flashq.model.envelope import Envelope
    from flashq.model.outcome import Failure
    from flashq.store.records import Observed, Watched

log = logging.getLogger("flashq")
CHECK_S = 5.0
_WATCH_AT_ONCE = 100


class Waiting:
    """Completes calls. Every method but `decode` is quick, and may run in the I/O thread."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._calls: dict[str, Call] = {}
        self._epoch = ""
        self._lost_before = 0.0  # jobs submitted before this moment may be gone with the broker's data
        self._server = ""  # the run of the broker's server
        self._another_since = 0.0  # when that was last found to be another

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def calls(self) -> list[Call]:
        """Those that have not ended."""
        return list(self._calls.values())

    # -- from the submitting side --------------------------------------------------------------------
    def add(self, call: Call) -> None:
        """Complete this call when its job ends."""
        self._calls[call.id] = call

    def add_to(self, job_id: str, call: Call) -> None:
        """The call turned out to be of a job that there was already: complete it when that one ends."""
        self._calls.pop(call.id, None)
        call.id = job_id
        call.digest = ""  # what it ends with answers the first call
        self.join(call)

    def join(self, call: Call) -> None:
        """Complete this call of a job that there is, and that others may wait for too."""
        first = self._calls.setdefault(call.id, call)
        if (
            first.generation < call.generation
        ):  # it has not heard of its end, and now follows what was begun anew
            self._calls[call.id] = call
            call.ended.on_done(lambda: first.ended.copy(call.ended))
            first = call
        if first is call:
            self.watch([call.id])
        else:
            first.ended.on_done(lambda: call.ended.copy(first.ended))

    def reject(self, call: Call, error: Exception) -> None:
        """The call was not accepted: there is no job."""
        self._calls.pop(call.id, None)
        call.acknowledged.fail(error)
        call.ended.fail(error)

    def registered_in(self, epoch: str) -> None:
        """An endpoint is on record in the broker's data set of this name."""
        self._epoch = self._epoch or epoch

    # -- pushed --------------------------------------------------------------------------------------
    def on_push(self, message: bytes) -> None:
        """An outcome was pushed: id, state, fence, reason, flags, outcome (see `publish` in basics.lua)."""
        try:
            raw_id, state, fence, reason, flags, outcome = message.split(b"\n", 5)
            inline, noted = flags[:1], flags[1:].rstrip(b"0123456789")
            generation = int(flags[1 + len(noted) :] or 0)
            ending = Ending(JobState(state.decode()), int(fence), reason.decode(), "", outcome, generation)
            call = self._calls.get(raw_id.decode())
        except ValueError:  # anybody with access to the broker can publish anything
            log.warning("flashq: a message that is no outcome was passed over")
            return
        if call is None or generation < call.generation:  # late news of what has been begun anew since
            return
        if inline != b"1" or (state != b"finished" and not outcome):
            told = inline == b"1" or state == b"finished"  # all that there is to know but a text, or a value
            self.watch([call.id], ending if told else None)
            return
        if call.cold is None:
            call.cold = bool(coldness(noted))  # of what was found idle for, nothing is noted
        self._end(call, ending)

    def _end(self, call: Call, ending: Ending) -> None:
        self._calls.pop(call.id, None)
        call.keys = self._client.keyring.snapshot()
        call.acknowledged.set(None)
        call.ended.set(ending)

    # -- asked for -----------------------------------------------------------------------------------
    def watch(self, job_ids: list[str], news: Ending | None = None) -> None:
        """Ask how these jobs stand, and to be told when they end. `news`: how they did, should they be gone by then."""

        def told(rows: list[Watched] | None, error: Exception | None) -> None:
            if rows is None:
                self._unwatched(job_ids, error)
                return
            for job_id, row in zip(job_ids, rows, strict=True):
                self._learn(job_id, row, news)

        self._client.send(self._client.transitions.watch(job_ids, self._client.channel), told)

    def _unwatched(self, job_ids: list[str], error: Exception | None) -> None:
        """The broker has been unreachable for longer than our patience: say so to whoever waits."""
        for job_id in job_ids:
            call = self._calls.pop(job_id, None)
            if call is not None:
                call.ended.fail(error or errors.BrokerError("no answer"))

    def _learn(self, job_id: str, row: Watched, news: Ending | None) -> None:
        call = self._calls.get(job_id)
        if call is None:
            return
        call.cold = row.cold if call.cold is None else call.cold
        if row.state is None and news is not None:
            self._end(call, news)
        elif row.state is None:
            self._calls.pop(job_id, None)
            self.explain_absence(call, call.ended.fail)
        elif row.state in TERMINAL:
            ending = Ending(row.state, row.fence, row.reason, row.text, row.outcome, row.generation)
            self._end(call, ending)

    def explain_absence(self, call: Call, tell: Callable[[Exception], None]) -> None:
        """Find out why the broker does not have this job, and tell."""
        if call.submitted_at < self._lost_before:
            tell(errors.BrokerStateLost(f"the broker came back without job {call.id}; submit it again"))
            return
        age_s = time.monotonic() - call.submitted_at
        if (made := made_ms(call.id)) is not None:
            age_s = max(age_s, (self._client.now_ms() - made) / 1000)

        def conclude(keep_s: float | None) -> None:
            why: errors.FlashqError = missing(call.id, keep_s, age_s)
            if isinstance(why, errors.JobNotFound) and call.submitted_at < self._another_since:
                why = errors.BrokerStateLost(
                    f"the broker was restarted, or another took its place, and is without job {call.id}: it was lost"
                    " (or deleted)"
                )
            tell(why)

        def answered(seen: Observed | None, error: Exception | None) -> None:
            if seen is None:
                tell(error or errors.BrokerError("no answer"))
            else:
                conclude(kept_s(seen.record.get("spec", "")))

        if call.keep_s:
            conclude(call.keep_s)
        else:
            self._client.send(self._client.transitions.observe(call.endpoint, oldest=0), answered)

    def status(self, call: Call) -> Reply[Status]:
        """How the job stands now."""
        reply: Reply[Status] = Reply()

        def told(rows: list[Watched] | None, error: Exception | None) -> None:
            if rows is None:
                reply.fail(error or errors.BrokerError("no answer"))
            elif (state := rows[0].state) is None:
                self.explain_absence(call, reply.fail)
            else:
                call.cold = rows[0].cold if call.cold is None else call.cold
                reply.set(STATUS[state])

        self._client.send(self._client.transitions.watch([call.id]), told)
        return reply

    # -- as the connection comes and goes ------------------------------------------------------------
    def on_connect(self, server: Server) -> None:
        """A connection was made (again): ask whether it is still the same data, and for what we wait for."""
        if self._server and server.run_id != self._server:
            self._another_since = time.monotonic()
        self._server = server.run_id
        self._check(self._of_age(0.0))

    def _check(self, job_ids: list[str]) -> None:
        """Ask how these jobs stand; before that, whether the data are those that they were submitted to."""
        if self._epoch:
            self._client.send(self._client.transitions.epoch(), self._on_epoch)
        for start in range(0, len(job_ids), _WATCH_AT_ONCE):
            self.watch(job_ids[start : start + _WATCH_AT_ONCE])

    def _on_epoch(self, epoch: str | None, error: Exception | None) -> None:
        if error is None and epoch != self._epoch:
            self._lost_before = time.monotonic()
            self._epoch = epoch or ""
            self._client.submission.forget_registered()

    def on_lost(self, error: Exception) -> None:
        """The broker has been away for longer than our patience: say so to whoever waits. The jobs may go on."""
        calls = self.calls
        self._calls.clear()
        for call in calls:
            call.acknowledged.fail(error)
            call.ended.fail(error)

    def on_tick(self) -> None:
        """Every few seconds: what a push may have missed, and whether callers should be told why they wait."""
        waiting = self._of_age(CHECK_S)
        if waiting:
            self._check(waiting)
        for endpoint in {self._calls[j].endpoint for j in waiting if j in self._calls}:
            notices.explain_wait(self._client, endpoint)

    def _of_age(self, least_s: float) -> list[str]:
        edge = time.monotonic() - least_s
        calls = list(self._calls.items())
        return [i for i, c in calls if c.acknowledged.done and c.submitted_at <= edge]

    # -- decoding ------------------------------------------------------------------------------------
    def decode(self, call: Call, ending: Ending) -> Any:
        """The value of an ended job; or raises why there is none. Verifies before it unpickles."""
        return codec.load_value(self.opened(call, ending))

    def verified(self, call: Call, ending: Ending) -> Envelope | Failure:
        """The verified outcome of an ended job, or why it has no value; nothing is unpickled. Raises FlashqError."""
        keys = call.keys or self._client.keyring
        return verified(ending, keys, endpoint=call.endpoint, job=call.id, call_digest=call.digest)

    def opened(self, call: Call, ending: Ending) -> Envelope:
        """The verified outcome of an ended job; or raises why it has no value."""
        keys = call.keys or self._client.keyring
        return verified_value(ending, keys, endpoint=call.endpoint, job=call.id, call_digest=call.digest)
