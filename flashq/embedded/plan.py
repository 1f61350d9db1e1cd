"""What a keeper is told to run, as a value: whoever starts it writes it, its command line carries it."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flashq.settings import Settings


class Leftovers(StrEnum):
    """What becomes of jobs that wait when a broker starts."""

    HOLD = "hold"
    """They are set aside."""
    RUN = "run"
    """They are run, and so are those set aside before."""
    CONTINUE = "continue"
    """They are run; those set aside stay aside."""


_FLASHQ = (sys.executable, "-P", "-m", "flashq")
"""-P: no module of the current folder stands in for one of ours."""
_BESIDE = MappingProxyType(
    {
        "host": (*_FLASHQ, "host", "--embedded"),
        # The keeper runs no two, so one that it started before is gone, whatever the broker thinks.
        "autoscaler": (*_FLASHQ, "autoscaler", "--take-over"),
    }
)


GATEWAY = (*_FLASHQ, "gateway", "--next-port")
"""Runs beside them where `flashq up` asks for it: programs that only call need none."""


class Plan(NamedTuple):
    """Nothing in it is secret: it shows in the process list. (A dataclass would cost a keeper 10 ms.)"""

    home: str
    namespace: str = "default"
    rq_prefix: str = "rq"
    lease_s: float = 15.0
    payload_limit: int = 64 * 2**20
    environments_days: float = 30.0
    environments_gib: float = 50.0
    labels: Sequence[str] = ()
    leftovers: Leftovers = Leftovers.HOLD
    """What becomes of the jobs that an earlier run left."""
    listen: tuple[str, int] | None = None
    """Address and port on which the broker listens beside its unix socket; it has a password then."""
    server: Sequence[str] = ()
    """The broker's program and first arguments; empty: the one that is found."""
    commands: Mapping[str, Sequence[str]] = _BESIDE
    """The processes beside the broker by name; each gets `--lifeline FD` and ends when that pipe does."""
    parent_death_signal: bool = sys.platform == "linux"
    """The kernel kills the children when the keeper dies; elsewhere their lifeline and a guard do."""

    @classmethod
    def of(cls, settings: Settings, **further: Any) -> Plan:
        """The plan for the private broker of these settings."""
        return cls(
            home=str(settings.home),
            namespace=settings.namespace,
            rq_prefix=settings.rq_prefix,
            lease_s=settings.lease_s,
            payload_limit=settings.payload_limit,
            environments_days=settings.environments_days,
            environments_gib=settings.environments_gib,
            labels=settings.labels,
        )._replace(**further)

    def dump(self) -> str:
        """As JSON."""
        return json.dumps(self._asdict() | {"commands": dict(self.commands)}, separators=(",", ":"))

    @classmethod
    def load(cls, written: str) -> Plan:
        """Read what `dump` wrote."""
        values = json.loads(written)
        if values["listen"] is not None:
            values["listen"] = tuple(values["listen"])
        values["labels"] = tuple(values["labels"])
        return cls(**values | {"leftovers": Leftovers(values["leftovers"])})

    @property
    def home_path(self) -> Path:
        return Path(self.home)
