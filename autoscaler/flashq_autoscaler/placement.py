"""Where a worker can run (R7, R9): what each host has left, and why none will do. Pure.

Resources are granted one worker at a time; a GPU goes to one worker only, and is held as long as any worker
on record names it, in whatever state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flashq_autoscaler.fleet import is_live

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flashq_autoscaler.views import GpuView, HostView, Needs, ThrottleCode, WorkerView

_GIB = 2**30
# The nearer a host came to taking the worker, the more its reason tells.
_NEARNESS: dict[ThrottleCode, int] = {
    "NO_HOST": 0,
    "LABELS": 1,
    "NO_GPU": 2,
    "FOREIGN_MEMORY": 3,
    "QUOTA": 4,
    "NO_CPU": 5,
    "HOST_MEMORY": 6,
}


@dataclass(frozen=True, slots=True)
class Place:
    """Room for one worker."""

    host: str
    gpu_uuids: tuple[str, ...]
    cpus: float
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why no host has room."""

    code: ThrottleCode
    detail: str


@dataclass(slots=True)
class _Room:
    """What is left of one host."""

    host: HostView
    cpus: float
    memory_bytes: float
    slots: float
    labels: frozenset[str]
    gpus: list[GpuView] = field(default_factory=list)
    """Free ones, neither held nor foreign, the smallest first."""
    workers: int = 0
    environments: set[str] = field(default_factory=set)
    """Those with a worker here: surely built."""


class Ledger:
    """What the hosts have left while starts are granted one by one."""

    def __init__(self, hosts: Iterable[HostView], workers: Iterable[WorkerView], now: float) -> None:
        """`workers`: all on record. The lost and the silent hold only their GPUs."""
        self._hosts = sorted(hosts, key=lambda host: host.id)
        self._silent = [host for host in self._hosts if now > host.beat_at + host.lease_s]
        self._holders: dict[str, str] = {}
        self._refused: set[Needs] = set()
        usable = [host for host in self._hosts if host not in self._silent and not host.draining]
        self._rooms = {host.id: _room(host) for host in usable}
        for worker in workers:
            self._take_in(worker, now)
        for room in self._rooms.values():
            room.gpus = sorted(
                (gpu for gpu in room.host.gpus if not gpu.foreign and gpu.uuid not in self._holders),
                key=lambda gpu: (gpu.memory_bytes, gpu.uuid),
            )

    def _take_in(self, worker: WorkerView, now: float) -> None:
        for uuid in worker.gpu_uuids:
            self._holders[uuid] = f"worker {worker.id} of {worker.endpoint}"
        room = self._rooms.get(worker.host)
        if room is None or not is_live(worker) or now > worker.beat_at + worker.lease_s:
            return
        room.cpus -= worker.cpus
        room.memory_bytes -= worker.memory_bytes
        room.slots -= 1
        room.workers += 1
        room.environments.add(worker.environment)

    def grant(self, endpoint: str, needs: Needs, environment: str) -> Place | None:
        """Take what one worker of `endpoint` needs from the host that suits it best; None: there is none.

        Preferred, in this order: a GPU to the CPU fallback; the model named first; a host where the
        environment is in use; the fewest GPUs left (for a CPU worker: the fewest at all); the most cores.
        """
        if needs in self._refused:
            return None
        fitting = [room for room in self._rooms.values() if self._obstacle(room, needs) is None]
        if not fitting:
            self._refused.add(needs)
            return None
        room = min(fitting, key=lambda room: _preference(room, needs, environment))
        gpus = _suitable(room.gpus, needs)[: 0 if _on_cpu(room, needs) else needs.gpus]
        room.gpus = [gpu for gpu in room.gpus if gpu not in gpus]
        self._holders.update((gpu.uuid, f"a worker of {endpoint} about to start") for gpu in gpus)
        room.cpus -= needs.cpus
        room.memory_bytes -= needs.memory_bytes
        room.slots -= 1
        room.workers += 1
        room.environments.add(environment)
        return Place(room.host.id, tuple(gpu.uuid for gpu in gpus), needs.cpus, needs.memory_bytes)

    def _obstacle(self, room: _Room, needs: Needs) -> ThrottleCode | None:
        """The first thing that keeps a worker off a host; None: it fits."""
        if not room.labels.issuperset(needs.labels):
            return "LABELS"
        if needs.gpus and not _on_cpu(room, needs) and len(_suitable(room.gpus, needs)) < needs.gpus:
            present = [gpu for gpu in _suitable(room.host.gpus, needs) if gpu.uuid not in self._holders]
            return "FOREIGN_MEMORY" if len(present) >= needs.gpus else "NO_GPU"
        if room.slots < 1:
            return "QUOTA"
        if needs.cpus > room.cpus + 1e-9:
            return "NO_CPU"
        if needs.memory_bytes > room.memory_bytes:
            return "HOST_MEMORY"
        return None

    def refusal(self, needs: Needs) -> Refusal:
        """Why no host can take a worker with these needs, now that all grants are made."""
        if not self._rooms:
            return Refusal("NO_HOST", self._no_host())
        obstacles = [(code, room) for room in self._rooms.values() if (code := self._obstacle(room, needs))]
        code, room = max(obstacles, key=lambda it: (_NEARNESS[it[0]], len(_suitable(it[1].host.gpus, needs))))
        others = len(self._rooms) - 1
        elsewhere = f"; no better on {others} other host{'s' * (others > 1)}" if others else ""
        return Refusal(code, self._explain(code, room, needs) + elsewhere)

    def _no_host(self) -> str:
        if not self._hosts:
            return "no host is connected"
        silent = len(self._silent)
        return f"of {len(self._hosts)} hosts {silent} are silent and {len(self._hosts) - silent} are draining"

    def _explain(self, code: ThrottleCode, room: _Room, needs: Needs) -> str:
        host = room.host
        if code == "LABELS":
            missing = ", ".join(sorted(set(needs.labels) - room.labels))
            return f"host {host.id} lacks the label {missing}"
        if code in ("NO_GPU", "FOREIGN_MEMORY"):
            return self._explain_gpus(host, needs)
        if code == "QUOTA":
            return f"host {host.id} runs {room.workers} workers of at most {host.slots}"
        if code == "NO_CPU":
            left, total = max(0.0, room.cpus), host.cpus
            have = f"needs {needs.cpus:g} cores; host {host.id} has {left:g} of {total:g}"
        else:
            left, total = max(0.0, room.memory_bytes) / _GIB, (host.memory_bytes or 0) / _GIB
            have = (
                f"needs {needs.memory_bytes / _GIB:.1f} GiB; host {host.id} has {left:.1f} of {total:.1f} GiB"
            )
        return f"{have} left beside {room.workers} workers"

    def _explain_gpus(self, host: HostView, needs: Needs) -> str:
        wanted = f"{needs.gpus} GPU{'s' * (needs.gpus > 1)}"
        if needs.gpu_models:
            wanted += f" ({' or '.join(needs.gpu_models)})"
        if needs.gpu_memory_bytes:
            wanted += f" of {needs.gpu_memory_bytes / _GIB:.0f} GiB"
        if not host.gpus:
            return f"needs {wanted}; host {host.id} has none"
        parts = [self._explain_gpu(gpu, needs) for gpu in sorted(host.gpus, key=lambda gpu: gpu.uuid)]
        return f"needs {wanted}; host {host.id}: {', '.join(parts)}"

    def _explain_gpu(self, gpu: GpuView, needs: Needs) -> str:
        holder = self._holders.get(gpu.uuid)
        if not _suits(gpu, needs):
            return f"{gpu.uuid} is a {gpu.name} with {gpu.memory_bytes / _GIB:.0f} GiB"
        if holder is not None:
            return f"{gpu.uuid} is held by {holder}"
        if gpu.foreign:
            return f"{gpu.uuid} has memory in use by another program"
        return f"{gpu.uuid} is free"


def _room(host: HostView) -> _Room:
    return _Room(
        host=host,
        cpus=math.inf if host.cpus is None else host.cpus,
        memory_bytes=math.inf if host.memory_bytes is None else host.memory_bytes,
        slots=math.inf if host.slots is None else host.slots,
        labels=frozenset(host.labels),
    )


def _on_cpu(room: _Room, needs: Needs) -> bool:
    """Whether a worker runs without a GPU there: it needs none, or the host has none and allows that."""
    return needs.gpus == 0 or (room.host.fallback_cpu and not room.host.gpus)


def _suits(gpu: GpuView, needs: Needs) -> bool:
    return gpu.memory_bytes >= needs.gpu_memory_bytes and (
        not needs.gpu_models or gpu.name.casefold() in _models(needs)
    )


def _models(needs: Needs) -> list[str]:
    return [model.casefold() for model in needs.gpu_models]


def _suitable(gpus: Iterable[GpuView], needs: Needs) -> list[GpuView]:
    """The GPUs that suit `needs`, the preferred model first; of one model, in the order given."""
    suitable = [gpu for gpu in gpus if _suits(gpu, needs)]
    if needs.gpu_models:
        models = _models(needs)
        suitable.sort(key=lambda gpu: models.index(gpu.name.casefold()))
    return suitable


def _preference(room: _Room, needs: Needs, environment: str) -> tuple[float | bool | str, ...]:
    on_cpu = _on_cpu(room, needs)
    model = 0
    if needs.gpu_models and not on_cpu:
        model = _models(needs).index(_suitable(room.gpus, needs)[0].name.casefold())
    return (
        on_cpu and needs.gpus > 0,
        model,
        environment not in room.environments,
        len(room.host.gpus) if on_cpu else len(room.gpus),
        -room.cpus,
        room.workers,
        room.host.id,
    )
