"""`flashq init`: what it writes builds, has tests that pass, and runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from flashq.apps import scaffold
from flashq.errors import BuildError
from tests.integration.command_line import CommandLine

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def cli(tmp_path: Path) -> CommandLine:
    return CommandLine("unix:///nowhere", tmp_path)


def test_a_new_project_builds_and_its_tests_pass(cli: CommandLine, tmp_path: Path) -> None:
    folder = tmp_path / "my-app"
    written = cli("init", str(folder)).stdout.splitlines()
    assert str(folder / "app.py") in written

    told = json.loads(cli("build", str(folder), "--json").stdout)
    assert [one["name"] for one in told["endpoints"]] == ["my-app-greeter", "my-app-words"]
    assert told["app"] == "my-app"
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout

    # If it is written again, expect what is there to stay, unless it is told to
    (folder / "app.py").write_text("mine = 1\n")
    assert "app.py" in cli("init", str(folder), code=1).stderr
    assert (folder / "app.py").read_text() == "mine = 1\n"
    cli("init", str(folder), "--force")
    assert "Endpoint" in (folder / "app.py").read_text()


@pytest.mark.parametrize("name", ["", "Ä", "a--b", "-a", "a" * 60, "a b", "a/b", "../x"])
def test_a_name_that_endpoints_cannot_have_is_refused(name: str) -> None:
    with pytest.raises(BuildError, match="is no name for a project"):
        scaffold.files_of(name)
