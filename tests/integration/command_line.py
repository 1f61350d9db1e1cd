"""Runs `flashq` commands in this process, against one broker."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from click.testing import CliRunner

from flashq.cli import flashq
from tests.rig import SECRET

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result


class CommandLine:
    """The command line with settings of its own; each call expects an exit code."""

    def __init__(self, url: str, home: Path) -> None:
        self.home = home
        self.environ = {"FLASHQ_REDIS_URL": url, "FLASHQ_HOME": str(home), "FLASHQ_SECRET_KEY": SECRET.hex()}

    def __call__(self, *args: str, code: int = 0, stdin: str | None = None) -> Result:
        result = CliRunner().invoke(flashq, args, env=self.environ, input=stdin)
        assert result.exit_code == code, (result.output, result.exception)
        return result

    def rows(self, *args: str) -> list[dict[str, Any]]:
        """What a command prints with --json."""
        found = json.loads(self(*args, "--json").stdout)
        assert isinstance(found, list)
        return found
