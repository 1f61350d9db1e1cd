"""Every order of commands on the shipped scripts, for two jobs and two workers: the invariants hold in every state."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.rig import BrokerServer
from tests.search.scopes import SCOPES
from tests.search.search import Search

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.search.scopes import Scope

pytestmark = [pytest.mark.verify, pytest.mark.requires("valkey"), pytest.mark.timeout(1800)]
#: Scripts that a scope may send without ever changing anything: they answer, or refuse.
ANSWERS = {"watch", "recover"}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server for the search alone: it takes everything in it for its state."""
    with closing(BrokerServer("valkey", appendonly="no")) as server:
        yield server.url


@pytest.mark.parametrize("scope", [pytest.param(scope, id=scope.name) for scope in SCOPES])
def test_the_invariants_hold_in_every_state(scope: Scope, url: str) -> None:
    found = Search(scope, url).run()

    assert not found.problems, "\n\n".join(found.problems)
    assert found.complete
    print(found)
