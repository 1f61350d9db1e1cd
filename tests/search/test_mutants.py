"""The search notices mistakes: each of a list, by the check that has to; and not what nobody can notice."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from flashq.store.scripts import Library, library
from tests.conformance.world import LUA_CLOCK
from tests.rig import BrokerServer
from tests.search.mutants import EQUIVALENT, MUTANTS
from tests.search.scopes import scope
from tests.search.search import Search

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.search.mutant import Equivalent, Mutant

pytestmark = [pytest.mark.requires("valkey"), pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server for the search alone."""
    with closing(BrokerServer("valkey", appendonly="no")) as server:
        yield server.url


def searched(mutant: Mutant | Equivalent, url: str) -> Search:
    """A search of the shipped library with one change."""
    shipped = library(LUA_CLOCK)
    assert shipped.source.count(mutant.old) == 1, "the mutation no longer applies"
    changed = Library(shipped.name, shipped.source.replace(mutant.old, mutant.new))
    return Search(scope(mutant.scope).of_size(mutant.jobs, mutant.workers), url, changed)


@pytest.mark.parametrize("mutant", [pytest.param(m, id=m.name) for m in MUTANTS])
def test_a_mistake_is_caught(mutant: Mutant, url: str) -> None:
    found = searched(mutant, url).run(until=mutant.caught_by)

    assert found.named(mutant.caught_by), f"{found}, and what was found: {found.problems}"


@pytest.mark.parametrize("mutant", [pytest.param(m, id=m.name) for m in EQUIVALENT])
def test_nobody_notices_what_makes_no_difference(mutant: Equivalent, url: str) -> None:
    found = searched(mutant, url).run()

    assert not found.problems, f"{mutant.why}? {found.problems}"
    assert found.complete
