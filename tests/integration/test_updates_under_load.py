"""Updates and a rollback amid many calls on a real host, autoscaler and workers: no call fails, none is mixed up."""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
from typing import TYPE_CHECKING, Any

import pytest

from flashq import Endpoint
from tests.integration.command_line import CommandLine
from tests.integration.environment_rig import make_wheel
from tests.integration.stack import Peak, Stack
from tests.rig import Rig, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from flashq.job import EndpointJob

pytestmark = pytest.mark.requires("valkey")

MINIMUM, MAXIMUM = 2, 4
AHEAD = 40  # calls in flight


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A deployment whose operator has wheels of his own."""
    wheels = tmp_path_factory.mktemp("wheels")
    make_wheel(wheels, "tiny-a", "1.0")
    with contextlib.closing(Rig(lease_s=3.0)) as rig, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_FIND_LINKS", str(wheels))
        patch.setenv("PIP_NO_INDEX", "1")
        with contextlib.closing(Stack(rig)) as made:
            yield made


def version(name: str, said: str, needs: str = "time", **changes: Any) -> Any:
    """An endpoint whose code says this, and imports a module."""

    def answer(number: int, seconds: float) -> tuple[str, int]:
        import importlib
        import time

        importlib.import_module(needs)
        time.sleep(seconds)
        return said, number

    return Endpoint(name=name, cpu="any", workers=(MINIMUM, MAXIMUM), idle_timeout=60, **changes)(answer)


class Load:
    """Calls that are kept in flight by a thread for as long as the block lasts; of several versions they take turns."""

    def __init__(self, stack: Stack, *first: tuple[Any, str]) -> None:
        self.calls: list[tuple[EndpointJob[Any], tuple[str, int]]] = []
        self._stack, self._versions = stack, first
        self._peak = Peak(stack, first[0][0])
        self._thread = threading.Thread(target=self._keep)
        self._enough = threading.Event()

    def __enter__(self) -> Load:
        self._peak.__enter__()
        self._thread.start()
        self.goes_on()
        return self

    def __exit__(self, *exc: object) -> None:
        self._enough.set()
        self._thread.join()
        self._peak.__exit__(*exc)

    def _keep(self) -> None:
        for number in itertools.count():
            if self._enough.is_set():
                return
            if number >= AHEAD:
                self.calls[number - AHEAD][0].result(60)
            endpoint, said = self._versions[number % len(self._versions)]
            call = endpoint.spawn(number, 0.1 if number % 20 == 0 else 0.01)
            self.calls.append((call, (said, number)))

    def change(self, *to: tuple[Any, str]) -> None:
        """Call these from now on."""
        self._versions = to

    def goes_on(self) -> None:
        """Wait until so many more calls are through that what changed has met all workers."""
        aim = len(self.calls) + 2 * AHEAD
        wait_until(lambda: not self._thread.is_alive() or len(self.calls) >= aim, 30, "calls go on")

    def check(self) -> None:
        """Each call has the value of the code that it was submitted with; there were never too many workers."""
        assert [call.result(60) for call, _ in self.calls] == [expected for _, expected in self.calls]
        assert self._peak.most <= MAXIMUM


def replaced(stack: Stack, endpoint: Any, before: dict[str, dict[str, str]]) -> bool:
    """Whether none of the workers of before is left, and as many are there as always are."""
    now = stack.workers(endpoint)
    return not (now.keys() & before.keys()) and len(now) >= MINIMUM


def fewest_ready(stack: Stack, endpoint: Any) -> int:
    """The fewest workers that took jobs from the endpoint's update on, by its events."""
    taking: set[str] = set()
    counts: list[int] = []
    stream = stack.rig.broker.keys.of("endpoint_events", endpoint.name)
    for _, flat in stack.rig.broker.execute("XRANGE", stream, "-", "+"):
        event = dict(zip(flat[::2], flat[1::2], strict=True))
        if event[b"kind"] == b"worker-ready":
            taking.add(event[b"subject"])
        elif event[b"kind"] in (b"worker-drained", b"worker-ended", b"worker-lost"):
            taking.discard(event[b"subject"])
        if counts or event[b"kind"] == b"endpoint-replaced":
            counts.append(len(taking))
    return min(counts)


@pytest.mark.parametrize("what", ["dependencies", "volume"])
def test_rolling_update_under_load_fails_nothing(stack: Stack, tmp_path: Path, what: str) -> None:
    """R10. Given calls in flight, if all workers have to be replaced, expect each call's value, old and new."""
    changes: dict[str, Any] = {"volume": str(tmp_path)}
    if what == "dependencies":
        changes = {"dependencies": ["tiny-a==1.0"], "needs": "tiny_a"}
    old, new = version(f"loaded-{what}", "old"), version(f"loaded-{what}", "new", **changes)
    with Load(stack, (old, "old")) as load:
        before = stack.workers(old)
        load.change((new, "new"))
        wait_until(lambda: replaced(stack, new, before), 30, "all workers were replaced")
        load.change((new, "new"), (old, "old"))  # a program with the earlier code calls, too
        load.goes_on()
    load.check()
    assert fewest_ready(stack, new) >= MINIMUM - 1, (
        "a tenth of the maximum, at least one, is replaced at a time"
    )


def test_new_code_under_load_fails_nothing_and_replaces_no_worker(stack: Stack) -> None:
    """Given calls in flight, if a script's code and env= change, expect each call's value, from the same workers."""
    old, new = version("loaded-code", "old"), version("loaded-code", "new", env={"X": "1"})
    with Load(stack, (old, "old")) as load:
        before = stack.workers(old)
        load.change((new, "new"))
        load.goes_on()
        load.change((new, "new"), (old, "old"))
        load.goes_on()
        assert before.keys() <= stack.workers(old).keys()
    load.check()


def test_rollback_under_load_fails_nothing(stack: Stack, tmp_path: Path) -> None:
    """Given calls in flight and an update, if it is rolled back, expect each call's value, and other workers."""
    cli = CommandLine(stack.rig.server.url, tmp_path)
    old, new = version("loaded-back", "old"), version("loaded-back", "new", volume=str(tmp_path))
    with Load(stack, (old, "old")) as load:
        before = stack.workers(old)
        load.change((new, "new"))
        wait_until(lambda: replaced(stack, new, before), 30, "all workers were replaced")
        before = stack.workers(old)
        cli("endpoints", "loaded-back", "--rollback")
        said = cli("call", "loaded-back", "7", "0.0").stdout
        wait_until(lambda: replaced(stack, new, before), 30, "all workers were replaced again")
        load.goes_on()
    assert json.loads(said) == ["old", 7]
    load.check()
