"""Loading that hangs: given up, said where, and not tried without end."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

import pytest

from flashq import Endpoint
from flashq.errors import EndpointFailed
from tests.integration.stack import Stack
from tests.rig import Rig, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.requires("valkey")


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with contextlib.closing(Rig(lease_s=3.0)) as rig, contextlib.closing(Stack(rig)) as made:
        yield made


def the_model_is_waited_for() -> None:
    time.sleep(600)


@Endpoint(name="hangs-in-setup", cpu="any", startup_timeout=0.5)
class Hangs:
    def setup(self) -> None:
        the_model_is_waited_for()

    def run(self) -> None:
        return None


class Waits:
    def __reduce__(self) -> Any:
        return the_model_is_waited_for, ()


waits = Waits()


@Endpoint(name="hangs-when-loaded", cpu="any", startup_timeout=0.5)
def loaded() -> object:
    return waits


def hangs_in_setup() -> Any:
    handle: Any = Hangs()
    return handle.run


@pytest.mark.parametrize("function", [hangs_in_setup, lambda: loaded], ids=["setup", "import"])
def test_it_is_given_up_and_its_callers_are_told_where_it_was(stack: Stack, function: Any) -> None:
    called = function()
    with pytest.raises(EndpointFailed, match=r"longer than startup_timeout=0\.5 s") as caught:
        called.spawn().result(45)
    assert "in the_model_is_waited_for" in str(caught.value)
    wait_until(lambda: not stack.workers(called), what="no worker is left")
