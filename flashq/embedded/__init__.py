"""With nothing configured: a private broker, host agent and autoscaler that live as long as who uses them.

`join` makes this process a member of the stack of its FLASHQ_HOME, started if need be; it ends with its last
member, or with `flashq down` where `flashq up` keeps it. The keeper (`python -m flashq.embedded`) owns the
processes; scripts only hold a connection to it.

Names are loaded when first used: the keeper is to be there at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flashq.embedded.join_token import JoinToken, accept_token
    from flashq.embedded.membership import AlreadyUp, Membership, find, join, look, stop
    from flashq.embedded.plan import Plan
    from flashq.embedded.secret import broker_password, key_file, secrets

_WHERE = {
    "AlreadyUp": "membership",
    "JoinToken": "join_token",
    "Membership": "membership",
    "Plan": "plan",
    "accept_token": "join_token",
    "broker_password": "secret",
    "find": "membership",
    "join": "membership",
    "key_file": "secret",
    "last_problem": "membership",
    "look": "membership",
    "secrets": "secret",
    "stop": "membership",
}

__all__ = [
    "AlreadyUp",
    "JoinToken",
    "Membership",
    "Plan",
    "accept_token",
    "broker_password",
    "find",
    "join",
    "key_file",
    "last_problem",
    "look",
    "secrets",
    "stop",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        value = getattr(importlib.import_module(f"flashq.embedded.{_WHERE[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'flashq.embedded' has no attribute {name!r}")
