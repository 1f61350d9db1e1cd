"""`python -m benchmarks.endurance [protocol rolling held soak] [--minutes N] [--jobs N] [--output FILE]`.

protocol: what a job costs in the broker, fenced, and its signatures. rolling: workers and hosts restarted in turn under
load. held: jobs that hold the interpreter's lock at full CPU. soak: memory and keys under a steady load. Without names
all of them. `--output` keeps what FILE holds of the others.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flashq
from benchmarks.endurance import held, protocol, rolling, soak
from benchmarks.recovery.record import about

if TYPE_CHECKING:
    from collections.abc import Callable


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="benchmarks.endurance", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="protocol, rolling, held, soak")
    parser.add_argument("--minutes", type=float, default=10.0, help="of held and soak, each (default 10)")
    parser.add_argument("--jobs", type=int, default=10_000, help="of rolling (default 10,000)")
    parser.add_argument("--output", type=Path, help="write the results as JSON")
    arguments = parser.parse_args()
    measures: dict[str, Callable[[], dict[str, Any]]] = {
        "protocol": protocol.measure,
        "rolling": lambda: rolling.measure(arguments.jobs),
        "held": lambda: held.measure(arguments.minutes * 60),
        "soak": lambda: soak.measure(arguments.minutes * 60),
    }
    if unknown := set(arguments.names) - measures.keys():
        parser.error(f"no such measurement: {', '.join(sorted(unknown))}")
    for name in arguments.names or measures:
        record = about({"flashq": flashq.__version__}, broker="Valkey 9, appendfsync everysec")
        found = measures[name]()
        print(f"{name}: {json.dumps(found, indent=1)}", flush=True)
        if arguments.output:
            before = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
            written = {**before, name: {"about": record, **found}}
            arguments.output.write_text(json.dumps(written, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
