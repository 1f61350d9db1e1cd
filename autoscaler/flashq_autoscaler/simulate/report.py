"""A row for each policy on one trace."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flashq_autoscaler.simulate import bounds
from flashq_autoscaler.simulate.engine import run
from flashq_autoscaler.simulate.rules import KedaHpa, Knative, QueueDelay, RequestCount
from flashq_autoscaler.simulate.shipped import Shipped
from flashq_autoscaler.views import Params

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flashq_autoscaler.simulate.engine import Policy, Run
    from flashq_autoscaler.simulate.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What is the same for all policies."""

    cold_s: float
    idle_timeout_s: float
    maximum: int
    minimum: int = 0
    alpha: float = 1.0


@dataclass(frozen=True, slots=True)
class Row:
    """What a policy came to. Waits in seconds; `gpu_s`: from each worker's order to its end."""

    policy: str
    p50_wait_s: float
    p99_wait_s: float
    gpu_s: float
    gpu_per_work: float | None
    """None where there is no work."""
    starts: int
    useless_starts: int
    peak_workers: int


POLICIES: dict[str, Callable[[Terms], Policy]] = {
    "EARLIEST_FINISH": lambda t: Shipped(
        "EARLIEST_FINISH", t.cold_s, t.idle_timeout_s, params=Params(alpha=t.alpha)
    ),
    "REQUEST_COUNT": lambda t: RequestCount(t.idle_timeout_s),
    "QUEUE_DELAY": lambda t: QueueDelay(t.idle_timeout_s),
    "KEDA": lambda t: KedaHpa(),
    "KPA": lambda t: Knative(),
    "SHIPPED_REQUEST_COUNT": lambda t: Shipped(
        "REQUEST_COUNT as shipped", t.cold_s, t.idle_timeout_s, scaler_type="REQUEST_COUNT", scaler_value=1.0
    ),
    "SHIPPED_QUEUE_DELAY": lambda t: Shipped(
        "QUEUE_DELAY as shipped", t.cold_s, t.idle_timeout_s, scaler_type="QUEUE_DELAY"
    ),
}
"""The first is flashq's default; the last two are its own rules of those names, beside the plain ones."""
BOUNDS = ("OPT0", "CONTRACT_OPT")
ALL = (*POLICIES, *BOUNDS)


def rows(trace: Trace, names: Sequence[str], terms: Terms) -> tuple[list[Row], dict[str, Run]]:
    """A row for each of these policies and bounds, and the runs of the policies."""
    made: list[Row] = []
    runs: dict[str, Run] = {}
    for name in names:
        if name == "OPT0":
            made.append(_bound("OPT0 (knows all, nobody waits)", bounds.opt0(trace, terms.cold_s), trace))
        elif name == "CONTRACT_OPT":
            found = bounds.contract_opt(trace, terms.cold_s, terms.idle_timeout_s)
            made.append(_bound("contract-OPT (and idle_timeout)", found, trace))
        else:
            policy = POLICIES[name](terms)
            runs[policy.name] = done = run(
                trace, policy, cold_s=terms.cold_s, maximum=terms.maximum, minimum=terms.minimum
            )
            made.append(_row(policy.name, done, trace))
    return made, runs


def _row(name: str, done: Run, trace: Trace) -> Row:
    waits = sorted(done.waits_s)
    return Row(
        name,
        round(quantile(waits, 0.5), 4),
        round(quantile(waits, 0.99), 4),
        round(done.gpu_s, 2),
        _per_work(done.gpu_s, trace),
        done.starts,
        done.useless,
        done.peak,
    )


def _bound(name: str, found: tuple[float, int, int], trace: Trace) -> Row:
    gpu_s, starts, peak = found
    return Row(name, 0.0, 0.0, round(gpu_s, 2), _per_work(gpu_s, trace), starts, 0, peak)


def _per_work(gpu_s: float, trace: Trace) -> float | None:
    return round(gpu_s / trace.work_s, 4) if trace.work_s else None


def quantile(ascending: Sequence[float], share: float) -> float:
    """The value that this share of them does not exceed."""
    return ascending[min(len(ascending) - 1, math.ceil(share * len(ascending)) - 1)]
