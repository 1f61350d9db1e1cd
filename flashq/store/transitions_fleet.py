"""One typed function per script about endpoints, workers, autoscalers and hosts. No I/O here (see `command`)."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from flashq.store import replies
from flashq.store.command import Command, Value, number, text
from flashq.store.commands import Commands, flat, written

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from flashq.store.records import Beat, Joined, Led, Observed, Registered, Renewed, Term


class FleetTransitions(Commands):
    """Registered, ordered, joined, drained, gone."""

    # -- endpoints -----------------------------------------------------------------------------------
    def register(
        self,
        endpoint: str,
        *,
        revision: str,
        environment: str,
        resources: str,
        spec: str,
        scaling: str,
        program: str,
        record: bytes,
        key_id: str = "",
        env_tag: str = "",
        env: bytes = b"",
        needs: str = "",
        expected_version: int | None = None,
    ) -> Command[Registered]:
        """Make an endpoint known or bring it up to date; `record`: the revision signed with `key_id`; `env`: sealed.

        `needs`: digest of what a worker takes of its host; '' leaves it unsaid.
        """
        version = "" if expected_version is None else expected_version
        args: tuple[Value, ...]
        args = (
            self._root,
            endpoint,
            version,
            revision,
            environment,
            resources,
            spec,
            scaling,
            program,
            record,
        )
        args = (*args, secrets.token_hex(8), env_tag, env, key_id, needs)
        return Command("register", self.keys.of("endpoint", endpoint), args, replies.registered)

    def scale(self, endpoint: str, before: str, after: str) -> Command[tuple[str, str]]:
        """Set an endpoint's scaling (JSON) in place of what its program says; '': what that says.

        The settings then, after 'ok', 'unknown' or 'moved' (they were not `before`).
        """
        args = (self._root, endpoint, before, after)
        return Command("scale", self.keys.of("endpoint", endpoint), args, replies.words)

    def rollback(self, endpoint: str, revision: str) -> Command[tuple[str, str]]:
        """Back to the code, dependencies and resources of before the last update, while `revision` is current.

        The revision that is current then, after 'ok', 'unknown', 'moved' (another is), 'none' (there was no update), or
        'gone' (the earlier code is kept no longer).
        """
        args = (self._root, endpoint, revision)
        return Command("rollback", self.keys.of("endpoint", endpoint), args, replies.words)

    def epoch(self) -> Command[str]:
        """The name of the broker's data set; '' where nothing was ever registered in it."""
        return Command("epoch", self.keys.of("epoch"), (self._root,), text)

    def key_uses(self, endpoint: str, key_id: str, jobs: Sequence[str]) -> Command[tuple[int, set[str]]]:
        """How many of these jobs bear a call signed with a key, and the revisions of all of them."""
        args = (self._root, key_id, *jobs)
        return Command("key_uses", self.keys.of("endpoint", endpoint), args, replies.key_uses)

    def rekey(
        self,
        endpoint: str,
        revision: str,
        key_id: str,
        *,
        record: bytes = b"",
        env: tuple[bytes, bytes] = (b"", b""),
    ) -> Command[int]:
        """Replace what is under the key `key_id` still: a revision's record, and sealed values (before, after)."""
        args = (self._root, endpoint, revision, key_id, record, *env)
        return Command("rekey", self.keys.of("endpoint", endpoint), args, int)

    def renounce(self, endpoint: str, key_id: str, revisions: Iterable[str]) -> Command[int]:
        """Throw away what a stolen key signed of an endpoint, among these revisions; how much that was."""
        args = (self._root, endpoint, key_id, *revisions)
        return Command("renounce", self.keys.of("endpoint", endpoint), args, int)

    def undeploy(self, endpoint: str) -> Command[str]:
        """'ok', 'unknown' or 'busy'."""
        return Command("undeploy", self.keys.of("endpoint", endpoint), (self._root, endpoint), text)

    def observe(self, endpoint: str, oldest: int = 32) -> Command[Observed]:
        """Everything the autoscaler wants to know of an endpoint, dating the `oldest` waiting jobs."""
        return Command(
            "observe", self.keys.of("endpoint", endpoint), (self._root, endpoint, oldest), replies.observed
        )

    def pause(self, endpoint: str) -> Command[str]:
        """Claim nothing more of it: 'ok' or 'unknown'."""
        return Command("pause", self.keys.of("endpoint", endpoint), (self._root, endpoint), text)

    def resume(self, endpoint: str) -> Command[str]:
        """End a pause: 'ok' or 'unknown'."""
        return Command("resume", self.keys.of("endpoint", endpoint), (self._root, endpoint), text)

    def set_condition(self, endpoint: str, field: str, value: str, event: str, *, term: Term) -> Command[int]:
        """Record `condition` or `withheld` (JSON; '' removes it), with an event unless that is ''.

        Raises (when carried out): Deposed.
        """
        args = (self._root, endpoint, field, value, event, str(term))
        return Command("set_condition", self.keys.of("endpoint", endpoint), args, int)

    # -- workers -------------------------------------------------------------------------------------
    def order(
        self,
        endpoint: str,
        worker: str,
        *,
        host: str,
        revision: str,
        environment: str,
        most: int,
        patience_ms: int,
        command: bytes,
        term: Term,
        fields: Mapping[str, Value],
    ) -> Command[str]:
        """'ok', 'full', 'unknown', 'silent' (the host) or 'held' (a GPU). `command` is the signed word to the host.

        Raises (carried out): Deposed.
        """
        args = (
            self._root,
            endpoint,
            worker,
            host,
            revision,
            environment,
            most,
            patience_ms,
            command,
            str(term),
            *flat(fields),
        )
        return Command("worker_order", self.keys.of("worker", worker), args, text)

    def join(
        self, endpoint: str, worker: str, *, lease_ms: int, booked: bool, fields: Mapping[str, Value]
    ) -> Command[Joined]:
        """A worker reports in."""
        args = (self._root, endpoint, worker, lease_ms, int(booked), *flat(fields))
        return Command("worker_join", self.keys.of("worker", worker), args, replies.joined)

    def ready(self, endpoint: str, worker: str, fields: Mapping[str, Value]) -> Command[str]:
        """'ok' or 'gone'."""
        args = (self._root, endpoint, worker, *flat(fields))
        return Command("worker_ready", self.keys.of("worker", worker), args, lambda r: text(r[1]))

    def renew(
        self,
        endpoint: str,
        worker: str,
        *,
        lease_ms: int,
        jobs: Sequence[tuple[str, int]],
        fields: Mapping[str, Value] | None = None,
    ) -> Command[Renewed]:
        """Heartbeat and leases in one."""
        held = [part for job in jobs for part in job]
        args = (self._root, endpoint, worker, lease_ms, len(jobs), *held, *(flat(fields) if fields else ()))
        return Command("renew", self.keys.of("worker", worker), args, replies.renewed)

    def leave(
        self,
        endpoint: str,
        worker: str,
        why: str,
        *,
        before_ready: bool = False,
        deterministic: bool = False,
        term: Term | None = None,
        host: str = "",
        command: bytes = b"",
    ) -> Command[int]:
        """What it held is recovered. -1 where it had left before, else how many starts in a row would fail again.

        `before_ready`: it failed to start; `deterministic`: and another start would fail the same way. With a
        `host`, that is sent the signed `command`. With a `term`: Deposed where it is over.
        """
        failed = (int(before_ready), int(deterministic))
        args = (self._root, endpoint, worker, why, *failed, written(term), host, command)
        return Command("worker_leave", self.keys.of("worker", worker), args, int)

    def lend(self, endpoint: str, worker: str, *, lends: bool) -> Command[str]:
        """All jobs of a worker wait for what they called, or do so no longer. "ok", or "gone"."""
        args = (self._root, endpoint, worker, int(lends))
        return Command("worker_lend", self.keys.of("worker", worker), args, text)

    def drain(
        self, endpoint: str, worker: str, why: str, *, force: bool = False, term: Term | None = None
    ) -> Command[str]:
        """'ok', 'busy' or 'unknown'. With a `term`: Deposed where it is over."""
        args = (self._root, endpoint, worker, int(force), why, written(term))
        return Command("worker_drain", self.keys.of("worker", worker), args, text)

    # -- autoscalers ---------------------------------------------------------------------------------
    def lead(
        self, holder: str, *, lease_ms: int, fields: Mapping[str, Value], take_over: bool = False
    ) -> Command[Led]:
        """Keep the right to act, or take it where nobody has it (`take_over`: whoever has it)."""
        args = (self._root, holder, lease_ms, int(take_over), *flat(fields))
        return Command("lead", self.keys.of("leader"), args, replies.led)

    def resign(self, holder: str) -> Command[int]:
        """1 where it led; those that stand by are rung for."""
        return Command("resign", self.keys.of("leader"), (self._root, holder), number)

    # -- hosts ---------------------------------------------------------------------------------------
    def host_beat(
        self,
        host: str,
        *,
        lease_ms: int,
        fields: Mapping[str, Value],
        epoch: int = 0,
        refused_epoch: int | None = None,
    ) -> Command[Beat]:
        """A host lives. `epoch`: the newest it was commanded under; `refused_epoch`: of what it refused last."""
        refused = "" if refused_epoch is None else refused_epoch
        args = (self._root, host, lease_ms, epoch, refused, *flat(fields))
        return Command("host_beat", self.keys.of("host", host), args, replies.beat)

    def host_drain(self, host: str, *, drained: bool, why: str = "") -> Command[str]:
        """Give a host no more workers and have those that it has end, or use it again: 'ok' or 'unknown'."""
        return Command("host_drain", self.keys.of("drains"), (self._root, host, int(drained), why), text)

    def gpu_free(self, uuid: str, fence: int, host: str, why: str = "") -> Command[str]:
        """A GPU whose worker has ended is free, or (`why`) kept from everybody: 'ok', 'held' or 'stale'."""
        args = (self._root, uuid, fence, host, why)
        return Command("gpu_free", self.keys.of("gpus"), args, text)

    def host_leave(self, host: str, *, only_overdue: bool = False, term: Term | None = None) -> Command[int]:
        """1 where the host was removed. With a `term`: Deposed where it is over."""
        args = (self._root, host, int(only_overdue), written(term))
        return Command("host_leave", self.keys.of("host", host), args, number)
