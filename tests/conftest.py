"""What holds for every test: settings and a home of its own, missing servers, no sockets in unit tests.

`@pytest.mark.requires("redis")` names the servers of tests/servers.py that a test, or a parameter of it, runs
against; "nvml" stands for the compiler that makes up machines with GPUs (tests/nvml). Where one is missing the test
is skipped with its name; in CI (CI=true), which installs them all, that is a failure, so that a test can't quietly
stop running.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from pathlib import Path
from typing import NoReturn

import hypothesis
import pytest

from tests.nvml import machine
from tests.servers import missing_server

UNIT_TESTS = Path(__file__).parent / "unit"
FOREIGN_SETTINGS = ("FLASHQ_", "RQ_", "REDIS_")
HOME = pytest.StashKey[str]()

# A shared machine's pauses are not the code's: durations are the benchmarks' business.
hypothesis.settings.register_profile("flashq", deadline=None)
hypothesis.settings.load_profile("flashq")


def pytest_configure(config: pytest.Config) -> None:
    """Keep the developer's own settings, broker and state out of the tests."""
    for name in [name for name in os.environ if name.startswith(FOREIGN_SETTINGS)]:
        del os.environ[name]
    # Not under pytest's long temporary paths: a unix socket's path has about 100 bytes.
    config.stash[HOME] = os.environ["FLASHQ_HOME"] = tempfile.mkdtemp(prefix="fq-")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the tests' home."""
    shutil.rmtree(config.stash[HOME], ignore_errors=True)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose GPU or servers are missing; a missing server fails it in CI."""
    if item.get_closest_marker("gpu") is not None and not Path("/dev/nvidiactl").exists():
        pytest.skip("no NVIDIA GPU on this machine")
    for marker in item.iter_markers("requires"):
        for server in marker.args:
            reason = machine.missing() if server == "nvml" else missing_server(server)
            if reason is None:
                continue
            if os.environ.get("CI") == "true":
                pytest.fail(f"{reason}, and CI skips nothing", pytrace=False)
            pytest.skip(reason)


@pytest.fixture(autouse=True)
def _no_sockets_in_unit_tests(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse every connection and listening socket to tests/unit; a socketpair stays allowed."""
    if UNIT_TESTS not in request.path.parents:
        return

    def refuse(self: socket.socket, address: object) -> NoReturn:
        pytest.fail(f"a unit test reached for a socket at {address!r}: move it to tests/integration")

    for method in ("bind", "connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, method, refuse)
