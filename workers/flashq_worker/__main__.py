"""`python -m flashq_worker`: one worker. Its configuration comes as JSON on standard input (see `config`)."""

from __future__ import annotations

import argparse
import sys

from flashq import logs
from flashq_worker.config import WorkerConfig
from flashq_worker.supervisor import Supervisor


def main() -> int:
    """Run a worker; the exit code is an `exit_policy.ExitCode`."""
    parser = argparse.ArgumentParser(prog="flashq_worker", description=__doc__)
    parser.add_argument(
        "--lifeline", type=int, help="a descriptor whose end of file means that the host agent died"
    )
    arguments = parser.parse_args()
    logs.set_up()
    config = WorkerConfig.from_json(sys.stdin.read())
    return Supervisor(config, lifeline=arguments.lifeline).run()


if __name__ == "__main__":
    sys.exit(main())
