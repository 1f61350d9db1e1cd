"""What a caller sends beside what a signature says: arguments, or the field that is wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flashq import signature
from flashq.class_identity import settle
from flashq.gateway.call_terms import DEFAULT_TIMEOUT_S, is_unhurried, options_of
from flashq.gateway.checked_input import Arguments, InputRefused, Signature
from flashq.gateway.problems import Problem
from flashq_worker.executor.from_json import Parameters


def of(function: Any, *, batch: bool = False) -> Signature:
    found = signature.describe({"": function}, batch=batch, methods=False, by_value=(), settle=settle)
    return Signature(json.loads(found.schemas)[""])


def plain(text: str, count: int = 1) -> None: ...
def nothing() -> None: ...
def named(*, text: str) -> None: ...
def several(*texts: str) -> None: ...
def anything(**rest: int) -> None: ...
def gathered(items: list[int]) -> None: ...
def takes_input(input: dict[str, int]) -> None: ...  # noqa: A002 — a user's parameter may be called so
def unknown(value) -> None: ...  # type: ignore[no-untyped-def]  # noqa: ANN001


@pytest.mark.parametrize(
    ("function", "given", "expected"),
    [
        (plain, {"text": "a"}, Arguments([], {"text": "a"})),
        (plain, "a", Arguments(["a"], {})),
        (nothing, {}, Arguments([], {})),
        (nothing, {"__empty": True}, Arguments([], {})),
        (nothing, {"input": {}}, Arguments([], {})),
        (takes_input, {"input": {}}, Arguments([], {"input": {}})),
        (several, "a", Arguments(["a"], {})),
        (anything, {"a": 1}, Arguments([], {"a": 1})),
        (gathered, 5, Arguments([5], {})),
        (unknown, [None], Arguments([[None]], {})),
    ],
)
def test_what_fits_becomes_arguments(function: Any, given: Any, expected: Arguments) -> None:
    assert of(function, batch=function is gathered).arguments(given) == expected


@pytest.mark.parametrize(
    ("function", "given", "field", "said"),
    [
        (plain, {}, "input.text", "is missing"),
        (plain, {"text": 1}, "input.text", "must be a string, not 1"),
        (plain, {"text": "a", "cuont": 1}, "input.cuont", "there is no such field; there are count, text"),
        (plain, 5, "input", "must be a string, not 5"),
        (nothing, 5, "input", "must be an object with nothing in it"),
        (nothing, {"a": 1}, "input.a", "there are none"),
        (named, "a", "input", "must be an object with text"),
        (several, 5, "input", "must be a string"),
        (anything, {"a": "b"}, "input.a", "must be an integer"),
        (gathered, "x", "input", "must be an integer"),
        (gathered, {"items": [1]}, "input", "must be an integer"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_field(function: Any, given: Any, field: str, said: str) -> None:
    with pytest.raises(InputRefused) as refused:
        of(function, batch=function is gathered).arguments(given)
    assert refused.value.field == field
    assert said in str(refused.value)


def test_what_an_earlier_version_registered_takes_anything() -> None:
    assert Signature(None).arguments({"a": [1]}) == Arguments([], {"a": [1]})
    assert Signature(None).arguments("a") == Arguments(["a"], {})


def test_what_is_nested_too_deeply_is_refused() -> None:
    deep: Any = 1
    for _ in range(200):
        deep = [deep]
    with pytest.raises(InputRefused, match="nested"):
        of(unknown).arguments({"value": deep})


def test_a_type_that_a_worker_lacks_is_said_by_its_parameter() -> None:
    """Given an annotation whose module is not there, expect TypeError for its parameter, and nothing for others."""
    raw = b"cno_such_module\nThing\n."

    def f(thing: Any = None, other: int = 0) -> Any:
        return thing, other

    parameters = Parameters(f, {"thing": raw})
    assert parameters.make((), {"other": 1}) == ((), {"other": 1})
    with pytest.raises(TypeError, match="argument 'thing': its type cannot be had here: ModuleNotFoundError"):
        parameters.make((), {"thing": 1})


def test_the_terms_of_a_call() -> None:
    assert options_of({"input": {}}, own_timeout_ms=0).timeout_s == DEFAULT_TIMEOUT_S
    assert options_of({"input": {}}, own_timeout_ms=5).timeout_s is None
    told = options_of({"policy": {"executionTimeout": 1500, "ttl": 2000}}, own_timeout_ms=0)
    assert (told.timeout_s, told.ttl_s) == (1.5, 2.0)
    assert options_of({"options": {"timeout_s": 3}}, own_timeout_ms=0).timeout_s == 3
    assert is_unhurried({"policy": {"lowPriority": True}})
    assert not is_unhurried({"policy": {"lowPriority": True}, "options": {"priority": 3}})
    for wrong, field in (
        ({"s3Config": {"bucketName": "b"}}, "s3Config"),
        ({"options": {"priority": 99}}, "options.priority"),
        ({"options": {"prio": 1}}, "options.prio"),
        ({"options": []}, "options"),
        ({"policy": {"ttl": 10**12}}, "policy.ttl"),
    ):
        with pytest.raises(Problem) as problem:
            options_of(wrong, own_timeout_ms=0)
        assert (problem.value.status, problem.value.field) == (422, field)
