"""With nothing configured: a private broker, host agent and autoscaler that live as long as who uses them.

`join` makes this process a member of the stack of its FLASHQ_HOME, started if need be; it ends with its last
member, or with `flashq down` where `flashq up` keeps it. The keeper (`python -m flashq.embedded`) owns the
processes; scripts only hold a connection to it.
"""

from flashq.embedded.join_token import JoinToken, accept_token
from flashq.embedded.membership import AlreadyUp, Membership, find, join, look, stop
from flashq.embedded.plan import Plan
from flashq.embedded.secret import broker_password, secrets

__all__ = [
    "AlreadyUp",
    "JoinToken",
    "Membership",
    "Plan",
    "accept_token",
    "broker_password",
    "find",
    "join",
    "look",
    "secrets",
    "stop",
]
