"""Users of the broker, one a role: which commands each may run, on which keys, and nothing else.

A role is named by the scripts it calls and by what it asks directly. What the scripts do inside is read from their
text (`rights`). Nobody gets `eval`, `script`, `config`, `keys`, `flushall`, `acl`, `monitor`, `debug`; the admin alone
may load functions. Rights limit reach; whose word counts is decided by signatures.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from flashq.store.keys import NAMES
from flashq.store.rights import deeds_of
from flashq.store.scripts import script_names

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flashq.store.keys import Keys

#: What every connection needs: `select` for a database by number, `role` behind Sentinel, `info` for its durability.
_ALL = frozenset({"fcall", "info", "ping", "role", "select", "time"})
_READS = frozenset(
    "exists getrange hget hgetall hlen hmget llen lpos lrange smembers xlen xread xrange xrevrange zcard zcount zrange"
    " zrangebyscore zrevrange zscore".split()
)
_LISTS = frozenset(NAMES) - {
    *("revision", "idempotency", "commands", "bell", "push"),
    *("api_keys", "webhooks", "artifact", "deploying", "prepared"),
}
"""Kinds of keys that listings read: not the code of endpoints."""


@dataclass(frozen=True, slots=True)
class Role:
    """What one kind of process does."""

    about: str
    scripts: frozenset[str] = frozenset()
    commands: frozenset[str] = frozenset()
    """Run directly."""
    reads: frozenset[str] = frozenset()
    """Kinds of keys that those read."""
    checks: frozenset[str] = frozenset()
    """Kinds of keys that its scripts name and only read."""
    writes: frozenset[str] = frozenset()
    """Kinds of keys that the commands write."""
    by_endpoint: bool = False
    """Whether it can be confined to one endpoint."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_FLEET = _words("host_beat host_leave gpu_free lead resign worker_order set_condition")
_OPERATIONS = _words("rekey key_uses hold unhold restart host_drain")
_WORKER = Role(
    "`flashq worker NAME`, or with `--endpoint` that of one endpoint",
    scripts=_words(
        "worker_join worker_ready worker_leave worker_drain worker_lend progress advance start chunk finish crash"
        " release renew recover reap log"
        " fail_waiting"
    ),
    commands=_words("hget hmget get blpop"),
    reads=_words("endpoint revision artifact"),
    checks=_words("leader host"),
    writes=_words("bell"),
    by_endpoint=True,
)
_HOST = replace(
    _WORKER,
    about="`flashq host`, and the workers that it starts",
    scripts=_WORKER.scripts | _words("host_beat host_leave gpu_free"),
    commands=_WORKER.commands | _words("smembers zrange hmget hgetall lrange"),
    reads=_WORKER.reads | _words("endpoints endpoint_workers worker gpus apps"),
    checks=_words("leader"),
    writes=_WORKER.writes | _words("commands host_environments prepared"),
    by_endpoint=False,
)
_VIEWER = Role("listings: `flashq queues`, `jobs`, `workers` …", commands=_READS, reads=_LISTS)
_CLIENT = Role(
    "programs that call, and whoever looks after jobs: submit, wait, cancel, retry, purge, pause",
    scripts=frozenset(script_names()) - _WORKER.scripts - _FLEET - _OPERATIONS - {"claim"},
    commands=_READS | _words("subscribe unsubscribe wait"),
    reads=_LISTS,
    by_endpoint=True,
)
ROLES: dict[str, Role] = {
    "client": _CLIENT,
    "worker": _WORKER,
    "host": _HOST,
    "autoscaler": Role(
        "`flashq autoscaler`",
        scripts=_words(
            "observe reap lead resign worker_order worker_drain worker_leave set_condition fail_waiting host_leave"
        ),
        commands=_words("smembers zrange hgetall hget hmget blpop rpush pexpire"),
        reads=_words("endpoints rq_workers hosts host worker gpus drains"),
        writes=_words("wake bell commands"),
    ),
    "gateway": replace(
        _CLIENT,
        about="the gateway: what a client may, and to know API keys",
        commands=_CLIENT.commands | _words("zadd zrem zremrangebyscore hset hdel"),
        reads=_CLIENT.reads | {"api_keys"},
        writes=_CLIENT.writes | {"gateways", "webhooks"},
        by_endpoint=False,
    ),
    "deployer": replace(
        _CLIENT,
        about="`flashq deploy`: what a client may, artifacts, and the word to hosts to prepare them",
        commands=_CLIENT.commands | _words("get set del hset hdel rpush pexpire persist"),
        reads=_CLIENT.reads | _words("revision"),
        writes=_words("apps artifact deploying commands prepared"),
        by_endpoint=False,
    ),
    "viewer": _VIEWER,
    "admin": Role(
        "whoever sets up: loads the functions, rotates keys, and all of the above but code of its own",
        scripts=frozenset(script_names()),
        commands=_READS
        | _words("get subscribe unsubscribe wait function|load function|list function|delete")
        | _words("hset hdel"),
        reads=frozenset(NAMES) - {"push"},
        writes=frozenset({"api_keys"}),
    ),
}


@dataclass(frozen=True, slots=True)
class User:
    """One user of the broker, as rules of its ACL."""

    name: str
    rules: tuple[str, ...] = field(repr=False)

    def file_line(self) -> str:
        """A line of an ACL file."""
        return " ".join(("user", self.name, *self.rules))

    def command(self) -> str:
        """A command for the broker's prompt."""
        return " ".join(("ACL SETUSER", self.name, "reset", *self.rules))


def name(role: str, endpoint: str | None = None) -> str:
    """What the user of a role is called. Raises ValueError where it cannot be confined to an endpoint."""
    if endpoint is not None and not ROLES[role].by_endpoint:
        raise ValueError(f"role {role} is not of one endpoint")
    return f"flashq-{role}" + (f"-{endpoint}" if endpoint else "")


def user(role: str, keys: Keys, password: str, endpoint: str | None = None) -> User:
    """The user of a role, under one key prefix; with `endpoint`, of that one alone. The password is kept as a hash.

    Raises ValueError where the role cannot be confined to an endpoint.
    """
    terms = ROLES[role]
    done = deeds_of(terms.scripts)
    written = done.kinds - terms.checks | terms.writes
    commands = _ALL | done.commands | terms.commands
    rules = ["on", "#" + hashlib.sha256(password.encode()).hexdigest(), "resetchannels"]
    if commands & {"publish", "subscribe"}:
        rules += [f"&{pattern}" for pattern in keys.patterns("push")]
    rules += _patterns("~", keys, written, endpoint)
    rules += _patterns("%R~", keys, (terms.reads | terms.checks) - written, endpoint)
    rules += ["-@all", *(f"+{command}" for command in sorted(commands))]
    return User(name(role, endpoint), tuple(rules))


def _patterns(mode: str, keys: Keys, kinds: Iterable[str], endpoint: str | None) -> list[str]:
    return [f"{mode}{pattern}" for kind in sorted(kinds) for pattern in keys.patterns(kind, endpoint)]
