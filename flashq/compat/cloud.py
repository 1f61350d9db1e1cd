"""Flash's names for what a cloud has: data centres, CUDA versions, network volumes, templates of pods.

Their values only; what becomes of them on one's own hosts is for `translate`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class DataCenter(str, Enum):  # noqa: UP042 -- a str and Enum, like Flash's
    """A data centre of the cloud."""

    US_CA_2 = "US-CA-2"
    US_IL_1 = "US-IL-1"
    US_KS_2 = "US-KS-2"
    US_MO_1 = "US-MO-1"
    US_MO_2 = "US-MO-2"
    US_NC_2 = "US-NC-2"
    US_NE_1 = "US-NE-1"
    US_WA_1 = "US-WA-1"
    EU_CZ_1 = "EU-CZ-1"
    EU_RO_1 = "EU-RO-1"
    EUR_NO_1 = "EUR-NO-1"

    @classmethod
    def from_string(cls, value: str) -> DataCenter:
        """The one of this name, in any case, with `_` or `-`. Raises ValueError."""
        try:
            return cls(value.strip().upper().replace("_", "-"))
        except ValueError:
            known = ", ".join(member.value for member in cls)
            raise ValueError(f"no data centre {value!r}; there are {known}") from None

    @classmethod
    def all(cls) -> list[DataCenter]:
        """Every one."""
        return list(cls)


CPU_DATACENTERS = frozenset({DataCenter.EU_RO_1})
"""Where the cloud has CPU endpoints. One's own hosts have them everywhere."""


class CudaVersion(Enum):
    """A version of CUDA that a host's driver is able to run."""

    V11_8 = "11.8"
    V12_0 = "12.0"
    V12_1 = "12.1"
    V12_2 = "12.2"
    V12_3 = "12.3"
    V12_4 = "12.4"
    V12_5 = "12.5"
    V12_6 = "12.6"
    V12_7 = "12.7"
    V12_8 = "12.8"
    V12_9 = "12.9"
    V13_0 = "13.0"


class ServerlessType(Enum):
    """How an endpoint is reached: by its queue, or by routes of its own."""

    QB = "QB"
    LB = "LB"


class NetworkVolume:
    """A disk of the cloud, by name or by id. `size` in GB is not enforced here."""

    def __init__(
        self,
        *,
        name: str | None = None,
        size: int | None = 100,
        datacenter: DataCenter | str | None = None,
        dataCenterId: DataCenter | str | None = None,  # noqa: N803 -- Flash's names
        id: str | None = None,  # noqa: A002
    ) -> None:
        if name is not None and not name.strip():
            raise ValueError("NetworkVolume(name): must not be empty")
        if not name and not id:
            raise ValueError("NetworkVolume: give its name or its id")
        if size is not None and not 10 <= size <= 4096:
            raise ValueError(f"NetworkVolume(size={size!r}): must be 10 to 4096 (GB)")
        self.name = name
        self.id = id
        self.size = size
        given = datacenter if dataCenterId is None else dataCenterId
        self.dataCenterId = DataCenter(given) if given is not None else DataCenter.EU_RO_1
        self.datacenter = datacenter

    def __repr__(self) -> str:
        return f"NetworkVolume({self.label!r})"

    @property
    def label(self) -> str:
        """What it is called."""
        return self.name or self.id or ""


@dataclass
class KeyValuePair:
    """A variable of a template."""

    key: str
    value: str

    @classmethod
    def from_dict(cls, data: dict[str, str]) -> list[KeyValuePair]:
        """One for each item."""
        return [cls(key, value) for key, value in data.items()]


@dataclass(kw_only=True)
class PodTemplate:
    """What the cloud starts a container with. Of it, `env` and the disk's size mean something here."""

    advancedStart: bool | None = False  # noqa: N815 -- Flash's names
    config: dict[str, Any] | None = field(default_factory=dict)
    containerDiskInGb: int | None = 64  # noqa: N815
    containerRegistryAuthId: str | None = ""  # noqa: N815
    dockerArgs: str | None = ""  # noqa: N815
    env: list[KeyValuePair | dict[str, str]] | None = field(default_factory=list)
    imageName: str | None = ""  # noqa: N815
    name: str | None = ""
    ports: str | None = ""
    startScript: str | None = ""  # noqa: N815
    id: str | None = None

    def variables(self) -> dict[str, str]:
        """Its variables by name."""
        pairs = [KeyValuePair(**pair) if isinstance(pair, dict) else pair for pair in self.env or []]
        return {pair.key: pair.value for pair in pairs}
