"""`flashq host`: the host agent of this machine, by its settings."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from flashq.errors import SettingsError
from flashq.keychain import Keychain
from flashq.store.broker import Broker
from flashq_worker.environments.expiry import Limits
from flashq_worker.host.agent import HostAgent
from flashq_worker.host.home import HostHome
from flashq_worker.host.presence import HostOptions

if TYPE_CHECKING:
    from flashq.settings import Settings

__all__ = ["HostOptions", "Limits", "serve"]


def serve(settings: Settings, options: HostOptions, lifeline: int | None = None) -> int:
    """Be the host agent of this machine until told to end; the exit code.

    Raises SettingsError where no broker or key is set, or another agent uses this home.
    """
    if settings.redis_url is None:
        raise SettingsError(
            "no broker: set FLASHQ_REDIS_URL, or let `flashq up` start one and this beside it"
        )
    broker = Broker(settings.redis_url, prefix=settings.rq_prefix, patience_s=0.5)
    keyring = Keychain.of(settings)
    home = HostHome(settings.home)
    with home.lock():
        environ = os.environ  # noqa: TID251 — handed on to workers, not read
        return HostAgent(broker, keyring, home, environ, options, lifeline=lifeline).run()
