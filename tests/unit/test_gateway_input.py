"""Inputs are compared with signatures, and nothing else is done meanwhile."""

from __future__ import annotations

import urllib.request
from typing import TYPE_CHECKING, Any

from flashq.gateway.checked_input import Signature

if TYPE_CHECKING:
    import pytest


def test_no_schema_has_anything_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a schema that refers to an address (a class of the user's may write its own), expect it not to be asked:
    the worker judges.
    """
    asked: list[Any] = []
    monkeypatch.setattr(urllib.request, "urlopen", lambda *args, **_: asked.append(args))
    elsewhere = Signature(
        {
            "type": "object",
            "properties": {"it": {"$ref": "http://169.254.169.254/latest"}},
            "required": ["it"],
            "additionalProperties": False,
            "x-positional": ["it"],
        }
    )
    assert elsewhere.arguments({"it": 1}).kwargs == {"it": 1}
    assert elsewhere.arguments(1).args == [1]
    assert asked == []
