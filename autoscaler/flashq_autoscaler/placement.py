"""Where a worker can run (R7, R9): what each host has left, and why none will do. Pure.

Resources are granted one worker at a time; a GPU goes to one worker only, and is held as long as any worker
on record names it, in whatever state.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from flashq.model.resources import GpuRequest, cuda_suffices
from flashq_autoscaler.fleet import is_live, is_mute

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flashq_autoscaler.views import GpuView, HostView, Needs, ThrottleCode, WorkerView

_GIB = 2**30
_LATE = 0.5  # of a lease; a heartbeat comes every third of one
_SLICE = "MIG-"
"""How UUIDs of MIG slices begin; CUDA lets a process have one of them only."""
_Rank: TypeAlias = tuple[bool, bool, int, bool, int, float, int, str]
# The nearer a host came to taking the worker, the more its reason tells.
_NEARNESS: dict[ThrottleCode, int] = {
    "NO_HOST": 0,
    "NO_LABEL": 1,
    "NO_GPU": 2,
    "FOREIGN_MEMORY": 3,
    "NO_PYTHON": 4,
    "LACKING": 5,
    "QUOTA": 6,
    "NO_CPU": 7,
    "HOST_MEMORY": 8,
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
    late: bool = False
    """Its heartbeat is overdue: it may be gone already, and a start sent there be lost."""
    gpus: list[GpuView] = field(default_factory=list)
    """Free ones, neither held nor foreign, the smallest first."""
    workers: int = 0
    environments: set[str] = field(default_factory=set)
    """Those with a worker here: surely built."""
    lent_slots: int = 0
    lent_cpus: float = 0.0
    """Of workers whose jobs wait: for what these called."""

    def take(self, cpus: float, memory_bytes: int, environment: str) -> None:
        """One more worker."""
        self.cpus -= cpus
        self.memory_bytes -= memory_bytes
        self.slots -= 1
        self.workers += 1
        self.environments.add(environment)


@dataclass(slots=True)
class _Choice:
    """The hosts that have room for certain needs, the best first; of one environment, or of all."""

    heap: list[tuple[_Rank, int, str]] = field(default_factory=list)
    """Rank, the number of workers it was computed at (another number: out of date), host."""
    seen: int = 0
    """How many of the ledger's changes are in."""


class Ledger:
    """What the hosts have left while starts are granted one by one."""

    def __init__(self, hosts: Iterable[HostView], workers: Iterable[WorkerView], now: float) -> None:
        """`workers`: all on record. The silent hold only their GPUs."""
        self._hosts = sorted(hosts, key=lambda host: host.id)
        self._silent = [host for host in self._hosts if is_mute(host, now)]
        self._holders: dict[str, str] = {}
        self._choices: dict[tuple[Needs, str | None], _Choice] = {}
        self._changed: list[_Room] = []
        usable = [
            host
            for host in self._hosts
            if host not in self._silent and not (host.draining or host.drained is not None)
        ]
        self._rooms = {host.id: _room(host, now) for host in usable}
        for worker in workers:
            self._take_in(worker, now)
        for room in self._rooms.values():
            for gpu in room.host.gpus:
                if gpu.leased and gpu.uuid not in self._holders:
                    self._holders[gpu.uuid] = f"worker {gpu.leased}, which has ended: not seen free yet"
            free = (gpu for gpu in room.host.gpus if not _barred(gpu) and gpu.uuid not in self._holders)
            room.gpus = sorted(free, key=lambda gpu: (gpu.memory_bytes, gpu.uuid))

    def _take_in(self, worker: WorkerView, now: float) -> None:
        for uuid in worker.gpu_uuids:
            self._holders[uuid] = f"worker {worker.id} of {worker.endpoint}"
        room = self._rooms.get(worker.host)
        if room is not None and is_live(worker) and now <= worker.beat_at + worker.lease_s:
            room.take(worker.cpus, worker.memory_bytes, worker.environment)
            if worker.lends:
                room.lent_slots += 1
                room.lent_cpus += worker.cpus

    def grant(self, endpoint: str, needs: Needs, environment: str) -> Place | None:
        """Take what one worker of `endpoint` needs from the host that suits it best; None: there is none.

        Preferred, in this order: a host whose heartbeats come in time; a GPU to the CPU fallback; the model named
        first; a host where the environment is in use; the fewest GPUs left (for a CPU worker: the fewest at all);
        the most cores.
        """
        room = self._best(needs, environment)
        if room is None:
            return None
        gpus = [] if _on_cpu(room, needs) else _pick(room.gpus, needs)
        room.gpus = [gpu for gpu in room.gpus if gpu not in gpus]
        self._holders.update((gpu.uuid, f"a worker of {endpoint} about to start") for gpu in gpus)
        room.take(needs.cpus, needs.memory_bytes, environment)
        self._changed.append(room)
        return Place(room.host.id, tuple(gpu.uuid for gpu in gpus), needs.cpus, needs.memory_bytes)

    def _best(self, needs: Needs, environment: str) -> _Room | None:
        """The better of the best host that has the environment and the best of all."""
        rooms = [room for room in (self._top(needs, environment), self._top(needs, None)) if room is not None]
        return min(rooms, key=lambda room: _preference(room, needs, environment), default=None)

    def _top(self, needs: Needs, environment: str | None) -> _Room | None:
        """The best host with room for `needs`, of those with `environment` (None: of all)."""
        choice = self._choices.get((needs, environment))
        if choice is None:
            choice = self._choices[needs, environment] = _Choice()
            self._offer(choice, self._rooms.values(), needs, environment)
        else:
            self._offer(choice, self._changed[choice.seen :], needs, environment)
        choice.seen = len(self._changed)
        while choice.heap:
            _, workers, host = choice.heap[0]
            room = self._rooms[host]
            if room.workers == workers:
                return room
            heapq.heappop(choice.heap)
        return None

    def _offer(self, choice: _Choice, rooms: Iterable[_Room], needs: Needs, environment: str | None) -> None:
        for room in rooms:
            known = environment is None or environment in room.environments
            if known and self._obstacle(room, needs) is None:
                rank = _preference(room, needs, None)
                heapq.heappush(choice.heap, (rank, room.workers, room.host.id))

    def _obstacle(self, room: _Room, needs: Needs) -> ThrottleCode | None:
        """The first thing that keeps a worker off a host; None: it fits."""
        if _unlabelled(room.host, needs):
            return "NO_LABEL"
        on_cpu = _on_cpu(room, needs)
        if not on_cpu and not cuda_suffices(room.host.cuda, needs.cuda):
            return "NO_GPU"
        if not on_cpu and len(_suitable(room.gpus, needs)) < needs.gpus:
            sound = (gpu for gpu in room.host.gpus if not gpu.fault)
            present = [gpu for gpu in _suitable(sound, needs) if gpu.uuid not in self._holders]
            return "FOREIGN_MEMORY" if len(present) >= needs.gpus else "NO_GPU"
        if needs.python and room.host.pythons and needs.python not in room.host.pythons:
            return "NO_PYTHON"
        if _lacking(room.host, needs):
            return "LACKING"
        if room.slots + (room.lent_slots if needs.nested else 0) < 1:
            return "QUOTA"
        if needs.cpus > room.cpus + (room.lent_cpus if needs.nested else 0.0) + 1e-9:
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
        if drained := sorted(host.id for host in self._hosts if host.drained is not None):
            more = (
                f", of {len(self._hosts)} hosts; {silent} are silent"
                if len(self._hosts) > len(drained)
                else ""
            )
            return f"drained: {', '.join(drained)}{more} (`flashq hosts resume HOST` uses one again)"
        return f"of {len(self._hosts)} hosts {silent} are silent and {len(self._hosts) - silent} are draining"

    def _explain(self, code: ThrottleCode, room: _Room, needs: Needs) -> str:
        host = room.host
        if code in ("NO_GPU", "FOREIGN_MEMORY"):
            return self._explain_gpus(host, needs)
        if code == "NO_LABEL":
            labels = ", ".join(sorted(host.labels)) or "none"
            return f"needs the label {' and '.join(_unlabelled(host, needs))}; host {host.id} has {labels}"
        if code == "NO_PYTHON":
            return f"needs Python {needs.python}; host {host.id} has {', '.join(host.pythons)}"
        if code == "LACKING":
            return f"host {host.id} lacks {'; '.join(_lacking(host, needs))}"
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
        if needs.gpu_models and not needs.gpu_others:
            wanted += f" ({' or '.join(needs.gpu_models)})"
        if not host.gpus and not host.gpu_faults:
            return f"needs {wanted}; host {host.id} has none"
        if not cuda_suffices(host.cuda, needs.cuda):
            has = f"runs up to {host.cuda}" if host.cuda else "does not say what it runs"
            return f"needs {wanted} with CUDA {needs.cuda}; the driver of host {host.id} {has}"
        parts = [self._explain_gpu(gpu, needs) for gpu in sorted(host.gpus, key=lambda gpu: gpu.uuid)]
        parts += host.gpu_faults
        return f"needs {wanted}; host {host.id}: {', '.join(parts)}"

    def _explain_gpu(self, gpu: GpuView, needs: Needs) -> str:
        holder = self._holders.get(gpu.uuid)
        if needs.gpus > 1 and gpu.uuid.startswith(_SLICE):
            return f"{gpu.uuid} is a MIG slice, of which a worker can use one only"
        if _rank(gpu, needs) is None:
            return f"{gpu.uuid} is a {gpu.name} with {gpu.memory_bytes / _GIB:.0f} GiB"
        if holder is not None:
            return f"{gpu.uuid} is held by {holder}"
        if gpu.fault:
            return f"{gpu.uuid} is unfit: {gpu.fault}"
        if gpu.kept:
            return f"{gpu.uuid} is kept from workers: {gpu.kept}"
        if gpu.foreign:
            return f"{gpu.uuid} has memory in use by another program"
        return f"{gpu.uuid} is free"


def _room(host: HostView, now: float) -> _Room:
    return _Room(
        host=host,
        cpus=math.inf if host.cpus is None else host.cpus,
        memory_bytes=math.inf if host.memory_bytes is None else host.memory_bytes,
        slots=math.inf if host.slots is None else host.slots,
        late=now > host.beat_at + host.lease_s * _LATE,
    )


def _unlabelled(host: HostView, needs: Needs) -> list[str]:
    """The labels it has to have and has not."""
    missing = [label for label in needs.labels if label not in host.labels]
    places = [f"datacenter={name}" for name in needs.datacenters]
    if places and not host.labels.intersection(places):
        missing.append(" or ".join(places))
    return missing


def _lacking(host: HostView, needs: Needs) -> list[str]:
    """What is required and known to be missing there, with why."""
    lacks = dict(host.lacks)
    return [f"{what} ({lacks[what]})" for what in needs.requires if what in lacks]


def _on_cpu(room: _Room, needs: Needs) -> bool:
    """Whether a worker runs without a GPU there: it needs none, or the host surely has none and allows that."""
    host = room.host
    return needs.gpus == 0 or (host.fallback_cpu and not host.gpus and not host.gpu_faults)


def _barred(gpu: GpuView) -> bool:
    """Whether no worker gets it, though none has it."""
    return bool(gpu.foreign or gpu.fault or gpu.kept)


def _rank(gpu: GpuView, needs: Needs) -> int | None:
    """How far from the preferred model a GPU is; None: it will not do."""
    if needs.gpus > 1 and gpu.uuid.startswith(_SLICE):
        return None
    return GpuRequest(needs.gpu_models, needs.gpu_others).rank(gpu.name)


def _suitable(gpus: Iterable[GpuView], needs: Needs) -> list[GpuView]:
    """The GPUs that suit `needs`, the preferred model first; of one model, in the order given."""
    ranked = [(rank, gpu) for gpu in gpus if (rank := _rank(gpu, needs)) is not None]
    return [gpu for _, gpu in sorted(ranked, key=lambda it: it[0])]


def _pick(gpus: Iterable[GpuView], needs: Needs) -> list[GpuView]:
    """Those that a worker gets: of one model where there are enough of any, the preferred first; none: too few."""
    suitable = _suitable(gpus, needs)
    models = Counter(gpu.name for gpu in suitable)
    model = next((name for name, count in models.items() if count >= needs.gpus), None)
    chosen = [gpu for gpu in suitable if model in (None, gpu.name)][: needs.gpus]
    return chosen if len(chosen) == needs.gpus else []


def _preference(room: _Room, needs: Needs, environment: str | None) -> _Rank:
    """The smaller, the better a host suits; without an environment: as if none had it."""
    on_cpu = _on_cpu(room, needs)
    model = 0
    if needs.gpu_models and not on_cpu:
        model = max(_rank(gpu, needs) or 0 for gpu in _pick(room.gpus, needs))
    return (
        room.late,
        on_cpu and needs.gpus > 0,
        model,
        environment not in room.environments,
        len(room.host.gpus) if on_cpu else len(room.gpus),
        -room.cpus,
        room.workers,
        room.host.id,
    )
