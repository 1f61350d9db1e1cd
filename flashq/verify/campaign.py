"""One campaign: many calls, many faults, and a history of both that is kept apart from the broker and then judged."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flashq.client import Client
from flashq.errors import BrokerError
from flashq.model.keyring import Keyring
from flashq.settings import SecretKey, Settings
from flashq.store.broker import Broker
from flashq.store.sweep import sweep
from flashq.verify import schedule
from flashq.verify.caller import Share
from flashq.verify.check import Terms, Verdict, check
from flashq.verify.faults import ACTIONS, Injector
from flashq.verify.history import Healed
from flashq.verify.ledger import Ledger, history_of
from flashq.verify.reader import Reader
from flashq.verify.stage import Stage, Variation
from flashq.verify.visit import RETRIES, WORKERS, visit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from flashq.verify.faults import Action
    from flashq.verify.own_broker import OwnBroker
    from flashq.verify.schedule import Kind, Planned

_CALLERS = "caller"
_READY_S = 60.0
_TICK_S = 0.05
_SUBMITTING = 0.85
"""The share of a campaign's time in which its calls are made. In the rest of it faults go on, and what has piled up is
worked off: so that what is late after the last fault waited for something else than its turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a campaign does."""

    seed: int
    faults: int
    calls: int
    kinds: Sequence[Kind] = schedule.SAFE
    actions: Mapping[str, Action] = field(default_factory=lambda: ACTIONS)
    lease_s: float = 3.0
    pace_s: float = 0.6
    """From one fault to the next, on average."""
    callers: int = 3
    hosts: int = 2
    by_hand: int = 3
    """Workers without a host agent; the hosts run the others."""
    settle_s: float = 30.0
    variations: Mapping[str, Variation] = field(default_factory=dict)
    """How some of the programs are run otherwise, by name."""

    def drawn(self) -> list[Planned]:
        """The schedule, which follows from the seed."""
        return schedule.draw(self.seed, self.faults, self.kinds, pace_s=self.pace_s, lease_s=self.lease_s)


def throwaway_prefix(prefix: str) -> str:
    """A key prefix that nobody uses, below the one of the user's deployment."""
    return f"{prefix}:fq:verify-{secrets.token_hex(4)}"


class Campaign:
    """Runs a plan in `folder` (short, for sockets) against the broker at `url`, under `prefix`."""

    def __init__(
        self, plan: Plan, folder: Path, url: str, *, prefix: str, broker: OwnBroker | None = None
    ) -> None:
        self.plan = plan
        self._facts = folder / "facts"
        self._facts.mkdir()
        every_s = plan.faults * plan.pace_s * _SUBMITTING * plan.callers / plan.calls
        begun = time.monotonic()
        shares = [
            Share(
                name=f"{_CALLERS}-{n}",
                folder=str(self._facts),
                first=n,
                step=plan.callers,
                calls=plan.calls,
                begun=begun,
                every_s=every_s,
                lease_s=plan.lease_s,
            )
            for n in range(plan.callers)
        ]
        self.stage = Stage(
            folder,
            self._facts,
            url,
            prefix=prefix,
            lease_s=plan.lease_s,
            hosts=plan.hosts,
            by_hand=plan.by_hand,
            shares=shares,
            variations=plan.variations,
        )
        self._ledger = Ledger(self._facts, "campaign")
        self.injector = Injector(self.stage, self._ledger, broker)
        self._broker = Broker(url, prefix=prefix)
        self._keyring = Keyring([self.stage.secret])
        self._settings = Settings(
            redis_url=url,
            secret_key=SecretKey(self.stage.secret),
            home=folder,
            lease_s=plan.lease_s,
            rq_prefix=prefix,
        )

    def run(self, progress: Callable[[int], None] = lambda _done: None) -> Verdict:
        """Carry it out and judge it; `progress` is told how many faults have happened. Cleans up in any case.

        Raises: BrokerError where it does not get going.
        """
        reader: Reader | None = None
        try:
            self._register()
            self.stage.start()
            reader = Reader(self._broker, self._keyring, self._facts, _CALLERS, self._ledger)
            self._await_workers()
            self._faults(progress)
            self._ledger.write(Healed(time.monotonic()))
            self._settle(reader)
            reader.look(all_of_them=True)
            self.stage.stop()
            reader.look(all_of_them=True)
            self._ledger.write(reader.left())
        finally:
            if reader is not None:
                reader.close()
            self.stage.close()
            self._clean_up()
        terms = Terms(self.plan.calls, retries=RETRIES, settle_s=self.plan.settle_s)
        return check(history_of(self._facts), terms)

    def _register(self) -> None:
        """Make the endpoint known before there are callers: workers started by hand look for it."""
        client = Client(self._settings)
        try:
            self._broker.run(client.registration(visit).command(self._broker.transitions))
        finally:
            client.close()

    def _await_workers(self) -> None:
        deadline = time.monotonic() + _READY_S
        while len(self.stage.at_work()) < WORKERS:
            if time.monotonic() > deadline:
                raise BrokerError(f"no {WORKERS} workers within {_READY_S:g} s (logs: {self.stage.folder})")
            time.sleep(_TICK_S)

    def _faults(self, progress: Callable[[int], None]) -> None:
        begun = time.monotonic()
        for number, planned in enumerate(self.plan.drawn()):
            while (left := begun + planned.at_s - time.monotonic()) > 0:
                due = self.injector.tend()
                time.sleep(min(left, _TICK_S if due is not None else left))
            self.injector.inject(planned, self.plan.actions)
            progress(number + 1)
        while self.injector.tend() is not None:
            time.sleep(_TICK_S)

    def _settle(self, reader: Reader) -> None:
        """Wait until all has ended; for twice as long as it may take, to tell what is late from what is stuck."""
        deadline = time.monotonic() + 2 * self.plan.settle_s
        while time.monotonic() < deadline:
            every = len(reader.numbers) == self.plan.calls
            if every and self.stage.callers_done and not reader.unended and self._nothing_left(reader):
                return
            time.sleep(_TICK_S)

    def _nothing_left(self, reader: Reader) -> bool:
        left = reader.left()
        return not (left.queued or left.scheduled or left.leased)

    def _clean_up(self) -> None:
        self._ledger.close()
        try:
            sweep(self._broker)
        finally:
            self._broker.close()
