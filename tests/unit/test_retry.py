"""Retries: the policy's rules, and the decision as a table and as properties."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashq.errors import SpecError
from flashq.model.retry import Retries, RetryDecision, exception_name, parse_retries, retry_decision

CONNECTION = ("ConnectionResetError", "ConnectionError", "OSError", "Exception")
HTTP = ("requests.exceptions.HTTPError", "requests.exceptions.RequestException", "OSError", "Exception")


def decide(
    policy: Retries, *, used: int = 0, names: tuple[str, ...] = CONNECTION, kind: str = "exception"
) -> RetryDecision | None:
    return retry_decision(policy, error_kind=kind, type_names=names, retries_used=used, fraction=1.0)


@pytest.mark.parametrize(
    ("maximum", "used", "again"),
    [(0, 0, False), (1, 0, True), (1, 1, False), (3, 2, True), (3, 3, False), (3, 9, False)],
)
def test_n_retries_are_n_reexecutions(maximum: int, used: int, again: bool) -> None:
    assert (decide(Retries(maximum), used=used) is not None) is again


@pytest.mark.parametrize("kind", ["unserializable", "timeout", "cancelled", "load", "crash", ""])
def test_only_the_functions_own_exceptions_are_retried(kind: str) -> None:
    assert decide(Retries(3), kind=kind) is None


@pytest.mark.parametrize(
    ("on", "names", "matched"),
    [
        ((), CONNECTION, "ConnectionResetError"),
        ((), (), "an exception"),
        (("ConnectionResetError",), CONNECTION, "ConnectionResetError"),
        (("OSError", "ValueError"), CONNECTION, "OSError"),
        (("ValueError",), CONNECTION, None),
        (("HTTPError",), HTTP, "requests.exceptions.HTTPError"),
        (("requests.exceptions.HTTPError",), HTTP, "requests.exceptions.HTTPError"),
        (("urllib.error.HTTPError",), HTTP, None),
        (("ValueError",), (), None),
    ],
)
def test_on_names_types_and_their_bases(
    on: tuple[str, ...], names: tuple[str, ...], matched: str | None
) -> None:
    decision = decide(Retries(2, on=on), names=names)
    assert (decision and decision.reason) == (matched and f"retry 1 of 2 after {matched}")


@pytest.mark.parametrize(
    ("policy", "longest"),
    [
        (Retries(4), [1, 2, 4, 8]),
        (Retries(4, delay_s=0), [0, 0, 0, 0]),
        (Retries(4, delay_s=1), [1, 2, 4, 8]),
        (Retries(4, delay_s=1, backoff=1), [1, 1, 1, 1]),
        (Retries(4, delay_s=2, backoff=3, max_delay_s=20), [2, 6, 18, 20]),
        (Retries(4, delay_s=5, max_delay_s=1), [1, 1, 1, 1]),
    ],
)
def test_delays_grow_up_to_their_limit(policy: Retries, longest: list[float]) -> None:
    decisions = [decide(policy, used=used) for used in range(4)]
    assert [decision and decision.longest_s for decision in decisions] == longest
    assert [decision and decision.retry for decision in decisions] == [1, 2, 3, 4]


@given(
    policy=st.builds(
        Retries,
        max=st.integers(1, 100),
        delay_s=st.floats(0, 1e5),
        backoff=st.floats(1, 100),
        max_delay_s=st.floats(0, 1e5),
    ),
    used=st.integers(0, 99),
    fraction=st.floats(-1, 2),
)
def test_a_delay_lies_in_its_range_for_any_fraction(policy: Retries, used: int, fraction: float) -> None:
    decision = retry_decision(
        policy, error_kind="exception", type_names=("E",), retries_used=used, fraction=fraction
    )
    if used >= policy.max:
        assert decision is None
    else:
        assert decision is not None
        assert 0 <= decision.delay_s <= decision.longest_s <= policy.max_delay_s
        if 0 <= fraction <= 1:
            assert decision.delay_s == decision.longest_s * fraction


class Own(ValueError):
    pass


@pytest.mark.parametrize(
    ("given", "policy"),
    [
        (None, Retries(0)),
        (3, Retries(3)),
        ({"max": 3, "delay_s": 1}, Retries(3, 1)),
        ({}, Retries(0)),
        (Retries(2), Retries(2)),
        ({"max": 1, "on": ValueError}, Retries(1, on=("ValueError",))),
        (
            {"max": 1, "on": ["builtins.ValueError", "ValueError", Own]},
            Retries(1, on=("ValueError", exception_name(Own))),
        ),
    ],
)
def test_retries_are_read_from_a_number_a_dict_or_a_policy(given: object, policy: Retries) -> None:
    assert parse_retries(given) == policy
    assert Retries(**policy.as_dict()) == policy


@pytest.mark.parametrize(
    ("on", "never", "names", "again"),
    [
        ((), ("ConnectionResetError",), CONNECTION, False),
        ((), ("OSError",), CONNECTION, False),
        ((), ("ValueError",), CONNECTION, True),
        (("OSError",), ("ConnectionError",), CONNECTION, False),
        (("ConnectionResetError",), ("OSError",), CONNECTION, False),
        ((), ("HTTPError",), HTTP, False),
        ((), ("urllib.error.HTTPError",), HTTP, True),
        ((), ("ValueError",), (), True),
    ],
)
def test_never_excepts_types_and_their_subclasses_whatever_on_says(
    on: tuple[str, ...], never: tuple[str, ...], names: tuple[str, ...], again: bool
) -> None:
    assert (decide(Retries(2, on=on, never=never), names=names) is not None) is again


@given(seed=st.integers(), retry=st.integers(0, 5))
def test_a_thousand_retries_at_one_moment_do_not_bunch(seed: int, retry: int) -> None:
    """Row 29."""
    draw = random.Random(seed)
    policy = Retries(10, delay_s=4, max_delay_s=60)
    decisions = [
        retry_decision(
            policy, error_kind="exception", type_names=("E",), retries_used=retry, fraction=draw.random()
        )
        for _ in range(1000)
    ]
    places = [int(10 * d.delay_s / d.longest_s) for d in decisions if d is not None]

    # Of a thousand over the whole range each tenth gets a hundred; seven standard deviations are 66.
    assert len(places) == 1000
    assert all(34 <= places.count(tenth) <= 166 for tenth in range(10))


def test_without_jitter_every_delay_is_the_longest() -> None:
    policy = Retries(3, delay_s=2, backoff=3, max_delay_s=10, jitter=False)
    delays = [
        decision.delay_s
        for used in range(3)
        if (
            decision := retry_decision(
                policy, error_kind="exception", type_names=(), retries_used=used, fraction=0
            )
        )
    ]

    assert delays == [2, 6, 10]


def test_an_exceptions_name_is_qualified_unless_built_in() -> None:
    assert exception_name(ValueError) == "ValueError"
    assert exception_name(Own) == f"{__name__}.Own"
    assert decide(Retries(1, on=(Own,)), names=tuple(map(exception_name, Own.__mro__))) is not None


@pytest.mark.parametrize(
    ("field", "given", "allowed"),
    [
        ("max", -1, "at least 0"),
        ("max", 101, "at most 100"),
        ("max", 1.5, "whole number"),
        ("max", True, "whole number"),
        ("delay_s", -1, "at least 0 seconds"),
        ("delay_s", "1", "number of seconds"),
        ("backoff", 0.5, "at least 1"),
        ("max_delay_s", float("nan"), "finite"),
        ("on", int, "exception types"),
        ("on", [3], "exception types"),
        ("on", "not a name", "exception types"),
        ("on", "", "exception types"),
        ("never", [3], "exception types"),
        ("jitter", 1, "True or False"),
    ],
)
def test_a_wrong_field_is_refused_by_name(field: str, given: Any, allowed: str) -> None:
    with pytest.raises(SpecError, match=allowed) as caught:
        Retries(**{field: given})
    assert str(caught.value).startswith(f"Retries({field}=")


@pytest.mark.parametrize("given", ["3", 1.0, True, [3], object()])
def test_retries_refuse_what_is_no_policy(given: object) -> None:
    with pytest.raises(ValueError, match="must be a number of retries"):
        parse_retries(given)


def test_an_unknown_field_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"no field 'delay' \(did you mean"):
        parse_retries({"delay": 1})
