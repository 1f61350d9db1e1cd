"""How an executor finds a deployed function: in a process of its own, by the pickle that stands in its revision."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from flashq import codec
from flashq.apps.located import Located

if TYPE_CHECKING:
    from pathlib import Path

RUN = """
import os, pickle, sys
sys.path[:0] = sys.argv[2:]
function = pickle.loads(bytes.fromhex(sys.argv[1]))
print(function(4), os.getcwd())
"""
MODULE = """
from flashq import Endpoint
from more import factor

@Endpoint(name="located", cpu="any")
def times(n):
    return n * factor
"""


@pytest.mark.parametrize("root", ["", "src"])
@pytest.mark.parametrize("before", [[], ["elsewhere"]])
def test_a_function_is_found_in_the_apps_files_where_it_starts(
    tmp_path: Path, root: str, before: list[str]
) -> None:
    app = tmp_path / "app"
    (app / root / "pkg").mkdir(parents=True)
    (app / root / "pkg" / "__init__.py").write_text(MODULE)
    (app / root / "more.py").write_text("factor = 10\n")
    located = Located(("pkg",), "times", ("", "src") if root else ("",), {})
    pickled = codec.dump_function_at(located).hex()
    command = [sys.executable, "-c", RUN, pickled, *before, str(app)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.split() == ["40", str(app)]
