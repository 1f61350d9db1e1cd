"""What a worker is told when it is started: a line of JSON on its standard input, never argv or environment."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from flashq.model.keyring import EndpointKeys

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """Everything a supervisor needs to know; secrets are in it, so it is never logged or written to a file."""

    url: str  # the broker
    prefix: str  # of its keys
    endpoint: str
    worker: str  # its id: <endpoint>-<uuid>
    host: str
    keys: EndpointKeys
    home: Path  # FLASHQ_HOME of the host: environments, inject folder
    revision: str = ""  # the revision and
    resources: str = (
        ""  # the digest of environment and resources it was ordered for; empty: whatever is current
    )
    booked: bool = True  # ordered by an autoscaler; False: started by hand
    lease_s: float = 15.0
    grace_s: float = 10.0  # between interrupting a job and killing what runs it
    drain_s: float = 30.0  # how long a terminated worker may finish what it runs
    payload_limit: int = 64 * 1024 * 1024
    gpu_uuids: tuple[str, ...] = ()  # bound through CUDA_VISIBLE_DEVICES; empty: GPUs are hidden
    cpus: float = 0.0  # cores it counts for: thread pools are sized by it; 0: not limited
    cores: tuple[int, ...] = ()  # those that it runs on; empty: all of its host
    memory_group: str = ""  # the folder of its control group; empty: it is in none of its own
    memory_bytes: int = 0  # what its container may have; 0: not limited
    engine: str = ""  # that runs containers here, by name; empty: the first that is found
    engine_options: tuple[str, ...] = ()  # of the operator, for each container
    calls: int = (
        -1
    )  # a descriptor: the line to the host agent for the calls that jobs make; -1: there is none
    spawned_ns: int = 0  # CLOCK_MONOTONIC of the host when it was started, for the breakdown of cold starts

    def to_json(self) -> str:
        """For the pipe to the worker's standard input."""
        fields = {**asdict(self), "keys": self.keys.to_wire(), "home": str(self.home)}
        return json.dumps(fields)

    @classmethod
    def from_json(cls, raw: str) -> Self:
        """Reads `to_json`'s text, also that of a host agent of another version: unknown fields are passed over."""
        given: Mapping[str, Any] = json.loads(raw)
        fields = {name: given[name] for name in cls.__slots__ if name in given}
        return cls(
            **{
                **fields,
                "keys": EndpointKeys.from_wire(fields["keys"]),
                "home": Path(fields["home"]),
                "gpu_uuids": tuple(fields["gpu_uuids"]),
                "cores": tuple(fields.get("cores", ())),
                "engine_options": tuple(fields.get("engine_options", ())),
            }
        )

    def __repr__(self) -> str:
        return f"WorkerConfig({self.worker})"
