"""docs/how-to/two-machines.md, typed as it stands on two machines in network namespaces, with made-up GPUs."""

from __future__ import annotations

import contextlib
import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.acceptance.pages import ROOT, blocks, steps
from tests.engines.lan import Lan, missing_lan
from tests.engines.machine_root import PROGRAMS, Root
from tests.nvml.machine import Device, library
from tests.nvml.machine import Machine as GpuMachine
from tests.rig import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.engines, pytest.mark.requires("redis", "nvml"), pytest.mark.timeout(300)]

PAGE = ROOT / "docs" / "how-to" / "two-machines.md"
BROUGHT = ("git ", "python3 -m venv ", "/opt/flashq/bin/pip ")
"""Commands whose work is done already: a test has neither your clone nor a new machine."""
NEEDS = "it needs two machines"


def missing() -> str | None:
    """Why the page can't be followed here; None where it can."""
    absent = [name for name in PROGRAMS if name != "scp" and shutil.which(name) is None]
    return missing_lan() or (f"no {absent[0]} on this machine" if absent else None)


@pytest.fixture
def machines() -> Iterator[dict[str, Root]]:
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="fq-two-"))
    folder.chmod(0o755)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        lan = Lan("one", "two", network="10.0.0", first=1)
        stack.callback(lan.close)
        shutil.copy(library(), folder)
        made = {}
        for name in lan.machines:
            (folder / name).mkdir()
            gpus = GpuMachine(folder / name, Device(f"GPU-of-{name}"))
            kept = {"LD_LIBRARY_PATH": str(folder), "NVML_STUB": str(gpus.file)}
            made[name] = Root(lan.machines[name], folder, kept)
            stack.callback(_end, made[name])
        yield made


def _end(root: Root) -> None:
    root.end(signal.SIGTERM)

    def gone() -> bool:
        return not any(
            process.info["cmdline"]
            and str(root.folder) in (process.info["environ"] or {}).get("NVML_STUB", "")
            for process in psutil.process_iter(["cmdline", "environ"])
        )

    try:
        wait_until(gone, 60, f"the services of {root.folder.name} end: {root.logs()}")
    finally:
        root.end(signal.SIGKILL)


def test_the_page_leads_to_a_job_on_the_other_machines_gpu(machines: dict[str, Root]) -> None:
    """Given two machines, if all that the page says is typed there, in its order, expect what it says at the end."""
    shown: list[str] = []
    for block in blocks(PAGE):
        assert block.language == "console"
        assert block.not_run is not None
        assert block.not_run.startswith(NEEDS)
        _, _, where = block.not_run.partition(": ")
        for name in [where] if where else machines:
            typed = [step.command for step in steps(block) if not step.command.startswith(BROUGHT)]
            for command in typed if "flashq hosts" in block.text else ["\n".join(typed)]:
                shown.append(_until_both_are_there(machines[name], command))
    hosts, first = shown[-2:]
    assert [name in hosts for name in ("one-", "two-", "NVIDIA L4", "ready")] == [True] * 4
    assert first.split() == ["two", "GPU-of-two"]
    assert not Path("/etc/flashq").exists(), "what was typed has touched those machines alone"


def _until_both_are_there(root: Root, command: str) -> str:
    """What a command prints; `flashq hosts` is asked until the hosts, which were started just before, are there."""
    if "flashq hosts" not in command:
        return root.type(command)
    printed: list[str] = []

    def both() -> bool:
        printed.append(root.type(command))
        return printed[-1].count("ready") == 2

    wait_until(both, 90, f"both hosts are ready: {root.logs()}")
    return printed[-1]
