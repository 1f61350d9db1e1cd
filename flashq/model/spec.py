"""What an endpoint is, as its decorator says it; and what one call may say for itself (`with_options`).

Each field's rule (parameters.py) turns what a user wrote into its one canonical form, or says what is
allowed. All that is wrong is raised as one `SpecError`. A parameter that this version cannot honour is
refused by name with the reason; its default is always taken.

A spec falls into groups by what a change of it costs:

- `environment` (packages, Python) and `resources` (GPU or cores, jobs at once): a new worker;
- `scaling`: nothing is replaced;
- `call_defaults`: the next call.

`env` is in no digest and nowhere shown: the digest of a short secret can be guessed back. Pure.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError

from flashq.errors import NotSupportedError, SpecError
from flashq.model import parameters as rules
from flashq.model.checks import nearest
from flashq.model.resources import CpuRequest, GpuGroup, GpuRequest
from flashq.model.retry import AT_MOST_ONCE, MAX_DELIVERIES, Retries, parse_retries

if TYPE_CHECKING:
    from collections.abc import Callable

MASK = "***"
"""Stands for every value of `env` in what people and the broker see."""


def _by(rule: Callable[[Any], Any]) -> PlainValidator:
    return PlainValidator(rule)


def _not_yet(reason: str, *unset: object) -> PlainValidator:
    return _by(rules.unsupported(reason, unset=(None, *unset)))


class _Parameters(BaseModel):
    """Named, frozen parameters. What is wrong with them becomes one `SpecError`."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
    where: ClassVar[str]

    def __init__(self, **given: Any) -> None:
        problems: list[SpecError] = []
        try:
            super().__init__(**self._completed(given))
        except ValidationError as error:
            problems = [
                self._problem(
                    item["loc"][0] if item["loc"] else "", item
                )  # a name that is no text has no place
                for item in error.errors(include_url=False)
            ]
        problems += [SpecError(name, message, where=self.where) for name, message in self._conflicts(given)]
        if problems:
            raise _as_one(problems, self.where)

    @classmethod
    def _completed(cls, given: dict[str, Any]) -> dict[str, Any]:
        """The parameters with defaults that depend on others."""
        return given

    @classmethod
    def _conflicts(cls, given: dict[str, Any]) -> list[tuple[str, str]]:
        """Parameters that may each be right and are wrong together, with why; here: none."""
        return []

    @classmethod
    def _problem(cls, name: int | str, item: Any) -> SpecError:
        parameter = str(name)
        if item["type"] == "extra_forbidden":
            if parameter in rules.DECLINED:
                return NotSupportedError(parameter, rules.DECLINED[parameter], where=cls.where)
            known = ", ".join(cls.model_fields)
            hint = nearest(parameter, cls.model_fields)
            return SpecError(parameter, f"no such parameter{hint}; there are {known}", where=cls.where)
        cause = item["ctx"]["error"]
        kind = NotSupportedError if isinstance(cause, rules.Unsupported) else SpecError
        if parameter in rules.SECRET or len(repr(item["input"])) > 200:
            return kind(parameter, str(cause), where=cls.where)
        return kind(parameter, str(cause), value=item["input"], where=cls.where)


def _as_one(problems: list[SpecError], where: str) -> SpecError:
    """One error for all problems, a line each; about the first, and `NotSupportedError` only if all are."""
    if len(problems) == 1:
        return problems[0]
    kind = NotSupportedError if all(isinstance(p, NotSupportedError) for p in problems) else SpecError
    error = kind(problems[0].parameter, "", where=where)
    error.args = ("\n".join(str(problem) for problem in problems),)
    return error


A_SECOND_RUN = "a retry is a second run, which delivery='at_most_once' rules out"


def _are_retries(given: object) -> bool:
    """Whether this asks for any; what is no policy is its own rule's to refuse."""
    try:
        return parse_retries(given).max > 0
    except ValueError:
        return False


def _against_batches(given: dict[str, Any]) -> list[tuple[str, str]]:
    found = []
    if given.get("max_concurrency", 1) != 1:
        found.append(("batch", "a worker runs one batch at a time: max_concurrency has to stay 1"))
    if given.get("delivery") == AT_MOST_ONCE:
        found.append(("batch", "a batch that fails is run again item by item, which at_most_once rules out"))
    return found


def _beside_id(given: dict[str, Any], spec: type[BaseModel]) -> list[tuple[str, str]]:
    if given.get("id") is None:
        return []
    unset = {name: (None, field.default) for name, field in spec.model_fields.items() if name != "id"}
    why = "is what the endpoint was deployed with: give its id alone"
    return [(name, why) for name, value in given.items() if name in unset and value not in unset[name]][:1]


class EndpointSpec(_Parameters):
    """Every parameter of `Endpoint(...)` by its name, with its default, in canonical form."""

    where: ClassVar[str] = "Endpoint"

    name: Annotated[str | None, _by(rules.name)] = None
    id: Annotated[str | None, _by(rules.name)] = None
    """Of an endpoint that something else deployed, to be called by name; then nothing else is given."""
    gpu: Annotated[GpuRequest | None, _by(rules.gpu)] = None
    """None exactly when `cpu` is set."""
    cpu: Annotated[CpuRequest | None, _by(rules.cpu)] = None
    workers: Annotated[tuple[int, int], _by(rules.workers)] = (0, 1)
    idle_timeout: Annotated[float, _by(rules.idle_timeout)] = 60
    dependencies: Annotated[tuple[str, ...], _by(rules.dependencies)] = ()
    system_dependencies: Annotated[tuple[str, ...], _by(rules.system_dependencies)] = ()
    accelerate_downloads: Annotated[bool, _by(rules.accelerate_downloads)] = True
    volume: Annotated[str | None, _by(rules.volume)] = None
    datacenter: Annotated[tuple[str, ...], _by(rules.datacenter)] = ()
    env: Annotated[dict[str, str], _by(rules.env)] = Field(default_factory=dict, repr=False)
    gpu_count: Annotated[int, _by(rules.gpu_count)] = 1
    execution_timeout_ms: Annotated[int, _by(rules.execution_timeout_ms)] = 0
    flashboot: Annotated[bool, _by(rules.flashboot)] = True
    image: Annotated[str | None, _by(rules.image)] = None
    scaler_type: Annotated[str | None, _by(rules.scaler_type)] = None
    scaler_value: Annotated[float, _by(rules.scaler_value)] = 4
    template: Annotated[None, _not_yet("workers do not run in pods, so there is nothing for a template")] = (
        None
    )
    min_cuda_version: Annotated[str | None, _by(rules.min_cuda_version)] = None
    python_version: Annotated[str, _by(rules.python_version)] = Field(default_factory=rules.caller_python)
    max_concurrency: Annotated[int, _by(rules.max_concurrency)] = 1
    retries: Annotated[Retries, _by(parse_retries)] = Retries()
    priority: Annotated[int, _by(rules.priority)] = 0
    result_ttl: Annotated[int, _by(rules.result_ttl)] = 1800
    ttl: Annotated[float, _by(rules.ttl)] = 86_400
    delivery: Annotated[str, _by(rules.delivery)] = "at_least_once"
    max_deliveries: Annotated[int, _by(rules.max_deliveries)] = MAX_DELIVERIES
    max_queued: Annotated[int | None, _by(rules.max_queued)] = None
    batch: Annotated[tuple[int, int] | None, _by(rules.batch)] = None
    hosts: Annotated[tuple[str, ...], _by(rules.hosts)] = ()
    startup_timeout: Annotated[float, _by(rules.startup_timeout)] = 600
    recycle_jobs: Annotated[int | None, _by(rules.recycle_jobs)] = None
    recycle_gib: Annotated[float | None, _by(rules.recycle_gib)] = None
    buffer: Annotated[int, _by(rules.buffer)] = 0

    @classmethod
    def _completed(cls, given: dict[str, Any]) -> dict[str, Any]:
        if given.get("gpu") is None and given.get("cpu") is None:
            return {**given, "gpu": GpuGroup.ANY}
        return given

    @classmethod
    def _conflicts(cls, given: dict[str, Any]) -> list[tuple[str, str]]:
        found = _beside_id(given, cls)
        if given.get("cpu") is not None:
            if given.get("gpu") is not None:
                found.append(("gpu", "gpu and cpu exclude each other; give one of them"))
            if given.get("gpu_count", 1) != 1:
                found.append(("gpu_count", "a cpu endpoint has no GPUs to count"))
            if given.get("min_cuda_version") is not None:
                found.append(("min_cuda_version", "a cpu endpoint runs without CUDA"))
        if given.get("scaler_type") is None and given.get("scaler_value", 4) != 4:
            found.append(
                ("scaler_value", "means nothing without scaler_type='QUEUE_DELAY' or 'REQUEST_COUNT'")
            )
        if given.get("batch") is not None:
            found += _against_batches(given)
        if given.get("delivery") == AT_MOST_ONCE:
            if given.get("max_deliveries", MAX_DELIVERIES) not in (1, MAX_DELIVERIES):
                found.append(
                    ("max_deliveries", "delivery='at_most_once' is one delivery, whatever comes of it")
                )
            if _are_retries(given.get("retries")):
                found.append(("retries", A_SECOND_RUN))
        return found

    def named(self, function: str) -> Self:
        """This spec with a name: its own, else the decorated function's, under the same rule."""
        if self.name is not None:
            return self
        try:
            return self.model_copy(update={"name": rules.name(function)})
        except ValueError as error:
            message = f"{error}; it was taken from the function, so give the endpoint a name of its own"
            raise SpecError("name", message, value=function, where=self.where) from None


class CallOptions(_Parameters):
    """What one call says for itself; None is "as the endpoint says". Times are seconds."""

    where: ClassVar[str] = "with_options"

    key: Annotated[str | None, _by(rules.optional(rules.key))] = None
    priority: Annotated[int | None, _by(rules.optional(rules.priority))] = None
    delay_s: Annotated[float | None, _by(rules.optional(rules.delay_s))] = None
    ttl_s: Annotated[float | None, _by(rules.optional(rules.ttl))] = None
    timeout_s: Annotated[float | None, _by(rules.optional(rules.timeout_s))] = None
    retries: Annotated[Retries | None, _by(rules.optional(parse_retries))] = None
    delivery: Annotated[str | None, _by(rules.optional(rules.delivery))] = None

    @classmethod
    def _conflicts(cls, given: dict[str, Any]) -> list[tuple[str, str]]:
        if given.get("delivery") == AT_MOST_ONCE and _are_retries(given.get("retries")):
            return [("retries", A_SECOND_RUN)]
        return []

    def merged(self, **changes: Any) -> CallOptions:
        """These options with some of them changed, checked together."""
        mine = {name: getattr(self, name) for name in type(self).model_fields}
        return CallOptions(**{**mine, **changes})


# -- groups, digests, the record ---------------------------------------------------------------------


def environment(spec: EndpointSpec) -> dict[str, Any]:
    """What is installed: `python` (minor version), `requirements` (sorted; none: the host's packages)."""
    return {"python": spec.python_version, "requirements": list(spec.dependencies)}


def concurrency(spec: EndpointSpec) -> int:
    """How many jobs one worker has at once: side by side, or in one batch."""
    return spec.max_concurrency if spec.batch is None else spec.batch[0]


def process(spec: EndpointSpec) -> dict[str, Any]:
    """What holds for the process that runs its jobs: those that are not the default.

    `startup_timeout` in seconds, `recycle_jobs`, `recycle_gib`. Part of the revision, not of what a host has to
    have.
    """
    fields = type(spec).model_fields
    names = ("startup_timeout", "recycle_jobs", "recycle_gib")
    given = {name: getattr(spec, name) for name in names}
    return {name: value for name, value in given.items() if value != fields[name].default}


def port(spec: EndpointSpec) -> int:
    """Where the server of an image listens: `PORT` of its `env`, else 80, as Runpod has it. Raises SpecError."""
    given = spec.env.get("PORT", "80")
    if not given.isdecimal() or not 0 < int(given) < 65536:
        raise SpecError("env", f"PORT={given[:20]!r} is no port")
    return int(given)


def resources(spec: EndpointSpec) -> dict[str, Any]:
    """What one worker needs of a host, and how many jobs it runs at once.

    Either `gpu` (`products`: NVML product names, empty for any; `count`; if they are asked for, `others`: any
    model after those, and `cuda`: the oldest version) or `cpu` (`instance`; `cores` and `memory_gib`, None where
    not counted), and `concurrency`; `batch_ms` where calls are gathered for so long; `packages`, `volume`, `image`,
    `labels` (all of them) and `datacenters` (one of them) where there are any.
    """
    needs: dict[str, Any] = {"concurrency": concurrency(spec)}
    if spec.batch is not None:
        needs["batch_ms"] = spec.batch[1]
    if spec.gpu is not None:
        needs["gpu"] = {"products": list(spec.gpu.products), "count": spec.gpu_count}
        if spec.gpu.others:
            needs["gpu"]["others"] = True
        if spec.min_cuda_version is not None:
            needs["gpu"]["cuda"] = spec.min_cuda_version
    if spec.cpu is not None:
        cpu = spec.cpu
        needs["cpu"] = {"instance": cpu.instance, "cores": cpu.cores, "memory_gib": cpu.memory_gib}
    beside = {
        "packages": list(spec.system_dependencies),
        "volume": spec.volume,
        "image": spec.image,
        "labels": list(spec.hosts),
        "datacenters": list(spec.datacenter),
    }
    return needs | {name: value for name, value in beside.items() if value}


def scaling(spec: EndpointSpec) -> dict[str, Any]:
    """What can change without replacing a worker. `idle_timeout` in seconds."""
    return {
        "workers_min": spec.workers[0],
        "workers_max": spec.workers[1],
        "idle_timeout": spec.idle_timeout,
        "scaler_type": spec.scaler_type,
        "scaler_value": spec.scaler_value,
        **({"buffer": spec.buffer} if spec.buffer else {}),
    }


def call_defaults(spec: EndpointSpec) -> dict[str, Any]:
    """What holds for calls that say nothing else: seconds, but `execution_timeout_ms`."""
    return {
        "execution_timeout_ms": spec.execution_timeout_ms,
        "retries": spec.retries.as_dict(),
        "priority": spec.priority,
        "result_ttl": spec.result_ttl,
        "ttl": spec.ttl,
        "delivery": spec.delivery,
        "max_deliveries": spec.max_deliveries,
        "max_queued": spec.max_queued,
    }


def public(spec: EndpointSpec) -> dict[str, Any]:
    """The spec for the endpoint's record: JSON-safe, with the values of `env` masked."""
    return {
        "name": spec.name,
        "environment": environment(spec),
        "resources": resources(spec),
        "scaling": scaling(spec),
        **({"process": made} if (made := process(spec)) else {}),
        "call_defaults": call_defaults(spec),
        "env": dict.fromkeys(sorted(spec.env), MASK),
    }


def environment_digest(spec: EndpointSpec) -> str:
    """SHA-256 (hex) of `environment`: workers of one digest can share an installation."""
    return _digest("environment", environment(spec))


def resource_digest(spec: EndpointSpec) -> str:
    """SHA-256 (hex) of `environment` and `resources`: a worker with another one is outdated."""
    return _digest("resources", {"environment": environment(spec), "resources": resources(spec)})


def needs_digest(spec: EndpointSpec) -> str:
    """SHA-256 (hex) of what a worker needs of its host: one that took something else cannot stand in."""
    return _digest(
        "needs", {k: value for k, value in resources(spec).items() if k not in ("concurrency", "batch_ms")}
    )


def canonical_json(value: Any) -> str:
    """JSON text that is the same for equal values: sorted keys, no blanks, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _digest(what: str, value: Any) -> str:
    return hashlib.sha256(f"flashq/{what}/1\0{canonical_json(value)}".encode()).hexdigest()
