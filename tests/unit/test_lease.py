"""The worker's pulse: what a renewal's answer means for the jobs in hand."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, cast

import pytest

from flashq.errors import BrokerUnreachable
from flashq.store.keys import Keys
from flashq.store.records import Renewed
from flashq.store.transitions import Transitions
from flashq_worker.lease import LeaseKeeper, pause_s

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flashq.store.broker import Broker
    from flashq.store.command import Command

HELD = (("job-1", 3), ("job-2", 5))


class Answering:
    """A broker that answers every renewal alike."""

    def __init__(self, answer: Renewed | None) -> None:
        """None: none comes."""
        self.transitions = Transitions(Keys())
        self._answer = answer

    def run(self, command: Command[Any]) -> Renewed:
        assert command.script == "renew"
        if self._answer is None:
            raise BrokerUnreachable("no answer")
        return self._answer


class Heard:
    def __init__(self) -> None:
        self.renewed = 0
        self.verdicts: list[tuple[str, Mapping[tuple[str, int], str]]] = []

    def on_renewed(self) -> None:
        self.renewed += 1

    def on_verdict(self, verdict: str, jobs: Mapping[tuple[str, int], str]) -> None:
        self.verdicts.append((verdict, jobs))


def keeper_of(answer: Renewed | None, heard: Heard) -> LeaseKeeper:
    return LeaseKeeper(
        cast("Broker", Answering(answer)),
        "embed",
        "embed-1",
        lease_s=3.0,
        jobs=lambda: HELD,
        fields=dict,
        on_renewed=heard.on_renewed,
        on_verdict=heard.on_verdict,
    )


@pytest.mark.parametrize(
    ("answer", "renewed", "verdicts"),
    [
        (Renewed(1, "ok", ("ok", "ok")), 1, []),
        (Renewed(1, "ok", ("ok", "lost")), 1, [("ok", {("job-2", 5): "lost"})]),
        (Renewed(1, "ok", ("cancel", "ok")), 1, [("ok", {("job-1", 3): "cancel"})]),
        (Renewed(1, "drain", ("ok", "ok")), 1, [("drain", {})]),
        (Renewed(1, "gone", ()), 0, [("gone", {})]),
    ],
    ids=["ok", "one lost", "one to be stopped", "drain", "given up, with jobs in hand"],
)
def test_what_a_renewal_is_answered(
    answer: Renewed, renewed: int, verdicts: list[tuple[str, Mapping[tuple[str, int], str]]]
) -> None:
    """Given two jobs in hand, expect what was said of each, and life for the executor unless the worker is given up."""
    heard = Heard()

    keeper_of(answer, heard).renew()

    assert heard.renewed == renewed
    assert heard.verdicts == verdicts


@pytest.mark.parametrize(
    ("answer", "in_touch"),
    [(Renewed(1, "ok", ("ok", "lost")), True), (Renewed(1, "gone", ()), False), (None, False)],
    ids=["ok", "given up", "no answer"],
)
def test_who_has_had_no_answer_for_a_lease_is_out_of_touch_until_there_is_one(
    answer: Renewed | None, in_touch: bool
) -> None:
    """Given a worker that has just begun, if a lease passes without an answer, expect it to be out of touch then."""
    keeper = keeper_of(answer, Heard())
    seen = [keeper.in_touch]
    keeper._answered_at -= 3.0
    seen.append(keeper.in_touch)

    with contextlib.suppress(BrokerUnreachable):
        keeper.renew()

    assert [*seen, keeper.in_touch] == [True, False, in_touch]


@pytest.mark.parametrize(
    ("every_s", "failed", "expected"),
    [(5.0, False, 1.0), (5.0, True, 1.0), (1.0, False, 1.0), (1.0, True, 0.2)],
)
def test_after_a_renewal_that_failed_the_next_comes_soon(
    every_s: float, failed: bool, expected: float
) -> None:
    """Given a lease of 15 s or 3 s, if a renewal fails, expect several more tries before the lease is over."""
    assert pause_s(every_s, failed=failed) == pytest.approx(expected)
