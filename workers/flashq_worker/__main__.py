"""`python -m flashq_worker`: one worker.

Its configuration comes as a line of JSON on standard input (see `config`; before it, words for a spare, see `spare`),
and later, as they are rotated, its keys (see `held_keys`).
"""

from __future__ import annotations

import argparse
import logging
import os
import sys

from flashq import logs, private
from flashq_worker import memory_group, spare
from flashq_worker.config import WorkerConfig
from flashq_worker.held_keys import HeldKeys, KeyWords
from flashq_worker.supervisor import Supervisor

log = logging.getLogger("flashq.worker")


def main() -> int:
    """Run a worker; the exit code is an `exit_policy.ExitCode`."""
    parser = argparse.ArgumentParser(prog="flashq_worker", description=__doc__)
    parser.add_argument(
        "--lifeline", type=int, help="a descriptor whose end of file means that the host agent died"
    )
    return run(parser.parse_args().lifeline)


def run(lifeline: int | None) -> int:
    """Be told what to be, and be that."""
    logs.set_up()
    private.keep()  # before it is told any key
    spare.get_ready()
    waiting = spare.Spare(sys.stdin.fileno())
    config = WorkerConfig.from_json(waiting.configuration().decode())
    if config.cores:  # before anything has a thread; what runs jobs inherits it
        try:
            os.sched_setaffinity(0, config.cores)
        except OSError as error:  # some are there no longer
            log.warning("it is not kept to its cores %s: %s", config.cores, error.strerror)
    if config.memory_group:
        try:
            memory_group.enter(config.memory_group)
        except OSError as error:
            log.warning("it is not held to its memory: %s: %s", error.filename, error.strerror)
    keys = HeldKeys(config.keys)
    words = KeyWords(sys.stdin.fileno(), waiting.rest, keys)
    return Supervisor(config, keys, lifeline, words, waiting.parked).run()


if __name__ == "__main__":
    sys.exit(main())
