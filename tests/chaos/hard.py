"""Faults beyond those of `flashq verify`: the broker's disk and memory full, its clock set, its data gone, a host's
network pulled out. They need a broker of one's own and a machine that allows it; what it lacks is named."""

from __future__ import annotations

import contextlib
import shutil
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from flashq.errors import BrokerError
from flashq.verify import faults
from flashq.verify.history import Wiped
from flashq.verify.own_broker import OwnBroker
from flashq.verify.schedule import OWN_BROKER, SAFE, Kind, chosen
from flashq.verify.stage import Variation
from tests.chaos.means import HOUR_S, Clock, Disk, Network

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from flashq.verify.faults import Action, Injector
    from flashq.verify.schedule import Planned

FILL_DISK = Kind("fill disk", "the broker's disk is full; with `always` it ends itself then", 1, (0.3, 0.8))
FILL_MEMORY = Kind("fill memory", "the broker's `maxmemory` is reached", 2, (0.5, 1.5))
SET_CLOCK = Kind("set clock", "the broker's clock jumps by one or two hours, back or forth", 1)
PULL_NETWORK = Kind(
    "pull network", "no packet of a host passes, beyond its lease, and nobody is told", 2, (1.3, 1.8)
)
WIPE = Kind("wipe broker", "it is killed and comes back without its data", 1, (0.05, 0.3))
_DISK_MB = 1024
_AGAIN_S = 0.3
_PORT = 7379
_APART = "host-1"
"""The host whose network can be pulled out."""
_AHEAD = ("caller-1", "worker-0", "host-0")
_BEHIND = ("caller-2", "worker-1")
"""Programs whose clocks are an hour ahead, and an hour behind."""


@dataclass(slots=True)
class Hard:
    """A broker, and what can be done to it here."""

    broker: OwnBroker
    clock: Clock | None = None
    disk: Disk | None = None
    network: Network | None = None
    variations: dict[str, Variation] = field(default_factory=dict)
    lacking: dict[str, str] = field(default_factory=dict)
    """Faults that cannot happen on this machine, and why."""
    _full: bool = False

    @classmethod
    @contextlib.contextmanager
    def open(cls, folder: Path, fsync: str) -> Iterator[Self]:
        """All that this machine has, for the length of a block."""
        lacking = {
            kind.name: why
            for kind, why in (
                (SET_CLOCK, Clock.why_not()),
                (FILL_DISK, Disk.why_not()),
                (PULL_NETWORK, Network.why_not()),
            )
            if why
        }
        with contextlib.ExitStack() as stack:
            clock = None if SET_CLOCK.name in lacking else Clock(folder)
            data = folder / "data"
            disk = None if FILL_DISK.name in lacking else stack.enter_context(Disk.open(data, _DISK_MB))
            network = None if PULL_NETWORK.name in lacking else stack.enter_context(Network.open())
            further = () if network is None else _listening(network)
            broker = OwnBroker(
                folder,
                fsync=fsync,
                data=data,
                further=further,
                env=None if clock is None else clock.whole_env,
            )
            stack.callback(broker.close)
            made = cls(broker, clock, disk, network, lacking=lacking)
            made._vary(folder)
            yield made

    def _vary(self, folder: Path) -> None:
        """Clocks of programs an hour off, and one host behind a wire."""
        if self.clock is not None:
            for names, seconds in ((_AHEAD, HOUR_S), (_BEHIND, -HOUR_S)):
                off = Clock(folder)
                off.set(seconds)
                self.variations |= dict.fromkeys(names, Variation(env=off.env))
        if self.network is not None:
            env = {
                "FLASHQ_REDIS_URL": f"redis://{self.network.here}:{_PORT}",
                "FLASHQ_ALLOW_PLAINTEXT": "1",
            }
            self.variations[_APART] = Variation(env=env, within=self.network.within)

    # -- what happens --------------------------------------------------------------------------------
    def kinds(self, *, wipes: bool = False) -> tuple[Kind, ...]:
        """Everything that can happen here; with `wipes` the broker comes back empty, too."""
        hard = (FILL_DISK, FILL_MEMORY, SET_CLOCK, PULL_NETWORK)
        possible = tuple(kind for kind in hard if kind.name not in self.lacking)
        return (*SAFE, *OWN_BROKER, *possible, *((WIPE,) if wipes else ()))

    def actions(self) -> Mapping[str, Action]:
        """How each of them is done."""
        return {
            **faults.ACTIONS,
            "kill broker": self._kill_broker,
            FILL_DISK.name: self._fill_disk,
            FILL_MEMORY.name: self._fill_memory,
            SET_CLOCK.name: self._set_clock,
            PULL_NETWORK.name: self._pull_network,
            WIPE.name: self._wipe,
        }

    def _revive(self, injector: Injector) -> None:
        """Start the broker if it has ended; while its disk is full that may take more than one try."""
        if self.broker.running:
            return
        try:
            self.broker.start()
        except BrokerError:
            injector.later(_AGAIN_S, lambda: self._revive(injector))

    def _kill_broker(self, injector: Injector, planned: Planned) -> None:
        at = time.monotonic()
        if not self.broker.running or self._unwritten:
            injector.missed(planned)
            return
        self.broker.kill()
        injector.later(planned.lasts_s, lambda: self._revive(injector))
        injector.say(planned, at, lasts_s=planned.lasts_s)

    @property
    def _unwritten(self) -> bool:
        """Whether what was answered may be in the broker's memory alone: then its death loses what a power cut does.

        With `everysec` the answer does not wait for the disk; where that was full, for as long as it takes to write.
        """
        if self.broker.fsync == "always":
            return False
        try:
            told = self.broker.call("INFO", "persistence")
        except BrokerError:
            return True
        assert isinstance(told, bytes)
        return self._full or b"aof_last_write_status:ok" not in told

    def _fill_disk(self, injector: Injector, planned: Planned) -> None:
        at, disk = time.monotonic(), self.disk
        assert disk is not None
        if self._full:
            injector.missed(planned)
            return
        self._full = True
        disk.fill()

        def free() -> None:
            self._full = False
            disk.free()
            injector.later(_AGAIN_S, lambda: self._revive(injector))

        injector.later(planned.lasts_s, free)
        injector.say(planned, at, lasts_s=planned.lasts_s, everybody=True)  # nothing can be renewed

    def _fill_memory(self, injector: Injector, planned: Planned) -> None:
        at = time.monotonic()
        try:
            self.broker.call("CONFIG", "SET", "maxmemory", "1mb")
        except BrokerError:  # it is away just now
            injector.missed(planned)
            return

        def free() -> None:
            try:
                self.broker.call("CONFIG", "SET", "maxmemory", "0")
            except BrokerError:
                if self.broker.running:  # else it comes back without the limit
                    injector.later(_AGAIN_S, free)

        injector.later(planned.lasts_s, free)
        injector.say(planned, at, lasts_s=planned.lasts_s)

    def _set_clock(self, injector: Injector, planned: Planned) -> None:
        at = time.monotonic()
        assert self.clock is not None
        others = [hours for hours in (-1, 0, 1) if hours * HOUR_S != self.clock.ahead_s]
        self.clock.set(chosen(planned.pick, others) * HOUR_S)
        injector.say(planned, at)

    def _pull_network(self, injector: Injector, planned: Planned) -> None:
        at, network = time.monotonic(), self.network
        assert network is not None
        host = next(host for host in injector.stage.hosts if host.name == _APART)
        network.pull()
        injector.later(planned.lasts_s, network.plug)
        injector.say(planned, at, injector.stage.of_host(host), lasts_s=planned.lasts_s)

    def _wipe(self, injector: Injector, planned: Planned) -> None:
        at = time.monotonic()
        if not self.broker.running:
            injector.missed(planned)
            return
        self.broker.kill()
        for entry in self.broker.data.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)

        def back() -> None:
            self._revive(injector)
            injector.note(Wiped(time.monotonic()))

        injector.later(planned.lasts_s, back)
        injector.say(planned, at, lasts_s=planned.lasts_s, everybody=True)


def _listening(network: Network) -> tuple[str, ...]:
    return ("--port", str(_PORT), "--bind", network.here, "--protected-mode", "no")
