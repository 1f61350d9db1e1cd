"""Environments on disk: several builders at once, crashes, damage, full disks; what is kept and what is removed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from flashq.errors import EnvironmentBuildError
from flashq_worker.environments import environment
from flashq_worker.environments import store as environment_store
from flashq_worker.environments import uv as environment_uv
from flashq_worker.environments.expiry import Limits
from tests.integration.environment_rig import Site, make_wheel, version_of
from tests.integration.executor_rig import PYTHON, is_running, until

if TYPE_CHECKING:
    from pathlib import Path

# -- several at once, and crashes --------------------------------------------------------------------


def test_one_builds_while_the_others_wait(site: Site) -> None:
    """Given ten workers that need one environment at once, expect one build, and all to have it."""
    with ThreadPoolExecutor(10) as workers:
        ready = list(workers.map(lambda _: site.ensure("tiny-a"), range(10)))
    assert sum(one.built for one in ready) == 1
    assert len({one.python for one in ready}) == 1
    assert any("waiting for another worker" in line for line in site.lines)


BUILDER = """
import json, sys
from pathlib import Path
from flashq_worker.environments import environment
environment.ensure(["tiny-a"], sys.argv[1], Path(sys.argv[2]), lambda line: None, json.loads(sys.argv[3]))
"""


def test_a_build_killed_midway_is_begun_anew(site: Site, tmp_path: Path) -> None:
    """Given kill -9 of a worker in the middle of a build, expect the next to remove it and build its own."""
    stuck = tmp_path / "bin" / "uv"
    stuck.parent.mkdir()
    script = (
        "#!/bin/sh",
        f"echo $$ > {tmp_path}/pid",
        "for last; do :; done",
        "mkdir $last/bin",
        "exec sleep 1000",
    )
    stuck.write_text("\n".join(script))
    stuck.chmod(0o755)
    variables = json.dumps({**site.variables, "PATH": f"{stuck.parent}:/usr/bin:/bin"})
    code = "import sys; sys.modules['uv'] = None\n" + BUILDER
    builder = subprocess.Popen([sys.executable, "-c", code, PYTHON, site.root, variables])
    until(lambda: list(site.root.glob(".*/bin")))
    (half_built,) = site.root.glob(".*")
    builder.send_signal(signal.SIGKILL)
    builder.wait()
    stuck_pid = int((tmp_path / "pid").read_text())
    os.kill(stuck_pid, signal.SIGKILL)
    until(lambda: not is_running(stuck_pid))

    built = site.ensure("tiny-a")

    assert built.built
    assert version_of(built) == "2.0"
    assert not half_built.exists()


# Where a builder is killed: what is wrapped, and whether it dies before or after that.
STEPS = {
    "before anything is made": ("environment_uv.Uv.make", "before"),
    "with an empty environment": ("environment_uv.Uv.make", "after"),
    "with everything installed": ("environment_uv.Uv.install", "after"),
    "before it is marked": ("environment_store.complete", "before"),
    "before it is in place": ("environment_store.complete", "after"),
    "once it is in place": ("environment._build", "after"),
}
DIES = """
import os, signal
from flashq_worker.environments import environment
from flashq_worker.environments import store as environment_store
from flashq_worker.environments import uv as environment_uv
*path, name = sys.argv[4].split(".")
owner = globals()[path[0]]
for part in path[1:]:
    owner = getattr(owner, part)
real = getattr(owner, name)
def dying(*args, **kwargs):
    if sys.argv[5] == "after":
        real(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(owner, name, dying)
"""


@pytest.mark.parametrize("step", STEPS)
def test_a_builder_killed_at_any_step_leaves_nothing_half_built(site: Site, step: str) -> None:
    """Given kill -9 of a builder, expect the next to have a whole environment at once, and no leftovers."""
    what, when = STEPS[step]
    head, tail = BUILDER.split("environment.ensure", 1)
    code = f"{head}{DIES}environment.ensure{tail}"
    command: list[str | Path] = [
        sys.executable,
        "-c",
        code,
        PYTHON,
        site.root,
        json.dumps(site.variables),
        what,
        when,
    ]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL

    built = site.ensure("tiny-a")

    assert built.built is (step != "once it is in place")
    assert version_of(built) == "2.0"
    assert not list(site.root.glob(".*"))


def test_what_builders_left_that_were_killed_is_swept(site: Site) -> None:
    """Given the leftovers of a killed build that nobody wants any more, expect these to go, not a live one's."""
    site.ensure("tiny-a")
    dead, live = (site.root / f".{digit * 64}.x" for digit in "ab")
    for left in (dead, live):
        (left / "bin").mkdir(parents=True)
    with environment_store.lock(site.root / f"{'b' * 64}.lock"):
        assert site.sweep() == []
    assert sorted(site.root.glob(".*")) == [live]


@pytest.mark.parametrize("harm", ["marker", "half a marker", "interpreter", "package", "folder"])
def test_a_damaged_environment_is_built_anew(site: Site, harm: str) -> None:
    """Given an environment of which something was removed, expect it to be replaced by the next start."""
    first = site.ensure("tiny-a")
    (module,) = first.place.glob("lib/*/site-packages/tiny_a.py")
    match harm:
        case "marker":
            (first.place / environment_store.MARKER).unlink()
        case "half a marker":
            os.truncate(first.place / environment_store.MARKER, 20)
        case "interpreter":
            first.python.unlink()
        case "package":
            module.unlink()
        case "folder":
            shutil.rmtree(first.place)
    again = site.ensure("tiny-a")
    assert again.built
    assert version_of(again) == "2.0"
    assert environment_store.damage(again.place) == ([], False)


def test_damage_within_a_package_is_named(site: Site) -> None:
    """Given a file that was cut off and one that is gone, expect both to be told; fetched anew, the first is whole."""
    first = site.ensure("tiny-a")
    (module,) = first.place.glob("lib/*/site-packages/tiny_a.py")
    os.truncate(module, 3)  # and with it uv's own copy: they are one file
    wrong, altered = environment_store.damage(first.place)
    assert (len(wrong), altered) == (1, True)
    assert "tiny_a.py has 3 bytes" in wrong[0]

    environment_store.forget(first.place)
    again = environment.ensure(["tiny-a"], PYTHON, site.root, site.lines.append, site.variables, fresh=True)
    assert version_of(again) == "2.0"
    next(again.place.glob("lib/*/site-packages/tiny_a.py")).unlink()
    wrong, altered = environment_store.damage(again.place)
    assert (wrong, altered) == (["tiny_a.py is gone"], False)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
def test_a_full_disk_is_told_and_leaves_nothing(site: Site, tmp_path: Path) -> None:
    """Given a disk that is full, expect EnvironmentBuildError in uv's words, and no half environment."""
    make_wheel(tmp_path, "tiny-large", "1.0", code=f"DATA = {'x' * 4_000_000!r}")
    site.variables["PIP_FIND_LINKS"] = str(tmp_path)
    site.root.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(site.root)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        with pytest.raises(EnvironmentBuildError) as failed:
            site.ensure("tiny-large")
        assert not isinstance(failed.value, environment_uv.Unresolvable)
        assert "No space left" in f"{failed.value} {failed.value.log_tail}"
        assert not [path for path in site.root.iterdir() if path.is_dir()]
    finally:
        subprocess.run(["umount", str(site.root)], check=True)


# -- what is kept ------------------------------------------------------------------------------------

NOTHING = Limits(keep_s=0, total_bytes=0)


def age(site: Site, built: environment.Environment, days: float = 40.0) -> None:
    """As if it had been used last so long ago."""
    if built.hold is not None:
        built.hold.release()
    past = time.time() - days * 86_400
    os.utime(site.root / f"{built.digest}.use", (past, past))


def test_the_resolution_is_recorded(site: Site) -> None:
    """Given an environment, expect what its requirements were resolved to on record, with its size."""
    built = site.ensure("tiny-b")
    (stored,) = environment_store.stored(site.root)
    assert (stored.digest, stored.python, stored.requirements) == (built.digest, PYTHON, ("tiny-b",))
    assert stored.packages == ("tiny-a==1.0", "tiny-b==1.0")
    assert stored.size_bytes > 4096
    assert abs(stored.used_at - time.time()) < 60


def test_an_unused_environment_is_removed_whole(site: Site) -> None:
    """Given one unused for 40 days and one in use now, expect the first alone to go, with its files."""
    old, new = site.ensure("tiny-a<2"), site.ensure("tiny-a")
    age(site, old)
    (removed,) = site.sweep()
    assert removed.digest == old.digest
    assert "40.0 days" in removed.reason
    assert [one.digest for one in environment_store.stored(site.root)] == [new.digest]
    assert not list(site.root.glob(f"*{old.digest}*"))
    assert site.ensure("tiny-a<2").built


def test_what_is_in_use_is_never_removed(site: Site) -> None:
    """Given an environment that a worker runs in, expect it to stay though it began long ago, and to count as used."""
    built = site.ensure("tiny-a")
    past = time.time() - 40 * 86_400
    os.utime(site.root / f"{built.digest}.use", (past, past))
    assert site.sweep(NOTHING) == []
    assert not environment_store.remove(site.root, built.digest)
    assert version_of(built) == "2.0"
    (stored,) = environment_store.stored(site.root)
    assert stored.used_at > past + 86_400


def test_a_user_that_is_no_more_holds_nothing(site: Site) -> None:
    """Given an environment whose user was killed, expect that it can be removed."""
    code = f"{BUILDER}import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    code = code.replace("environment.ensure(", "kept = environment.ensure(")
    command: list[str | Path] = [sys.executable, "-c", code, PYTHON, site.root, json.dumps(site.variables)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    (stored,) = environment_store.stored(site.root)
    assert environment_store.remove(site.root, stored.digest)
    assert list(site.root.iterdir()) == []


def test_removal_and_use_at_once(site: Site) -> None:
    """Given workers that want an environment while it is removed again and again, expect each to have a whole one."""

    def want(_: int) -> str:
        built = site.ensure("tiny-a")
        try:
            return version_of(built)
        finally:
            assert built.hold is not None
            built.hold.release()

    digest = environment.environment_digest(["tiny-a"], PYTHON)
    with ThreadPoolExecutor(5) as workers:
        wanted = [workers.submit(want, n) for n in range(12)]
        while not all(one.done() for one in wanted):
            environment_store.remove(site.root, digest)
    assert [one.result() for one in wanted] == ["2.0"] * 12
