"""`python -m flashq.embedded [--holder FD] PLAN`: run a keeper, detached. Started by `join`, not by hand."""

from __future__ import annotations

import os
import socket
import sys

from flashq import private
from flashq.embedded.keeper import Keeper
from flashq.embedded.plan import Plan


def main(arguments: list[str]) -> int:
    """Run the keeper that these arguments describe."""
    private.keep()
    *options, written = arguments
    holder = socket.socket(fileno=int(options[1])) if options else None
    if holder is not None:
        holder.set_inheritable(False)
    return Keeper(Plan.load(written), holder).run()


if __name__ == "__main__":
    # Whoever started us waits for this process, and goes on; the keeper is its child, nobody's to wait for.
    if os.fork():
        os._exit(0)
    sys.exit(main(sys.argv[1:]))
