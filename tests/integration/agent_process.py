"""Runs a host agent as a test describes it: JSON of url, home, worker command and options as argument."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path

from flashq.model.keyring import Keyring
from flashq.store.broker import Broker
from flashq_worker.host import HostAgent
from flashq_worker.host_home import HostHome
from flashq_worker.host_presence import HostOptions
from flashq_worker.host_workers import WORKER_COMMAND

if __name__ == "__main__":
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    given = json.loads(sys.argv[1])
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
