"""`python -m flashq_autoscaler`: the autoscaler of the broker that the settings name."""

from __future__ import annotations

import argparse
import sys

from flashq import logs, private
from flashq.errors import ConfigurationError
from flashq.settings import Settings
from flashq_autoscaler.loop import serve


def main() -> int:
    """Scale until SIGTERM or SIGINT; 2 where the settings are wrong."""
    parser = argparse.ArgumentParser(prog="flashq_autoscaler", description=__doc__)
    parser.add_argument(
        "--lifeline", type=int, help="a descriptor at whose end of file the autoscaler ends too"
    )
    given = parser.parse_args()
    logs.set_up()
    private.keep()
    try:
        serve(Settings.load(), lifeline=given.lifeline)
    except ConfigurationError as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
