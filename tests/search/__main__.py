"""Searches scopes and writes down what they came to.

    python -m tests.search [--output benchmarks/results/search.json] [SCOPE …]

Each scope's result takes its place in the file when it is there. Exit code 1 where something is wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.about import about
from flashq.store.scripts import library
from tests.rig import BrokerServer
from tests.search.scopes import LARGE, SCOPES, scope
from tests.search.search import Found, Search


def main() -> int:
    """Search what is asked for, everything if nothing is."""
    parser = argparse.ArgumentParser(prog="python -m tests.search", description=__doc__.splitlines()[0])
    parser.add_argument(
        "scopes", nargs="*", metavar="SCOPE", help="of scopes.py; all of them if none is named"
    )
    parser.add_argument("--output", type=Path, help="write the results to this file as JSON")
    asked = parser.parse_args()
    wrong = 0
    with closing(BrokerServer("valkey", appendonly="no")) as server:
        for name in asked.scopes or [scope.name for scope in (*SCOPES, *LARGE)]:
            found = Search(scope(name), server.url).run()
            print(found, *found.problems, sep="\n", flush=True)
            wrong += bool(found.problems)
            if asked.output is not None and not found.problems:
                _write(asked.output, found)
    return int(wrong > 0)


def _write(file: Path, found: Found) -> None:
    results: dict[str, Any] = json.loads(file.read_text("utf-8")) if file.exists() else {}
    results[found.scope] = {
        "about": {**about("python -m tests.search"), "scripts": library().name},
        "states": found.states,
        "transitions": found.transitions,
        "depth": found.deepest,
        "took_s": round(found.took_s, 1),
    }
    file.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n", "utf-8")


if __name__ == "__main__":
    sys.exit(main())
