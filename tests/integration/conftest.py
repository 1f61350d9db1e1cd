"""Fixtures of the integration tests: a private broker with host agents around it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.environment_rig import Site, make_wheels
from tests.integration.fleet_rig import FleetRig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FleetRig]:
    """A broker, host agents as processes, endpoints without code.

    Parametrize it indirectly with "redis" (and mark that parameter `requires("redis")`) for the other server.
    """
    rig = FleetRig(tmp_path, getattr(request, "param", "valkey"))
    try:
        yield rig
    finally:
        rig.close()


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tiny wheels, an operator's only index."""
    folder = tmp_path_factory.mktemp("wheels")
    make_wheels(folder)
    return folder


@pytest.fixture
def site(tmp_path: Path, wheels: Path) -> Site:
    """A host with no environments yet."""
    return Site(tmp_path, wheels)
