"""The JSON in the broker's records, as typed values within the ranges that a plan can be made of. Pure.

Whoever may write to the broker may write anything: what is not as it must be raises ValueError, and nothing is
decided from it. Fields unknown here are passed over, since a newer version may have written them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from flashq.model.parameters import LONGEST_S, MAX_CONCURRENCY, MAX_GPUS, MAX_WORKERS
from flashq_autoscaler.views import ScalerType, ThrottleCode, UnhealthyCode, WithheldCode

Bytes = Annotated[int, Field(ge=0, lt=1 << 63)]
Seconds = Annotated[float, Field(ge=0, le=LONGEST_S)]
_Workers = Annotated[int, Field(ge=0, le=MAX_WORKERS)]


class _Written(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False)


class Scaling(_Written):
    """An endpoint's `scaling`."""

    workers_min: _Workers
    workers_max: _Workers
    idle_timeout: Seconds
    scaler_type: ScalerType | None
    scaler_value: Annotated[float, Field(gt=0, le=LONGEST_S)]
    buffer: _Workers = 0


class Gpus(_Written):
    """The GPUs of one worker."""

    count: Annotated[int, Field(ge=1, le=MAX_GPUS)]
    products: list[str]
    others: bool = False
    cuda: str = ""


class Cpu(_Written):
    """The cores and memory of one worker; None: not counted."""

    cores: Annotated[float, Field(ge=0, le=1 << 20)] | None
    memory_gib: Annotated[int, Field(ge=0, le=1 << 20)] | None


class Resources(_Written):
    """What one worker needs of a host (see `flashq.model.spec.resources`)."""

    concurrency: Annotated[int, Field(ge=1, le=MAX_CONCURRENCY)]
    gpu: Gpus | None = None
    cpu: Cpu | None = None
    packages: list[str] = []
    volume: str | None = None
    image: str | None = None
    labels: list[str] = []
    datacenters: list[str] = []


class _Environment(_Written):
    python: str = ""
    requirements: list[str] = []


class Spec(_Written):
    """Of an endpoint's `spec`, what a decision depends on."""

    resources: Resources
    environment: _Environment = _Environment()

    @property
    def python(self) -> str:
        """The version of Python that a host has to have; empty: any, since an image brings its own."""
        own = self.resources.image and not self.environment.requirements
        return "" if own else self.environment.python


class Gpu(_Written):
    """One GPU of a host."""

    uuid: str
    name: str
    memory_bytes: Bytes
    foreign: bool
    fault: str = ""


class WrittenCondition(_Written):
    """An endpoint's condition, as this module's caller wrote it."""

    state: Literal["throttled", "unhealthy"]
    code: ThrottleCode | UnhealthyCode
    detail: str
    workers: Annotated[int, Field(ge=0)]
    retry_at: float | None = None


class WrittenWithheld(_Written):
    """A start held back."""

    code: WithheldCode
    detail: str
    due_at: float


GPUS = TypeAdapter(list[Gpu])
FAULTS = TypeAdapter(list[str])
LACKS = TypeAdapter(dict[str, str])
