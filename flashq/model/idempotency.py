"""What an idempotency key stands for: which calls are the same, as far as that can be told. Pure.

Keys are an endpoint's own. Two calls with one key have to be of one target, in one encoding (whoever calls in
JSON could not read a pickled result), and of equal arguments where these are comparable: where they are JSON's own
values. Equal objects may pickle to different bytes, so other arguments are not compared.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def stands_for(
    encoding: str, args: Sequence[Any], kwargs: Mapping[str, Any], target: str = ""
) -> tuple[str, str]:
    """Digests of the target and of the arguments; the latter is empty where they are not comparable."""
    return _digest(f"{encoding}\0{target}"), _digest(arguments) if (
        arguments := _canonical(args, kwargs)
    ) else ""


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _canonical(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    try:
        call = {"args": list(args), "kwargs": dict(kwargs)}
        return json.dumps(call, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return ""
