"""Which apps are deployed to which environments, as the broker has it: for people, and for what undoes it.

Unsigned: nothing is run on the word of these records. What runs, the signed revisions of the endpoints say.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

from flashq.apps.manifest import check_name
from flashq.errors import ArtifactError, DeployError
from flashq.store.command import mapping, text

if TYPE_CHECKING:
    from flashq.store.broker import Broker

DEFAULT = "production"
"""The environment whose endpoints are called as the app calls them."""


@dataclass(frozen=True, slots=True)
class DeployedApp:
    """One app in one environment."""

    app: str
    environment: str
    artifact: str
    fingerprint: str
    endpoints: dict[str, str]
    """What the app calls each → what it is called in the broker."""
    deployed_ms: int
    by: str
    size: int

    @property
    def key(self) -> str:
        """Its field in the broker's hash."""
        return f"{self.app}/{self.environment}"


def name_in(environment: str, endpoint: str) -> str:
    """What an endpoint is called in an environment. Raises DeployError where that is no name."""
    named = endpoint if environment == DEFAULT else f"{endpoint}-{environment}"
    try:
        return check_name(named)
    except ArtifactError as error:
        raise DeployError(str(error)) from None


def check_environment(name: str) -> str:
    """An environment's name. Raises DeployError."""
    try:
        return check_name(name)
    except ArtifactError as error:
        raise DeployError(str(error)) from None


def deployed(broker: Broker, *, environment: str = "", app: str = "") -> list[DeployedApp]:
    """All apps, or those of an environment or of a name. Raises BrokerError."""
    found = mapping(broker.execute("HGETALL", broker.keys.of("apps")))
    read = (one for one in map(_read, found.values()) if one is not None)
    chosen = (one for one in read if environment in ("", one.environment) and app in ("", one.app))
    return sorted(chosen, key=lambda one: (one.environment, one.app))


def one(broker: Broker, app: str, environment: str) -> DeployedApp | None:
    """One app, if it is there."""
    return _read(text(broker.execute("HGET", broker.keys.of("apps"), f"{app}/{environment}")))


def write(broker: Broker, record: DeployedApp) -> None:
    """Put it on record, in place of what there was."""
    broker.execute("HSET", broker.keys.of("apps"), record.key, json.dumps(asdict(record), sort_keys=True))


def remove(broker: Broker, record: DeployedApp) -> None:
    """Forget it."""
    broker.execute("HDEL", broker.keys.of("apps"), record.key)


def _read(raw: str) -> DeployedApp | None:
    """None where it is no such record."""
    try:
        given = json.loads(raw)
        return DeployedApp(**{field.name: given[field.name] for field in fields(DeployedApp)})
    except (ValueError, TypeError, KeyError):
        return None
