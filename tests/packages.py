"""Whether packages can be had from an index here: what tests that install some require."""

from __future__ import annotations

import functools
import os
import subprocess
import sys

import pytest


@functools.cache
def _missing(requirements: tuple[str, ...]) -> str | None:
    """Why these cannot be installed here; None when they can."""
    resolve = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header", "-"]
    done = subprocess.run(resolve, input="\n".join(requirements), capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else done.stderr.strip() or f"uv ended with {done.returncode}"


def require_packages(*requirements: str) -> None:
    """Skip the test where these or what they need cannot be had; fail it in CI."""
    why = _missing(requirements)
    if why is None:
        return
    reason = f"{', '.join(requirements)} cannot be had: {why}"
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason}, and CI skips nothing", pytrace=False)
    pytest.skip(reason)
