"""`python -m flashq_autoscaler`: the autoscaler of the broker that the settings name."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from typing import TYPE_CHECKING

from flashq.errors import ConfigurationError, SettingsError
from flashq.model.keyring import Keyring
from flashq.settings import Settings
from flashq.store.broker import Broker
from flashq_autoscaler.loop import Autoscaler

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Scale until SIGTERM or SIGINT; 2 where the settings are wrong."""
    parser = argparse.ArgumentParser(prog="flashq autoscaler", description=__doc__)
    parser.add_argument(
        "--lifeline", type=int, help="a descriptor at whose end of file the autoscaler ends too"
    )
    given = parser.parse_args(arguments)
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s"
    )
    try:
        settings = Settings.load()
        if settings.redis_url is None:
            raise SettingsError("no broker: set FLASHQ_REDIS_URL, or let `flashq up` start one here")
        broker = Broker(settings.redis_url, prefix=settings.rq_prefix, patience_s=0.5)
        keyring = Keyring(settings.require_secrets(), settings.namespace)
    except ConfigurationError as error:
        logging.getLogger("flashq.autoscaler").error("%s", error)
        return 2
    autoscaler = Autoscaler(broker, keyring, lease_s=settings.lease_s)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: autoscaler.stop())
    autoscaler.run(lifeline=given.lifeline)
    return 0


if __name__ == "__main__":
    sys.exit(main())
