"""The host agent (`flashq host`): this machine's place in the broker, and the workers it runs on signed word.

One thread waits on everything at once: its list of commands, signals, the end of a worker. It says what the
machine has (a heartbeat), starts what it is told to start, and when a worker dies has what that held requeued
at once, with the reason. It decides nothing about scaling. While the broker is away workers go on, and what
there is to report waits.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import time
from collections import deque
from typing import TYPE_CHECKING

from flashq.errors import BrokerError, EnvelopeError, EnvelopeExpired
from flashq.model.host_command import PrepareRevision, StartWorker
from flashq.store import server
from flashq.store.inbox import Inbox
from flashq_worker.config import WorkerConfig
from flashq_worker.gpus.nvml import Gpus
from flashq_worker.host import inventory
from flashq_worker.host.apps import HostApps
from flashq_worker.host.calls import HostCalls
from flashq_worker.host.commands import CommandReader, Received
from flashq_worker.host.containers import HostContainers
from flashq_worker.host.environments import HostEnvironments
from flashq_worker.host.offers import HostOffers
from flashq_worker.host.presence import HostOptions, HostPresence, Loss
from flashq_worker.host.warm import HostWarm
from flashq_worker.host.workers import WORKER_COMMAND, HostWorkers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from flashq.model.envelope import RootKeys
    from flashq.model.host_command import KillWorker
    from flashq.store.broker import Broker
    from flashq_worker.host.home import HostHome
    from flashq_worker.host.workers import Ended

log = logging.getLogger("flashq.host")
_RECONNECT_S = (0.05, 1.0)  # the first pause after losing the broker, and the longest
_GPU_PATIENCE_S = 10.0  # how long a start waits for the GPU of a worker that is ending
_KILL_MARGIN_S = 10.0  # beyond what a draining worker has for its jobs, before it is killed
_FAREWELL_S = 3.0  # how long a broker that is away is waited for at the end
_LONGEST_WAIT_S = 1.0


class HostAgent:
    """One machine's agent. `run` it from the main thread: it takes signals over while it runs."""

    def __init__(
        self,
        broker: Broker,
        keyring: RootKeys,
        home: HostHome,
        environ: Mapping[str, str],
        options: HostOptions | None = None,
        *,
        worker_command: Sequence[str] = WORKER_COMMAND,
        lifeline: int | None = None,
    ) -> None:
        """`home` is locked by the caller. `environ`: what workers inherit, less what is flashq's own.

        `lifeline`: a descriptor at whose end of file the agent kills its workers and leaves.
        """
        self.host = home.host_id(inventory.hostname())
        self._broker = broker
        self._keyring = keyring
        self._home = home
        self._options = options or HostOptions()
        self._gpus = Gpus()
        self._offers = HostOffers(home.folder, environ, engine=self._options.engine)
        self._presence = HostPresence(broker, self.host, self._options, self._gpus, self._offers, keyring)
        self._environments = HostEnvironments(broker, self.host, home.folder, self._options.environments)
        self._containers = HostContainers(home.folder, environ)
        self._apps = HostApps(broker, self.host, home.folder, keyring, environ, self._options.engine)
        self._calls = HostCalls(broker, keyring, home.folder, self._options.payload_limit)
        self._workers = HostWorkers(home.folder, environ, worker_command, self._calls)
        self._warm = HostWarm(home, environ, self._workers, wanted=self._options.spare)
        self._reader = CommandReader(keyring, self.host, home.epoch())
        self._presence.epoch = self._reader.epoch
        self._lifeline = lifeline
        self._inbox = Inbox(broker, broker.keys.of("commands", self.host))
        self._losses: deque[Loss] = deque()
        self._waiting: list[tuple[StartWorker, float]] = []  # for a GPU, and until when
        self._given_up: dict[str, float] = {}  # workers the broker gave up, and when that was seen
        self._greeted = False
        self._retry_at = 0.0
        self._pause_s = _RECONNECT_S[0]
        self._signals = 0
        self._draining = False
        self._drain_until = float("inf")
        self._wake_r, self._wake_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    # -- from start to end ---------------------------------------------------------------------------
    def run(self) -> int:
        """Serve until SIGTERM or SIGINT, then drain and leave; 1 where a second signal cut that short."""
        log.info("host %s serves %r from %s", self.host, self._broker, self._home.folder)
        with self._taking_signals():
            try:
                while not self._done():
                    self._warm.tend()
                    self._workers.share(self._keyring)
                    self._talk()
                    self._wait()
                self._leave()
            finally:
                self._inbox.close()
                self._workers.kill_all("the host agent ended")
                self._warm.close()
                self._workers.close()
                self._calls.close()
                self._gpus.close()
                os.close(self._wake_r)
                os.close(self._wake_w)
        return int(self._signals > 1)

    @contextlib.contextmanager
    def _taking_signals(self) -> Iterator[None]:
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
        before = {number: signal.signal(number, self._on_signal) for number in numbers}
        wakeup = signal.set_wakeup_fd(self._wake_w, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, previous in before.items():
                signal.signal(number, previous)

    def _on_signal(self, number: int, _frame: object) -> None:
        if number == signal.SIGCHLD:
            return
        self._signals += 1
        if self._signals > 1:  # at once, even while the loop waits for the broker
            self._workers.kill_all("the host agent was told twice to end")

    def _done(self) -> bool:
        """Whether all is over, once what happened meanwhile has been taken in."""
        self._collect()
        if self._signals and not self._draining:
            self._drain()
        if time.monotonic() >= self._drain_until:
            self._drain_until = float("inf")
            self._workers.kill_all("it did not end in time")
        return self._draining and not len(self._workers)

    def _drain(self) -> None:
        """Take no more workers, and have those there finish what they hold."""
        self._draining = True
        self._warm.drain()
        self._drain_until = time.monotonic() + self._options.drain_s + _KILL_MARGIN_S
        log.info("ending; %d workers drain", len(self._workers))
        while self._waiting:
            self._refuse(self._waiting.pop()[0], "it is ending")
        with contextlib.suppress(BrokerError):
            self._beat()
            self._presence.drain(self._workers.endpoints(), f"host {self.host} is ending")
        self._workers.terminate("its host agent ends")

    def _leave(self) -> None:
        until = time.monotonic() + _FAREWELL_S
        self._talk()
        while self._losses and time.monotonic() < until:
            time.sleep(_RECONNECT_S[0])
            self._talk()
        with contextlib.suppress(BrokerError):
            self._presence.leave()
        log.info("host %s has left", self.host)

    # -- waiting -------------------------------------------------------------------------------------
    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._wake_r, select.POLLIN)
        if self._lifeline is not None:
            poll.register(self._lifeline, select.POLLIN)
        if self._inbox.open:
            poll.register(self._inbox.fileno(), select.POLLIN)
        for descriptor in self._workers.descriptors():
            poll.register(descriptor, select.POLLIN)
        ready = {fd for fd, _ in poll.poll(self._patience_s() * 1000)}
        if self._wake_r in ready:
            os.read(self._wake_r, 4096)
        if self._lifeline in ready:
            log.info("what started this host agent has ended")
            self._lifeline = None
            self._signals += 2
            self._workers.kill_all("what started its host agent has ended")
        if self._inbox.open:
            try:
                for raw in self._inbox.take():
                    self._obey(raw)
            except BrokerError as error:
                self._lost(error)

    def _patience_s(self) -> float:
        now = time.monotonic()
        talk_at = self._retry_at or self._presence.beat_at
        due = [now + _LONGEST_WAIT_S, self._drain_until, talk_at, self._warm.due_at]
        due += (until for _, until in self._waiting)
        return max(0.0, min(due) - now)

    def _collect(self) -> None:
        """Workers that have ended, and starts that waited for their GPUs."""
        for ended in self._workers.ended():
            self._losses.append(self._loss_of(ended))
        waiting, self._waiting = self._waiting, []
        for order, until in waiting:
            self._start(order, until)

    def _loss_of(self, ended: Ended) -> Loss:
        why = f"its process {ended.how}" + (f": {ended.killed}" if ended.killed else "")
        log.log(logging.WARNING if ended.code else logging.INFO, "worker %s: %s", ended.worker, why)
        if ended.code and (tail := self._home.tail(ended.worker)):
            last = tail.rpartition("\n")[2].strip()
            why += f"; the last it wrote: {last[:200]}\n{tail}"
        failed = False if ended.killed or not ended.code else None
        return Loss(ended.worker, ended.endpoint, why, failed, ended.gpu_uuids)

    # -- commands ------------------------------------------------------------------------------------
    def _obey(self, raw: bytes) -> None:
        try:
            received = self._read(raw)
        except EnvelopeError as error:
            log.warning("a command is refused: %s: %s", type(error).__name__, error)
            return
        if received is None:
            log.warning("a command is ignored: it was obeyed before")
            return
        self._keep_epoch()
        command = received.command
        if isinstance(command, PrepareRevision):  # no leader's word: whoever has the key may deploy
            self._apps.prepare(command)
        elif received.stale:
            self._refuse_stale(received)
        elif isinstance(command, StartWorker):
            self._start(command, time.monotonic() + _GPU_PATIENCE_S)
        else:
            self._kill(command)

    def _read(self, raw: bytes) -> Received | None:
        known_epoch = self._presence.known_epoch
        try:
            return self._reader.read(raw, self._presence.now_ms(), known_epoch)
        except EnvelopeExpired as expired:  # unless the broker's clock was set back since the last heartbeat
            try:
                now_ms = self._presence.ask_time()
            except BrokerError:
                raise expired from None
            return self._reader.read(raw, now_ms, known_epoch)

    def _keep_epoch(self) -> None:
        if self._reader.epoch > self._presence.epoch:
            self._presence.epoch = self._reader.epoch
            try:
                self._home.keep_epoch(self._reader.epoch)
            except OSError as error:
                log.warning("the leader's epoch is not kept: %s", error)

    def _refuse_stale(self, received: Received) -> None:
        """Another leads since; it will ask for what it wants. The broker is told, so that it shows as an event."""
        command, why = received.command, f"of epoch {received.epoch}, the newest is {received.newest}"
        self._presence.refused_epoch = received.epoch
        self._presence.beat_at = 0.0
        if isinstance(command, StartWorker) and command.worker not in self._workers:
            self._refuse(command, f"the word is {why}")
        else:
            log.warning("a command is refused: it is %s", why)

    def _start(self, order: StartWorker, until: float) -> None:
        """Start a worker; while others that are ending have its GPUs it waits, `until` then at most."""
        if order.worker in self._workers:
            log.warning("worker %s runs already", order.worker)
            return
        if self._draining:
            self._refuse(order, "it is ending")
            return
        if lacking := self._offers.lacking(order.requires):
            self._presence.beat_at = 0.0  # so that nothing that requires it is sent here again
            self._refuse(order, "it lacks " + "; ".join(f"{what} ({why})" for what, why in lacking.items()))
            return
        gpus = self._workers.gpus()
        holders = sorted({gpus[uuid] for uuid in order.gpu_uuids if uuid in gpus})
        if holders and time.monotonic() < until:
            self._waiting.append((order, until))
            return
        unfit = f"its GPU is held by {', '.join(holders)}" if holders else self._unfit(order.gpu_uuids)
        if unfit:
            self._refuse(order, unfit)
            return
        spawned_ns = time.monotonic_ns()
        try:
            pid = self._workers.start(self._config(order, spawned_ns), self._home.log_file(order.worker))
        except OSError as error:
            log.error("worker %s cannot be started: %s", order.worker, error)
            why = f"its process cannot be started: {error}"
            self._losses.append(Loss(order.worker, order.endpoint, why, before_ready=True))
            return
        self._warm.started()
        took_ms = (time.monotonic_ns() - spawned_ns) / 1e6
        log.info("worker %s is process %d, started in %.1f ms", order.worker, pid, took_ms)

    def _refuse(self, order: StartWorker, why: str) -> None:
        log.warning("worker %s is not started: %s", order.worker, why)
        why = f"host {self.host} did not start it: {why}"
        self._losses.append(Loss(order.worker, order.endpoint, why, gpu_uuids=order.gpu_uuids))

    def _unfit(self, gpu_uuids: Sequence[str]) -> str:
        """Why a worker cannot begin on these GPUs, as they are now; empty: it can."""
        return self._gpus.sample(self._workers.gpus().keys()).unfit(gpu_uuids) if gpu_uuids else ""

    def _config(self, order: StartWorker, spawned_ns: int) -> WorkerConfig:
        return WorkerConfig(
            url=self._broker.url,
            prefix=self._broker.keys.prefix,
            endpoint=order.endpoint,
            worker=order.worker,
            host=self.host,
            keys=self._keyring.for_endpoint(order.endpoint),
            home=self._home.folder,
            revision=order.revision,
            resources=order.environment,
            lease_s=self._options.lease_s,
            drain_s=self._options.drain_s,
            payload_limit=self._options.payload_limit,
            gpu_uuids=order.gpu_uuids,
            cpus=order.cpus,
            memory_bytes=order.memory_bytes,
            engine=self._options.engine,
            engine_options=self._options.engine_options,
            spawned_ns=spawned_ns,
        )

    def _kill(self, command: KillWorker) -> None:
        self._waiting = [(order, until) for order, until in self._waiting if order.worker != command.worker]
        self._workers.kill(command.worker, "the broker gave it up")

    # -- the broker ----------------------------------------------------------------------------------
    def _talk(self) -> None:
        """Say everything that is due, unless it is too soon after a failure."""
        now = time.monotonic()
        if now < self._retry_at:
            return
        try:
            if not self._greeted:
                self._beat()
                server.warn(self._broker, log, self._options.durability)
                self._losses.extend(self._presence.predecessors())
                self._greeted = True
                self._apps.catch_up()
            if not self._inbox.open:
                own = {*self._workers.endpoints(), *(order.worker for order, _ in self._waiting)}
                self._losses.extend(self._presence.unheard(own))
                self._inbox.connect()
            if now >= self._presence.beat_at:
                self._beat()
                self._kill_given_up()
                self._home.tidy_logs(frozenset(self._workers.endpoints()))
                self._environments.tend()
                self._containers.tend()
            while self._losses:
                self._report(self._losses[0])
                self._losses.popleft()
        except BrokerError as error:
            self._lost(error)
        else:
            self._retry_at, self._pause_s = 0.0, _RECONNECT_S[0]

    def _lost(self, error: BrokerError) -> None:
        if self._pause_s == _RECONNECT_S[0]:
            log.warning("%s; trying again", error)
        self._retry_at = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, _RECONNECT_S[1])
        self._inbox.close()

    def _beat(self) -> None:
        self._presence.beat(self._workers.gpus().keys(), draining=self._draining)

    def _report(self, loss: Loss) -> None:
        if self._presence.report(loss, self._workers.gpus().keys(), draining=self._draining):
            log.warning("worker %s was lost: %s", loss.worker, loss.why.partition("\n")[0])

    def _kill_given_up(self) -> None:
        """A worker the broker gave up ends by itself; one that has not after a lease is killed."""
        now = time.monotonic()
        given_up = self._presence.given_up(self._workers.endpoints())
        self._given_up = {worker: self._given_up.get(worker, now) for worker in given_up}
        for worker, since in self._given_up.items():
            if now >= since + self._options.lease_s:
                self._workers.kill(worker, "the broker gave it up, and it did not end")
