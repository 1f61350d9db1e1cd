"""Every order of commands on the shipped scripts: the invariants hold in every state.

`make test` searches the scopes that matter most with two jobs and two workers, and the others with one job;
`make verify` these too with two, and some commands with three.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.rig import BrokerServer
from tests.search.scopes import LARGE, SCOPES
from tests.search.search import Search

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.search.scopes import Scope

pytestmark = [pytest.mark.requires("valkey"), pytest.mark.timeout(3600)]
EVERY_TIME = [scope for scope in SCOPES if scope.every_time]
OTHERS = [scope for scope in (*SCOPES, *LARGE) if not scope.every_time]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server for the search alone: it takes everything in it for its state."""
    with closing(BrokerServer("valkey", appendonly="no")) as server:
        yield server.url


@pytest.mark.parametrize(
    "scope",
    [
        *[pytest.param(scope, id=scope.name) for scope in EVERY_TIME],
        *[pytest.param(scope, id=scope.name, marks=pytest.mark.verify) for scope in OTHERS],
    ],
)
def test_the_invariants_hold_in_every_state(scope: Scope, url: str) -> None:
    holds(scope, url)


@pytest.mark.parametrize(
    "scope", [pytest.param(scope, id=scope.name) for scope in SCOPES if not scope.every_time]
)
def test_the_invariants_hold_for_one_job(scope: Scope, url: str) -> None:
    holds(scope.of_size(1, 2), url)


def holds(scope: Scope, url: str) -> None:
    """Search it to the end, and find nothing."""
    found = Search(scope, url).run()

    assert not found.problems, "\n\n".join(found.problems)
    assert found.complete, str(found)
