"""`Endpoint(id="name")`: calls of what something else registered, by its name alone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from flashq import Endpoint
from flashq.errors import EndpointNotFound, IdempotencyConflict, SpecError, UnsupportedCall
from tests.rig import Rig, rig

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.requires("valkey")


@pytest.fixture(scope="module")
def stage() -> Iterator[Rig]:
    with rig() as made:
        yield made


def _make(name: str, function: Any, **parameters: Any) -> Any:
    return Endpoint(name=name, cpu="any", **parameters)(function)


def test_calls_by_name_reach_the_function_from_a_program_that_has_none_of_its_code(stage: Rig) -> None:
    def joined(*words: str, by: str = " ") -> str:
        return by.join(words)

    stage.ready_worker(_make("by-name", joined))
    called = Endpoint(id="by-name")

    async def awaited() -> Any:
        return await called("a", "b", by="-")

    # Expect each verb of a decorated function, with pickled arguments and results
    assert called.remote("a", "b") == "a b"
    assert asyncio.run(awaited()) == "a-b"
    assert called.spawn("a").result(10) == "a"
    assert list(called.map(["a", "b"], ["c", "d"])) == ["a c", "b d"]
    with pytest.raises(TypeError, match="expected str instance"):
        called.remote(1)

    # If a call is given options, expect them to count
    keyed = called.with_options(key="same")
    first = keyed.spawn("x")
    assert keyed.spawn("x").result(10) == first.result(10) == "x"
    with pytest.raises(IdempotencyConflict):
        keyed.spawn("y")


def test_classes_and_streams_are_called_by_name(stage: Rig) -> None:
    class Counter:
        def __init__(self) -> None:
            self.count = 0

        def add(self, by: int) -> int:
            self.count += by
            return self.count

        def upto(self, end: int) -> Iterator[int]:
            yield from range(end)

    stage.ready_worker(_make("by-name-class", Counter)().add)
    called = Endpoint(id="by-name-class")
    assert called.add.remote(2) == 2
    assert called.add.remote(by=3) == 5
    assert list(called.upto.stream(3)) == [0, 1, 2]

    # If something else is called than there is, expect an error that says what there is
    with pytest.raises(UnsupportedCall, match="no method 'take': it has add, upto"):
        called.take.remote(1)
    with pytest.raises(UnsupportedCall, match="methods to be called: it has add, upto"):
        called.remote(1)
    with pytest.raises(UnsupportedCall, match="yields its values"):
        called.upto.remote(1)


def test_the_current_revision_answers(stage: Rig) -> None:
    def first() -> str:
        return "first"

    def second() -> str:
        return "second"

    stage.ready_worker(_make("by-name-updated", first))
    called = Endpoint(id="by-name-updated")
    assert called.remote() == "first"

    # If the endpoint is updated, expect calls by name to reach the new code
    from flashq.endpoint import _endpoints

    _endpoints.pop("by-name-updated")
    stage.register(_make("by-name-updated", second))
    stage.client.submission.current.forget("by-name-updated")
    assert called.remote() == "second"


def test_calls_that_are_gathered_give_one_item(stage: Rig) -> None:
    def doubled(items: list[int]) -> list[int]:
        return [2 * item for item in items]

    stage.ready_worker(_make("by-name-batch", doubled, batch=(4, 5)))
    called = Endpoint(id="by-name-batch")
    assert list(called.map(range(5))) == [0, 2, 4, 6, 8]
    with pytest.raises(TypeError, match="gathers calls: each gives one item"):
        called.remote(1, 2)


def test_what_is_not_deployed_is_not_found(stage: Rig) -> None:
    called = Endpoint(id="by-name-of-nothing")
    for call in (called.remote, called.spawn, called):
        with pytest.raises(EndpointNotFound, match="no endpoint 'by-name-of-nothing' is registered"):
            call(1)


def test_an_id_stands_alone_and_is_a_name() -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"workers": 3}, "workers"),
        ({"cpu": "any"}, "cpu"),
        ({"name": "x"}, "name"),
    ]
    for given, parameter in wrong:
        with pytest.raises(SpecError, match="give its id alone") as caught:
            Endpoint(id="other", **given)
        assert caught.value.parameter == parameter
    with pytest.raises(SpecError, match=r"Endpoint\(id"):
        Endpoint(id="no name")
    with pytest.raises(UnsupportedCall, match="not here to be run"):
        Endpoint(id="other").local(1)
    assert not hasattr(Endpoint(name="decorates"), "remote")
