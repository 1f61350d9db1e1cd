"""What a keeper is told to run, as a value: whoever starts it writes it, its command line carries it."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flashq.settings import Settings


class Leftovers(StrEnum):
    """What becomes of jobs that wait when a broker starts."""

    HOLD = "hold"
    """They are set aside."""
    RUN = "run"
    """They are run, and so are those set aside before."""
    CONTINUE = "continue"
    """They are run; those set aside stay aside."""


def _default_commands() -> dict[str, list[str]]:
    # -P: no module of the current folder stands in for one of ours.
    flashq = [sys.executable, "-P", "-m", "flashq"]
    return {"host": [*flashq, "host", "--embedded"], "autoscaler": [*flashq, "autoscaler"]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Nothing in it is secret: it shows in the process list."""

    home: str
    namespace: str = "default"
    rq_prefix: str = "rq"
    lease_s: float = 15.0
    payload_limit: int = 64 * 2**20
    leftovers: Leftovers = Leftovers.HOLD
    """What becomes of the jobs that an earlier run left."""
    listen: tuple[str, int] | None = None
    """Address and port on which the broker listens beside its unix socket; it has a password then."""
    server: list[str] = field(default_factory=list)
    """The broker's program and first arguments; empty: the one that is found."""
    commands: dict[str, list[str]] = field(default_factory=_default_commands)
    """The processes beside the broker by name; each gets `--lifeline FD` and ends when that pipe does."""
    parent_death_signal: bool = sys.platform == "linux"
    """The kernel kills the children when the keeper dies; elsewhere their lifeline and a guard do."""

    @classmethod
    def of(cls, settings: Settings, **further: object) -> Plan:
        """The plan for the private broker of these settings."""
        values = {
            "home": str(settings.home),
            "namespace": settings.namespace,
            "rq_prefix": settings.rq_prefix,
            "lease_s": settings.lease_s,
            "payload_limit": settings.payload_limit,
        }
        return cls(**values | further)  # type: ignore[arg-type]

    def dump(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def load(cls, written: str) -> Plan:
        """Read what `dump` wrote."""
        values = json.loads(written)
        if values["listen"] is not None:
            values["listen"] = tuple(values["listen"])
        return cls(**values)

    @property
    def home_path(self) -> Path:
        return Path(self.home)
