"""How the benchmark talks to a peer's client: one JSON array a line, on standard input; one answer a line."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def serve(verbs: Mapping[str, Callable[..., Any]]) -> None:
    """Answer until the end of the input."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what the peer prints is no answer
    for line in sys.stdin:
        verb, *arguments = json.loads(line)
        print(json.dumps(verbs[verb](*arguments)), file=answers, flush=True)
