"""`make demo` with fewer docstrings: from the first call to the last worker, on a private broker."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.demo import FOLDER, checks, require_model


@pytest.mark.slow
@pytest.mark.requires("valkey")
@pytest.mark.timeout(300)
def test_the_demo_finds_its_answers_and_passes_its_own_checks() -> None:
    # Given a machine with nothing configured, and a model that can be had
    require_model()

    # If the demo is run on 300 docstrings, its output going to a pipe
    command = [sys.executable, str(FOLDER / "demo.py"), "--limit", "300"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)

    # Expect it to succeed by its own checks, in plain lines
    assert done.returncode == 0, done.stdout + done.stderr
    verdicts = re.findall(r"^  (ok|FAILED)    *(.+?):", done.stdout, flags=re.MULTILINE)
    assert verdicts == [
        ("ok", "every docstring is accounted for"),
        ("ok", "vectors equal those of a plain process"),
        ("ok", "questions find their answers"),
        ("ok", "questions meet a warm worker"),
        ("ok", "2 workers at the peak"),
        ("ok", "no worker is left"),
    ]
    assert "\x1b" not in done.stdout

    # Expect the numbers it promises: the cold start in parts, a warm latency, a timeline from none to none
    assert re.search(r"^The first job met no worker: +\d+\.\d+ s", done.stdout, flags=re.MULTILINE)
    assert re.search(
        rf"^Warm: a question took \d+\.\d ms \(median of {len(checks.QUESTIONS)}", done.stdout, re.M
    )
    timeline = done.stdout.partition("Timeline:\n")[2]
    assert "workers: 2 ready" in timeline
    assert (
        timeline.index("first call") < timeline.index("questions answered") < timeline.index("workers: none")
    )
