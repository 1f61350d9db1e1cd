"""One worker started by a person (`flashq worker NAME`), without host agent or autoscaler.

It is on record like any other and takes jobs like any other, and stays until it is told to end.
"""

from __future__ import annotations

import json
import os
import uuid
from typing import TYPE_CHECKING, Any

from flashq.errors import ConfigurationError, EndpointNotFound
from flashq.model.host_command import required
from flashq.model.resources import GpuRequest, cuda_suffices
from flashq.store import gpu_leases
from flashq.store.command import text
from flashq.store.queries_workers import standing
from flashq_worker.config import WorkerConfig
from flashq_worker.gpus.nvml import Gpus
from flashq_worker.host import inventory
from flashq_worker.host import offers as host_offers
from flashq_worker.supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flashq.keychain import Keychain
    from flashq.settings import Settings
    from flashq.store.broker import Broker


def serve(
    broker: Broker,
    keyring: Keychain,
    settings: Settings,
    endpoint: str,
    *,
    gpus: Sequence[str] = (),
    on_cpu: bool = False,
    lifeline: int | None = None,
) -> int:
    """Be a worker of `endpoint` until told to end; an `exit_policy.ExitCode`.

    `gpus`: the UUIDs of those it is bound to; none: as many free ones as the endpoint wants. `on_cpu`: it has
    none. `lifeline`: a descriptor at whose end of file it ends at once.

    Raises: EndpointNotFound; ConfigurationError where too few GPUs are free, or one that is named is another's.
    """
    written = broker.execute("HGET", broker.keys.of("endpoint", endpoint), "spec")
    if written is None:
        raise EndpointNotFound(f"there is no endpoint {endpoint}; call it once, and it is registered")
    resources = json.loads(text(written))["resources"]
    environ = os.environ  # noqa: TID251 — handed on to the package manager, not read
    if lacking := host_offers.missing(required(resources), environ, settings.container_engine):
        told = "; ".join(f"{what} ({why})" for what, why in lacking.items())
        raise ConfigurationError(f"this host lacks {told}")
    cpu, gpu = resources.get("cpu") or {}, resources.get("gpu")
    config = WorkerConfig(
        url=broker.url,
        prefix=broker.keys.prefix,
        endpoint=endpoint,
        worker=f"{endpoint}-{uuid.uuid4()}",
        host=inventory.hostname(),
        keys=keyring.for_endpoint(endpoint),
        home=settings.home,
        booked=False,
        lease_s=settings.lease_s,
        payload_limit=settings.payload_limit,
        gpu_uuids=() if on_cpu else _named_gpus(broker, gpus, gpu) or _free_gpus(broker, gpu),
        cpus=float(cpu.get("cores") or 0),
        memory_bytes=int(cpu.get("memory_gib") or 0) << 30,
        engine=settings.container_engine,
        engine_options=settings.container_options,
    )
    return int(Supervisor(config, keyring, lifeline).run())


def _named_gpus(broker: Broker, uuids: Sequence[str], wanted: Mapping[str, Any] | None) -> tuple[str, ...]:
    if not uuids:
        return ()
    if wanted is None:
        raise ConfigurationError("it is an endpoint without GPUs: --gpu has no use for it")
    if held := _holders(broker, uuids):
        raise ConfigurationError(", ".join(f"GPU {uuid} is held by worker {held[uuid]}" for uuid in held))
    here = {gpu.uuid for gpu in Gpus().sample().gpus}
    if missing := [uuid for uuid in uuids if uuid not in here]:
        known = ", ".join(sorted(here)) or "none"
        raise ConfigurationError(f"there is no GPU {', '.join(missing)} here; there are: {known}")
    return tuple(uuids)


def _holders(broker: Broker, uuids: Sequence[str]) -> dict[str, str]:
    """Those of these GPUs that a worker on record has, and which."""
    leases = {uuid: lease.worker for uuid, lease in gpu_leases.of(broker, uuids).items() if lease.worker}
    living = {row.id for row in standing(broker, list(leases.values())) if row.counts}
    return {uuid: worker for uuid, worker in leases.items() if worker in living}


def _free_gpus(broker: Broker, wanted: Mapping[str, Any] | None) -> tuple[str, ...]:
    if wanted is None:
        return ()
    request = GpuRequest(tuple(wanted["products"]), bool(wanted.get("others")))
    found = Gpus().sample()
    if not cuda_suffices(found.cuda, wanted.get("cuda", "")):
        raise ConfigurationError(
            f"it wants CUDA {wanted['cuda']}; the driver here runs {found.cuda or 'none'}"
        )
    ranked = [(rank, gpu) for gpu in found.gpus if (rank := request.rank(gpu.name)) is not None]
    suitable = [gpu for _, gpu in sorted(ranked, key=lambda it: it[0])]
    held = _holders(broker, [gpu.uuid for gpu in suitable])
    free = [gpu.uuid for gpu in suitable if gpu.uuid not in held and not found.unfit([gpu.uuid])]
    if len(free) < wanted["count"]:
        names = ", ".join(wanted["products"]) or "any"
        raise ConfigurationError(
            f"it wants {wanted['count']} GPU(s) ({names}), and of {len(suitable)} such here {len(free)} are free:"
            " --gpu names one all the same, --cpu runs it without"
            + "".join(f"; {fault}" for fault in found.faults)
        )
    return tuple(free[: wanted["count"]])
