"""`python -m flashq.verify.caller PLAN`: a program that submits its share of a campaign's calls and waits for them.

It writes down what was acknowledged to it and what it was told. Killed and started again, it goes on where its own
record ends: calls with an idempotency key are repeated with it until their ending is known; of the others those that
were acknowledged are left to the readers.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flashq.errors import BrokerError, BrokerStateLost, JobNotFound, ResultExpired
from flashq.model.lifecycle import STATUS, Status
from flashq.verify.history import Acknowledged, Read, Refused
from flashq.verify.ledger import Ledger, facts_in
from flashq.verify.visit import visit
from flashq.verify.workload import Behaviour, behaviour, keyed

if TYPE_CHECKING:
    from flashq.job import EndpointJob

_AGAIN_S = 0.2
_STATES: dict[Status, str] = {status: state.value for state, status in STATUS.items()}
DONE = 0
"""The exit code of a caller whose share is done."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one caller is to do, on its command line. No secret is in it."""

    name: str
    folder: str
    """Where facts are written."""
    first: int
    step: int
    calls: int
    """Of the whole campaign; its own are every `step`-th from `first` on."""
    begun: float
    """When the campaign's calls begin (monotonic)."""
    every_s: float
    """Between two of its submits."""
    lease_s: float

    def due_at(self, number: int) -> float:
        """When a call is to be made (monotonic): what a caller that was away has missed is then due at once."""
        return self.begun + (number - self.first) // self.step * self.every_s

    def dump(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))


class Caller:
    """Does a share. Facts of an earlier process of the same name count."""

    def __init__(self, share: Share) -> None:
        self._share = share
        self._by = f"caller {os.getpid()}"
        self._acknowledged: dict[str, int] = {}
        self._told: set[int] = set()
        for fact in facts_in(Path(share.folder), share.name):
            if isinstance(fact, Acknowledged):
                self._acknowledged[fact.job] = fact.number
            elif isinstance(fact, Read) and fact.state:
                self._told.add(self._acknowledged[fact.job])
        self._ledger = Ledger(Path(share.folder), share.name)

    async def run(self) -> None:
        """Until each call of the share has been acknowledged, and those waited for have ended."""
        share = self._share
        async with asyncio.TaskGroup() as group:
            for number in range(share.first, share.calls, share.step):
                known = number in self._acknowledged.values()
                if number not in self._told and (keyed(number) or not known):
                    if not known:
                        await asyncio.sleep(max(0.0, share.due_at(number) - time.monotonic()))
                    group.create_task(self._call(number))

    async def _call(self, number: int) -> None:
        """Submit, until it is acknowledged and its ending known."""
        while True:
            job = await self._submitted(number)
            asked = time.monotonic()
            try:
                value = await job
            except (BrokerStateLost, JobNotFound, ResultExpired) as error:
                self._read(job, "", "", error, asked)
                if keyed(number):
                    await asyncio.sleep(_AGAIN_S)
                    continue
            except BrokerError as error:  # out of patience: the job goes on
                self._ledger.write(Refused(number, type(error).__name__, time.monotonic()))
                if keyed(number):
                    continue
            except Exception as error:  # noqa: BLE001 — however it ended: that is what is recorded
                state = _STATES[job.status().result(0)]
                value = str(error) if type(error) in (ConnectionError, ValueError) else ""
                self._read(job, state, value, error, asked)
            else:
                self._read(job, _STATES[Status.COMPLETED], value, None, asked)
            return

    async def _submitted(self, number: int) -> EndpointJob[str]:
        share = self._share
        key = f"call-{number}" if keyed(number) else ""
        function = visit.with_options(key=key) if key else visit
        if behaviour(number) is Behaviour.ONCE:
            function = function.with_options(delivery="at_most_once", retries=0)
        while True:
            try:
                job = await asyncio.to_thread(function.spawn, share.folder, number, share.lease_s)
            except BrokerError as error:
                self._ledger.write(Refused(number, type(error).__name__, time.monotonic()))
                await asyncio.sleep(_AGAIN_S)
                continue
            self._ledger.write(Acknowledged(number, job.id, key, time.monotonic()))
            return job

    def _read(
        self, job: EndpointJob[str], state: str, value: str, error: Exception | None, asked: float
    ) -> None:
        problem = "" if error is None else type(error).__name__
        self._ledger.write(Read(job.id, self._by, state, value, problem, asked, time.monotonic()))


def _end_with(lifeline: int) -> None:
    """End when the campaign does."""

    def watch() -> None:
        os.read(lifeline, 1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    _end_with(int(sys.argv[2]))
    asyncio.run(Caller(Share(**json.loads(sys.argv[1]))).run())
