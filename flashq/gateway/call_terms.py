"""What a request of Runpod's job API says beside the input: `policy`, `webhook`, and our own `options`. Pure."""

from __future__ import annotations

from typing import Any

from flashq.errors import SpecError
from flashq.gateway.problems import Problem
from flashq.model.checks import nearest
from flashq.model.spec import CallOptions

KNOWN = ("input", "webhook", "policy", "options", "s3Config")
_POLICY = ("executionTimeout", "ttl", "lowPriority")
LONGEST_MS = 604_800_000
"""Seven days."""
DEFAULT_TIMEOUT_S = 600.0
"""Of calls whose endpoint has none of its own and which give none: that of Runpod's API."""


def options_of(body: dict[str, Any], *, own_timeout_ms: int) -> CallOptions:
    """The terms of the call. `own_timeout_ms`: the endpoint's, 0 where it has none. Raises Problem."""
    for name in body:
        if name not in KNOWN:
            raise Problem(
                422, f"no such field{nearest(name, KNOWN)}; there are {', '.join(KNOWN)}", field=name
            )
    if body.get("s3Config"):
        raise Problem(422, "is not supported: give the function what it needs by its env", field="s3Config")
    given: dict[str, Any] = {} if own_timeout_ms else {"timeout_s": DEFAULT_TIMEOUT_S}
    given |= _policy(body.get("policy"))
    own = body.get("options")
    if own is not None:
        if not isinstance(own, dict):
            raise Problem(422, "must be an object", field="options")
        given |= own
    try:
        return CallOptions(**given)
    except SpecError as error:
        name = error.parameter
        raise Problem(422, str(error), field=f"options.{name}" if name in (own or {}) else "policy") from None


def _policy(policy: Any) -> dict[str, Any]:
    if policy is None:
        return {}
    if not isinstance(policy, dict):
        raise Problem(422, "must be an object", field="policy")
    for name in policy:
        if name not in _POLICY:
            raise Problem(422, f"no such field{nearest(name, _POLICY)}", field=f"policy.{name}")
    given: dict[str, Any] = {}
    for name, option in (("executionTimeout", "timeout_s"), ("ttl", "ttl_s")):
        if (value := policy.get(name)) is not None:
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= LONGEST_MS:
                raise Problem(422, "must be milliseconds, at most seven days", field=f"policy.{name}")
            given[option] = value / 1000
    low = policy.get("lowPriority", False)
    if not isinstance(low, bool):
        raise Problem(422, "must be true or false", field="policy.lowPriority")
    return given


def is_unhurried(body: dict[str, Any]) -> bool:
    """Whether no worker is to be started for it: `lowPriority`, where no priority of ours says otherwise."""
    policy, own = body.get("policy") or {}, body.get("options") or {}
    return policy.get("lowPriority", False) is True and own.get("priority") is None
