"""An artifact becomes endpoints: stored, prepared on the hosts, then current.

An endpoint's revision becomes current only when at least one host has everything that it needs, so that nothing is
installed when a request comes. Until then what was deployed before serves on, and stays if anything fails. One deploy
at a time of an app to an environment; a claim that its holder no longer renews ends by itself.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import secrets
import socket
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from flashq import codec
from flashq.apps import records, storage
from flashq.apps.located import Located
from flashq.errors import DeployError, EnvelopeError
from flashq.model import host_command
from flashq.model.envelope import Header, open_sealed, seal
from flashq.model.host_command import PrepareRevision
from flashq.model.keyring import Direction
from flashq.model.spec import canonical_json
from flashq.store.command import text
from flashq.store.queries_fleet import hosts, now_ms

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from flashq.apps.manifest import BuiltEndpoint, Manifest
    from flashq.model.envelope import RootKeys
    from flashq.store.broker import Broker
    from flashq.store.queries_fleet import ListedHost

_CLAIM_MS = 30_000
_LOOK_S = 0.1
_REPORT_S = 600.0
_SILENT_S = 3.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a deploy has done."""

    record: records.DeployedApp
    verdicts: Mapping[str, str]
    """Endpoint → created, reused, scaled, code or replaced."""
    ready: Mapping[str, tuple[str, ...]]
    """Endpoint → hosts that had it ready when it became current."""
    removed: tuple[str, ...]
    """Endpoints that the app has no longer, and that were undeployed."""
    kept: tuple[str, ...]
    """Those that could not be: jobs wait for them, or run."""


@dataclass(frozen=True, slots=True)
class _Signed:
    """One endpoint's revision, ready for the broker."""

    name: str
    revision: str
    record: bytes
    built: BuiltEndpoint
    environment: str
    resources: str
    public: str
    scaling: str
    env_tag: str
    env: bytes


@dataclass(slots=True)
class Deploy:
    """One deploy. `say`: takes a line for people at each step; `timeout_s`: for hosts to be ready."""

    broker: Broker
    keys: RootKeys
    manifest: Manifest
    artifact: Path
    env: Mapping[str, Mapping[str, str]]
    environment: str = records.DEFAULT
    timeout_s: float = _REPORT_S
    say: Callable[[str], None] = lambda _: None
    _token: str = field(
        default_factory=lambda: f"{socket.gethostname()}:{os.getpid()} {secrets.token_hex(8)}"
    )

    def run(self) -> Outcome:
        """Raises: DeployError, with the reason; BrokerError; OSError. What was deployed before then stays as it is."""
        records.check_environment(self.environment)
        names = {one.name: records.name_in(self.environment, one.name) for one in self.manifest.endpoints}
        self._claim()
        try:
            self._refuse_others(names)
            size = self.artifact.stat().st_size
            self.say(f"storing the artifact ({size / 2**20:.1f} MiB)")
            storage.store(self.broker, self.artifact, self.manifest.digest, lambda _: self._renew())
            signed = self._signed(names)
            ready = self._prepared(signed)
            return self._switched(signed, names, ready, size)
        finally:
            self._let_go()

    # -- one at a time -------------------------------------------------------------------------------
    @property
    def _claim_key(self) -> str:
        return self.broker.keys.of("deploying", f"{self.manifest.app}/{self.environment}")

    def _claim(self) -> None:
        if self.broker.execute("SET", self._claim_key, self._token, "NX", "PX", _CLAIM_MS) is not None:
            return
        holder = text(self.broker.execute("GET", self._claim_key) or b"")
        if holder == self._token:  # ours: the answer to it was lost
            return
        who = holder.partition(" ")[0] or "somebody"
        raise DeployError(
            f"{who} deploys {self.manifest.app} to {self.environment} at this moment; if that was killed, its claim"
            f" ends within {_CLAIM_MS // 1000} s"
        )

    def _renew(self) -> None:
        """Raises DeployError where the claim is another's by now."""
        held = text(self.broker.execute("GET", self._claim_key) or b"")
        lapsed = ("NX",) if not held else ()  # one that begins at this moment may be faster
        if (
            held not in ("", self._token)
            or self.broker.execute("SET", self._claim_key, self._token, *lapsed, "PX", _CLAIM_MS) is None
        ):
            raise DeployError(f"this deploy was silent for {_CLAIM_MS // 1000} s, and another one has begun")

    def _let_go(self) -> None:
        if text(self.broker.execute("GET", self._claim_key) or b"") == self._token:
            self.broker.execute("DEL", self._claim_key)

    def _refuse_others(self, names: Mapping[str, str]) -> None:
        """Raises DeployError where an endpoint of one of these names is another app's."""
        for other in records.deployed(self.broker):
            same = (other.app, other.environment) == (self.manifest.app, self.environment)
            taken = set(other.endpoints.values()) & set(names.values())
            if taken and not same:
                raise DeployError(
                    f"the endpoint {min(taken)!r} is app {other.app!r}'s, in {other.environment}: give it another name,"
                    " or undeploy that"
                )

    # -- what is signed ------------------------------------------------------------------------------
    def _signed(self, names: Mapping[str, str]) -> list[_Signed]:
        digests = {one.name: self._digest(one, names) for one in self.manifest.endpoints}
        renamed = {own: name for own, name in names.items() if own != name}
        calls = {names[own]: digest for own, digest in digests.items()}
        return [
            self._seal(one, names[one.name], digests[one.name], calls, renamed)
            for one in self.manifest.endpoints
        ]

    def _digest(self, one: BuiltEndpoint, names: Mapping[str, str]) -> str:
        parts = (
            self.manifest.digest,
            names[one.name],
            one.module,
            one.attribute,
            one.environment,
            *sorted(names.values()),
        )
        return hashlib.sha256("\0".join(("flashq/app-revision/1", *parts)).encode()).hexdigest()

    def _found(self, one: BuiltEndpoint, renamed: Mapping[str, str]) -> object:
        if one.serves:  # flashq's own: its image is all that there is
            from flashq.image_server import serve

            return serve
        return Located((one.module, *one.beside), one.attribute, self.manifest.roots, renamed)

    def _seal(
        self,
        one: BuiltEndpoint,
        name: str,
        digest: str,
        calls: Mapping[str, str],
        renamed: Mapping[str, str],
    ) -> _Signed:
        public = {**one.public, "name": name}
        environment = self.manifest.environments[one.environment]
        revision = codec.Revision(
            function=codec.dump_function_at(self._found(one, renamed)),
            qualname=one.qualname,
            mode=one.mode,
            targets=one.targets,
            batch_ms=one.batch_ms,
            python=environment.python,
            dependencies=(),
            concurrency=one.concurrency,
            environment=one.environment,
            spec=canonical_json(public),
            calls={**dict.fromkeys(one.calls_by_name, ""), **calls},
            process=public.get("process", {}),
            schemas=one.schemas,
            types=bytes.fromhex(one.types),
            artifact=self.manifest.digest,
            serves=one.serves,
        )
        header = Header(
            direction=Direction.REVISION,
            endpoint=name,
            revision=digest,
            python=environment.python,
            cloudpickle=codec.cloudpickle_version(),
        )
        values = self.env.get(one.name, {})
        return _Signed(
            name=name,
            revision=digest,
            record=seal(header, revision.pack(), self.keys),
            built=one,
            environment=one.environment,
            # Another revision is another environment: workers are replaced a few at a time, those before serve on.
            resources=hashlib.sha256(f"flashq/app-resources/1\0{digest}".encode()).hexdigest(),
            public=canonical_json(public),
            scaling=canonical_json(public["scaling"]),
            env_tag=codec.environment_tag(values, self.keys, name),
            env=codec.seal_environment(values, self.keys, name) if values else b"",
        )

    # -- hosts ---------------------------------------------------------------------------------------
    def _prepared(self, signed: list[_Signed]) -> dict[str, tuple[str, ...]]:
        """Have the hosts prepare all of it; endpoint → those that have. Raises DeployError where for one none does."""
        up = self._up()
        if not up:
            raise DeployError("no host is up to be prepared: start one with `flashq host`, or `flashq up`")
        wanted = {one.name: self._order(one, up) for one in signed}
        self.say(f"preparing {', '.join(sorted({host for found in wanted.values() for host in found}))}")
        until = time.monotonic() + self.timeout_s
        while True:
            told = {one.name: self._told(one, wanted[one.name]) for one in signed}
            self._refuse_failed(told)
            if all(any(state == "ready" for state, _ in found.values()) for found in told.values()):
                return {
                    name: tuple(host for host, (state, _) in found.items() if state == "ready")
                    for name, found in told.items()
                }
            if time.monotonic() > until:
                slow = min(n for n, found in told.items() if all(s != "ready" for s, _ in found.values()))
                raise DeployError(f"endpoint {slow}: no host was ready within {self.timeout_s:g} s")
            self._renew()
            time.sleep(_LOOK_S)

    def _up(self) -> list[ListedHost]:
        """The hosts that take workers; one that is late with its word is waited for."""
        until = time.monotonic() + _SILENT_S
        while True:
            up = [host for host in hosts(self.broker) if host.state == "ready"]
            if up or time.monotonic() > until:
                return up
            self._renew()
            time.sleep(_LOOK_S)

    def _order(self, one: _Signed, up: list[ListedHost]) -> list[str]:
        """Tell the hosts that may run an endpoint to prepare it; their ids."""
        labels = set(json.loads(one.public).get("resources", {}).get("labels", ()))
        fit = [host.id for host in up if labels <= set(host.labels)]
        if not fit:
            raise DeployError(
                f"endpoint {one.name}: no host that is up has the labels {', '.join(sorted(labels))}"
            )
        command = host_command.pack(PrepareRevision(one.name, one.revision, one.record))
        now = now_ms(self.broker)
        lifetime = int(self.timeout_s * 1000) + 60_000
        for host in fit:
            key = self.broker.keys.of("prepared", host)
            header = Header(
                direction=Direction.HOST_COMMAND,
                endpoint=one.name,
                host=host,
                created_ms=now,
                expires_ms=now + lifetime,
            )
            inbox = self.broker.keys.of("commands", host)
            self.broker.execute_all(
                [
                    ("HDEL", key, one.revision),
                    ("RPUSH", inbox, seal(header, command, self.keys)),
                    ("PEXPIRE", inbox, lifetime),
                ]
            )
        return fit

    def _told(self, one: _Signed, asked: list[str]) -> dict[str, tuple[str, str]]:
        """What each host says of an endpoint: its state (empty: nothing yet), and why."""
        requests = [("HGET", self.broker.keys.of("prepared", host), one.revision) for host in asked]
        found = {}
        for host, raw in zip(asked, self.broker.execute_all(requests), strict=True):
            try:
                said = json.loads(raw or b"{}")
                found[host] = (str(said.get("state", "")), str(said.get("why", "")))
            except (ValueError, AttributeError):
                found[host] = ("", "")
        return found

    def _refuse_failed(self, told: Mapping[str, Mapping[str, tuple[str, str]]]) -> None:
        for name, found in told.items():
            if all(state == "failed" for state, _ in found.values()):
                host, (_, why) = next(iter(found.items()))
                raise DeployError(f"endpoint {name}: no host can run it; {host} says: {why}")

    # -- traffic -------------------------------------------------------------------------------------
    def _switched(
        self,
        signed: list[_Signed],
        names: Mapping[str, str],
        ready: Mapping[str, tuple[str, ...]],
        size: int,
    ) -> Outcome:
        self._renew()
        before = records.one(self.broker, self.manifest.app, self.environment)
        record = records.DeployedApp(
            app=self.manifest.app,
            environment=self.environment,
            artifact=self.manifest.digest,
            fingerprint=self.manifest.fingerprint,
            endpoints=dict(names),
            deployed_ms=now_ms(self.broker),
            by=f"{_user()}@{socket.gethostname()}",
            size=size,
        )
        gone = set(before.endpoints.values()) - set(names.values()) if before else set()
        # What was is on record with what will be, so that whatever cuts this off, `undeploy` finds all of it.
        both = {**record.endpoints, **{name: name for name in gone}}
        records.write(self.broker, _with(record, both))
        storage.keep(self.broker, self.manifest.digest)  # after it is on record: see `release`
        verdicts = {one.name: self._register(one) for one in signed}
        removed = {name for name in gone if self.broker.run(self.broker.transitions.undeploy(name)) != "busy"}
        kept = gone - removed
        records.write(self.broker, _with(record, {**record.endpoints, **{name: name for name in kept}}))
        if before is not None and before.artifact != record.artifact:
            release(self.broker, before.artifact)
        return Outcome(record, verdicts, ready, tuple(sorted(removed)), tuple(sorted(kept)))

    def _register(self, one: _Signed) -> str:
        answer = self.broker.run(
            self.broker.transitions.register(
                one.name,
                revision=one.revision,
                environment=one.environment,
                resources=one.resources,
                spec=one.public,
                scaling=one.scaling,
                program=f"app:{self.manifest.app}"[:64],
                record=one.record,
                key_id=self.keys.ids[0],
                env_tag=one.env_tag,
                env=one.env,
                needs=one.built.needs,
            )
        )
        return answer.verdict


def _with(record: records.DeployedApp, endpoints: dict[str, str]) -> records.DeployedApp:
    return replace(record, endpoints=endpoints)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no such user, and no variable that says
        return "?"


def release(broker: Broker, artifact: str) -> None:
    """An app has another artifact now: this one expires, unless some app has it.

    Looked for afterwards: a deploy that is on record by then is found, and one that comes later keeps it itself.
    """
    storage.let_go(broker, artifact)
    if any(one.artifact == artifact for one in records.deployed(broker)):
        storage.keep(broker, artifact)


def undeploy(
    broker: Broker, record: records.DeployedApp, *, purge: Callable[[str], object] | None = None
) -> list[str]:
    """Forget an app's endpoints; those that could not be, since jobs wait for them or run, stay on record."""
    busy = []
    for own, name in record.endpoints.items():
        if purge is not None:
            purge(name)
        if broker.run(broker.transitions.undeploy(name)) == "busy":
            busy.append(own)
    if busy:
        records.write(broker, _with(record, {own: record.endpoints[own] for own in busy}))
    else:
        records.remove(broker, record)
        release(broker, record.artifact)
    return sorted(record.endpoints[own] for own in busy)


def forget_endpoint(broker: Broker, endpoint: str) -> None:
    """One endpoint was undeployed by itself: its app has it no longer."""
    for record in records.deployed(broker):
        rest = {own: name for own, name in record.endpoints.items() if name != endpoint}
        if len(rest) == len(record.endpoints):
            continue
        if rest:
            records.write(broker, _with(record, rest))
        else:
            records.remove(broker, record)
            release(broker, record.artifact)


def keep_artifact_of(broker: Broker, keys: RootKeys, endpoint: str, revision: str) -> None:
    """A revision is current again: its artifact stays. Nothing happens where it is of no app."""
    raw = broker.execute("GET", broker.keys.of("revision", endpoint, revision)) or b""
    try:
        opened = open_sealed(raw, keys, direction=Direction.REVISION, endpoint=endpoint)
        artifact = codec.Revision.unpack(opened.payload).artifact
    except EnvelopeError:  # its workers will refuse it, saying so
        return
    if artifact:
        storage.keep(broker, artifact)
