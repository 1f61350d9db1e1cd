"""`python -m flashq_worker`: one worker.

Its configuration comes as a line of JSON on standard input (see `config`), and later, as they are rotated, its keys
(see `held_keys`).
"""

from __future__ import annotations

import argparse
import os
import sys

from flashq import logs, private
from flashq_worker.config import WorkerConfig
from flashq_worker.held_keys import HeldKeys, KeyWords
from flashq_worker.supervisor import Supervisor


def main() -> int:
    """Run a worker; the exit code is an `exit_policy.ExitCode`."""
    parser = argparse.ArgumentParser(prog="flashq_worker", description=__doc__)
    parser.add_argument(
        "--lifeline", type=int, help="a descriptor whose end of file means that the host agent died"
    )
    arguments = parser.parse_args()
    logs.set_up()
    private.keep()  # before it is told any key
    first, _, rest = _first_line(sys.stdin.fileno()).partition(b"\n")
    config = WorkerConfig.from_json(first.decode())
    keys = HeldKeys(config.keys)
    words = KeyWords(sys.stdin.fileno(), rest, keys)
    return Supervisor(config, keys, lifeline=arguments.lifeline, words=words).run()


def _first_line(descriptor: int) -> bytes:
    """At least one line, or all there is."""
    read = b""
    while b"\n" not in read and (piece := os.read(descriptor, 65536)):
        read += piece
    return read


if __name__ == "__main__":
    sys.exit(main())
