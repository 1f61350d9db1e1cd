"""A Flash program's modules in another program: a test of theirs, without server and processes."""

from __future__ import annotations

import asyncio
import importlib
import sys
from typing import TYPE_CHECKING

import flashq.testing
from flashq.compat import finder, install

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

MODULE = """
from runpod_flash import Endpoint

@Endpoint(name="flash-installed", cpu="cpu3c-1-2")
async def shout(data: dict) -> dict:
    return {"text": data["text"].upper()}
"""


def test_a_module_of_a_flash_program_is_tested_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a module that is written for Flash, and a test that installs the stand-in before it imports that
    (tmp_path / "flash_shouts.py").write_text(MODULE, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    install()
    try:
        shouts = importlib.import_module("flash_shouts")

        # If it is called on the broker of tests, expect its value
        with flashq.testing.local():
            assert asyncio.run(shouts.shout({"text": "a"})) == {"text": "A"}
    finally:
        finder.uninstall()
        sys.modules.pop("flash_shouts", None)
