"""The type assertions hold: mypy, strict, finds nothing in typing_assertions.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ASSERTIONS = Path(__file__).parent / "typing_assertions.py"
TREE = ASSERTIONS.parents[2]


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_type_checkers_see_what_is_promised() -> None:
    # If mypy reads the assertions under the project's own strict settings
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", str(ASSERTIONS)]
    done = subprocess.run(command, cwd=TREE, capture_output=True, text=True, check=False)

    # Expect not a word
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_package_says_that_it_is_typed() -> None:
    import flashq

    assert flashq.__file__ is not None
    assert (Path(flashq.__file__).parent / "py.typed").is_file()
