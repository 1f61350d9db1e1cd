"""The search notices mistakes: each of a list, by the check that has to."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from flashq.store.scripts import Library, library
from tests.conformance.world import LUA_CLOCK
from tests.rig import BrokerServer
from tests.search.mutants import EQUIVALENT, MUTANTS, Mutant
from tests.search.scopes import scope
from tests.search.search import Search

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.verify, pytest.mark.requires("valkey"), pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server for the search alone."""
    with closing(BrokerServer("valkey", appendonly="no")) as server:
        yield server.url


def mutated(old: str, new: str) -> Library:
    """The shipped library with one change."""
    shipped = library(LUA_CLOCK)
    assert shipped.source.count(old) == 1, "the mutation no longer applies"
    return Library(shipped.name, shipped.source.replace(old, new))


@pytest.mark.parametrize("mutant", [pytest.param(m, id=m.name) for m in MUTANTS])
def test_a_mistake_is_caught(mutant: Mutant, url: str) -> None:
    small = scope(mutant.scope).of_size(mutant.jobs, mutant.workers)
    found = Search(small, url, mutated(mutant.old, mutant.new)).run(until=mutant.caught_by)

    assert found.named(mutant.caught_by), f"{found}, and what was found: {found.problems}"


@pytest.mark.parametrize("mutant", [pytest.param(m, id=m.name) for m in EQUIVALENT])
def test_what_nobody_can_notice_still_applies(mutant: Mutant) -> None:
    assert mutated(mutant.old, mutant.new).source != library(LUA_CLOCK).source
    assert mutant.why
