"""Fixtures of the integration tests: private brokers on unix sockets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.fleet_rig import FleetRig
from tests.rig import SECRET, BrokerServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def secret() -> bytes:
    """The root secret of the tests' deployment."""
    return SECRET


@pytest.fixture
def broker(request: pytest.FixtureRequest) -> Iterator[BrokerServer]:
    """A private server on a unix socket; its data goes with it.

    Parametrize it indirectly with "redis" (and mark that parameter `requires("redis")`) for the other server.
    """
    server = BrokerServer(getattr(request, "param", "valkey"))
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FleetRig]:
    """A broker, host agents as processes, endpoints without code. Parametrize it as `broker`."""
    rig = FleetRig(tmp_path, getattr(request, "param", "valkey"))
    try:
        yield rig
    finally:
        rig.close()
