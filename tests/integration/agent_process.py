"""Runs a host agent as a test describes it: JSON of url, home, worker command and options as argument."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

from flashq.model.keyring import Keyring
from flashq.store.broker import Broker
from flashq_worker.host.agent import HostAgent
from flashq_worker.host.home import HostHome
from flashq_worker.host.presence import HostOptions
from flashq_worker.host.workers import WORKER_COMMAND

LOCAL_NAME = "broker.test"
"""Stands for this machine, to an agent that is started here."""
RESOLVER_S = 20.0


def resolve_with_trouble(lost: Path) -> None:
    """Have the system's resolver know LOCAL_NAME; while there is the file `lost`, not, after a long time."""
    system = socket.getaddrinfo

    def resolver(host: Any, *rest: Any, **options: Any) -> Any:
        if host != LOCAL_NAME:
            return system(host, *rest, **options)
        if lost.exists():
            time.sleep(RESOLVER_S)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return system("127.0.0.1", *rest, **options)

    socket.getaddrinfo = resolver


if __name__ == "__main__":
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    given = json.loads(sys.argv[1])
    if given["name_is_lost"] is not None:
        resolve_with_trouble(Path(given["name_is_lost"]))
    home = HostHome(Path(given["home"]))
    with home.lock():
        agent = HostAgent(
            Broker(given["url"], patience_s=0.5),
            Keyring([bytes(range(32))]),
            home,
            os.environ,
            HostOptions(**given["options"]),
            worker_command=given["worker_command"] or WORKER_COMMAND,
        )
        sys.exit(agent.run())
