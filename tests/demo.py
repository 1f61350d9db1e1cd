"""The modules of examples/ask_your_python, which find each other as neighbours of the script they serve."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.packages import require_packages

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


def require_model() -> None:
    """Skip the test where the wheel with the model cannot be had; fail it in CI."""
    require_packages(*embedding.REQUIREMENTS)
