"""Class endpoints: one instance a worker, made while it starts, kept, and let go of in order."""

from __future__ import annotations

import asyncio
import inspect
import os
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flashq import Endpoint
from flashq.errors import (
    EndpointFailed,
    JobRefused,
    NotSupportedError,
    SpecError,
    UnsupportedCall,
    WorkerCrashed,
)
from flashq.revision import describe
from flashq.testing import LocalBroker, flashq_local
from tests.acceptance.stage import stage
from tests.integration.command_line import CommandLine
from tests.integration.stack import Stack
from tests.rig import Rig, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.acceptance.stage import Stage

__all__ = ["flashq_local"]
pytestmark = pytest.mark.timeout(90)
real = pytest.mark.requires("valkey")


@Endpoint(name="scaler", cpu="any", workers=(0, 1), idle_timeout=1, max_deliveries=1)
class Scaler:
    """Multiplies."""

    def __init__(self, factor: int = 2, trace: str = "") -> None:
        self.factor, self.trace = factor, trace
        self.calls = 0
        self.ready = False

    def setup(self) -> None:
        self.ready = True

    def scale(self, number: int, *, plus: int = 0) -> tuple[int, int]:
        """A number, and how many calls this instance has had."""
        assert self.ready
        self.calls += 1
        return number * self.factor + plus, self.calls

    def upto(self, number: int) -> Iterator[int]:
        yield from (n * self.factor for n in range(number))

    def pid(self) -> int:
        return os.getpid()

    def die(self) -> None:
        os._exit(3)

    def _hidden(self) -> int:
        return 1

    def teardown(self) -> None:
        if self.trace:
            Path(self.trace).write_text(str(self.calls))


@Endpoint(name="adder", cpu="any", workers=(0, 1), max_concurrency=4)
class Adder:
    def __init__(self, number: int) -> None:
        self.number = number
        self.at_once = self.most = 0

    async def add(self, number: int) -> int:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        await asyncio.sleep(0.05)
        self.at_once -= 1
        return self.number + number

    async def count(self, upto: int) -> AsyncIterator[int]:
        for number in range(upto):
            yield number + self.number

    async def seen(self) -> int:
        return self.most


@Endpoint(name="unready", cpu="any", workers=(0, 1))
class Unready:
    def setup(self) -> None:
        raise RuntimeError("no weights here")

    def go(self) -> int:
        return 1


# Mypy ignores what a decorator makes of a class.
scaler: Any = Scaler
adder: Any = Adder
unready: Any = Unready


@pytest.fixture(scope="module")
def theatre() -> Iterator[Stage]:
    with stage() as made:
        made.ready_worker(scaler(3).scale)
        made.ready_worker(adder(7).add)
        yield made


@real
def test_an_instance_is_made_once_and_keeps_its_state(theatre: Stage) -> None:
    model = scaler(3)
    first, calls = model.scale.remote(2, plus=1)
    assert first == 7
    assert [model.scale.remote(n) for n in range(3)] == [(3 * n, calls + 1 + n) for n in range(3)]
    assert list(model.upto.stream(4)) == [0, 3, 6, 9]
    assert {model.pid.remote() for _ in range(3)} == {model.pid.remote()}
    assert [value for value, _ in model.scale.map([1, 2, 3], progress=False)] == [3, 6, 9]
    assert asyncio.run(_awaited(model, 5))[0] == 15


async def _awaited(model: Any, number: int) -> Any:
    return await model.scale(number)


@real
def test_other_arguments_are_another_instance(theatre: Stage) -> None:
    # Given two handles of one class, expect each call to go to an instance of its own arguments
    assert scaler(10).scale.remote(2) == (20, 1)
    assert scaler(3).scale.remote(2) == (6, 1)
    assert scaler(3).scale.remote(2) == (6, 2)


@real
def test_an_instance_that_is_lost_is_made_anew(theatre: Stage) -> None:
    model = scaler(3)
    model.scale.remote(1)
    with pytest.raises(WorkerCrashed):
        model.die.remote()
    assert model.scale.remote(1) == (3, 1)


@real
def test_coroutines_of_one_instance_run_at_once(theatre: Stage) -> None:
    model = adder(7)

    async def all_of_them() -> list[int]:
        return list(await asyncio.gather(*(model.add(n) for n in range(8))))

    assert asyncio.run(all_of_them()) == [7 + n for n in range(8)]
    assert 1 < model.seen.remote() <= 4
    assert list(model.count.stream(3)) == [7, 8, 9]


@real
def test_only_public_methods_are_called(theatre: Stage, tmp_path: Path) -> None:
    model = scaler(3)
    for name in ("_hidden", "setup", "teardown", "factor", "nothing"):
        with pytest.raises(AttributeError):
            getattr(model, name)

    # A call of another method, signed by somebody who may, is refused by the worker
    scale = model.scale
    scale.target = "_hidden"
    with pytest.raises(JobRefused, match="no method '_hidden'"):
        scale.remote(1)
    scale.target = ""
    with pytest.raises(JobRefused, match="of which the call names none"):
        scale.remote(1)
    cli = CommandLine(theatre.server.url, tmp_path)
    assert "is a class" in cli("call", "scaler", "1", code=4).output


@real
def test_a_whole_deployment_makes_instances_and_lets_go_of_them(tmp_path: Path) -> None:
    with closing(Rig()) as rig, closing(Stack(rig)):
        # Given a worker that is no longer needed, expect its instance to be torn down
        model = scaler(2, str(tmp_path / "torn"))
        assert model.scale.remote(1) == (2, 1)
        wait_until((tmp_path / "torn").exists, 30, "scaled to zero")
        assert (tmp_path / "torn").read_text() == "1"

        # Given a setup that raises, expect its callers to be told, with the traceback
        with pytest.raises(EndpointFailed, match="no weights here"):
            unready().go.spawn().result(40)


def test_a_class_here(flashq_local: LocalBroker) -> None:
    model = scaler(4)
    assert [model.scale.remote(n) for n in (1, 2)] == [(4, 1), (8, 2)]
    assert list(model.upto.stream(3)) == [0, 4, 8]
    assert adder(1).add.remote(2) == 3
    assert model.scale.local(5) == (20, 1)
    assert scaler.local(5).scale(1) == (5, 1)


def test_a_class_is_derived_from_as_if_undecorated(flashq_local: LocalBroker) -> None:
    class Derived(scaler):  # type: ignore[misc]
        def scale(self, number: int, *, plus: int = 0) -> tuple[int, int]:
            value, calls = super().scale(number, plus=plus)
            return value + 100, calls

    assert Derived(2).factor == 2
    derived: Any = Endpoint(name="derived", cpu="any")(Derived)
    assert derived(3).scale.remote(2) == (106, 1)


def test_arguments_are_the_same_by_place_and_by_name() -> None:
    assert describe(scaler(3).scale.code).digest == describe(scaler(factor=3).scale.code).digest
    assert describe(scaler(3).scale.code).digest != describe(scaler(4).scale.code).digest


def test_names_signatures_and_words_are_those_of_the_class() -> None:
    model = scaler(3)
    assert str(inspect.signature(model.scale)) == "(number: 'int', *, plus: 'int' = 0) -> 'tuple[int, int]'"
    assert model.scale.__doc__ == "A number, and how many calls this instance has had."
    assert (Scaler.__doc__, Scaler.__name__) == ("Multiplies.", "Scaler")
    assert repr(Scaler) == "<Endpoint 'scaler': class Scaler>"


def test_what_does_not_fit_is_refused_at_once() -> None:
    with pytest.raises(TypeError):
        scaler(1, 2, 3, 4)
    with pytest.raises(SpecError, match="no public method"):

        @Endpoint(name="empty", cpu="any")
        class Empty:
            pass

    with pytest.raises(SpecError, match="max_concurrency"):

        @Endpoint(name="plain-many", cpu="any", max_concurrency=2)
        class Many:
            def go(self) -> None: ...

    with pytest.raises(NotSupportedError, match="teardown yields"):

        @Endpoint(name="yielding-hook", cpu="any")
        class Yielding:
            def go(self) -> None: ...

            def teardown(self) -> Iterator[None]:
                yield

    with pytest.raises(NotSupportedError, match="setup is `async def`"):

        @Endpoint(name="async-setup", cpu="any")
        class Setup:
            async def setup(self) -> None: ...

            def go(self) -> None: ...

    with pytest.raises(UnsupportedCall):
        scaler(2).upto.remote(1)
