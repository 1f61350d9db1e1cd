"""Find out what is the case, on this machine and on the broker, and have it judged. Changes nothing."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import stat
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from flashq import embedded
from flashq._version import __version__
from flashq.address import Address
from flashq.doctor import judge_broker, judge_fleet, judge_machine
from flashq.doctor.finding import fail, unknown
from flashq.embedded.places import Places
from flashq.embedded.server import find_server
from flashq.errors import BrokerError, BrokerRefused
from flashq.model.keyring import Keyring
from flashq.private_files import read_private
from flashq.secret_keys import read_secret_keys
from flashq.store import queries_fleet, queries_health, queries_queues
from flashq.store.broker import Broker
from flashq.store.server import look

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from flashq.doctor.finding import Finding
    from flashq.settings import Settings

_PATIENCE_S = 3.0
_ROUND_TRIPS = 21


def examine(settings: Settings) -> Iterator[Finding]:
    """Everything, a finding at a time: what is nearest first. Broker trouble is a finding."""
    yield from _here(settings)
    url = settings.redis_url
    if url is None:
        finding, url = _private_stack(settings)
        yield finding
    if url is None:
        return
    address = Address.parse(url)
    yield judge_broker.address(address)
    broker = Broker(url, prefix=settings.rq_prefix, patience_s=_PATIENCE_S, reply_timeout_s=_PATIENCE_S)
    with closing(broker):
        try:
            yield judge_broker.latency(queries_health.round_trips_ms(broker, _ROUND_TRIPS))
            yield from _broker(broker, address, settings)
            yield from _fleet(broker, settings)
        except BrokerError as error:
            advice = "see that it runs and that FLASHQ_REDIS_URL names it, with user and password"
            yield fail("broker", str(error), advice)


# -- this machine ------------------------------------------------------------------------------------


def _here(settings: Settings) -> Iterator[Finding]:
    yield judge_machine.home(str(settings.home), *_room(settings.home))
    yield judge_machine.signing_key(_keys(settings), private=settings.redis_url is None)
    key_file = Address.parse(settings.redis_url).key_file if settings.redis_url else ""
    yield _secret_files(settings, key_file)
    uv = shutil.which("uv") or (importlib.util.find_spec("uv") and "the uv package")
    yield judge_machine.uv(uv or None, workers=importlib.util.find_spec("flashq_worker") is not None)


def _room(home: Path) -> tuple[str, int | None]:
    """Why nothing can be kept in `home`, or ''; and how many bytes are free where it is, or will be."""
    there = next(folder for folder in (home, *home.parents) if folder.exists())
    problem = "" if there.is_dir() and os.access(there, os.W_OK | os.X_OK) else f"{there} cannot be written"
    try:
        return problem, shutil.disk_usage(there).free
    except OSError:
        return problem, None


def _keys(settings: Settings) -> judge_machine.Keys:
    """The keys in force here; none is made."""
    if settings.redis_url is not None:
        secrets = settings.require_secrets() if settings.secret_key is not None else ()
        source = settings.secret_key_file or settings.sources.get("secret_key", "")
        return judge_machine.Keys(Keyring(secrets).ids if secrets else (), str(source))
    file = Places(settings.home).secret
    try:
        return judge_machine.Keys(
            Keyring([key.value for key in read_secret_keys(read_private(file))]).ids, str(file)
        )
    except FileNotFoundError:
        return judge_machine.Keys(())
    except ValueError as error:
        said = str(error)
        return judge_machine.Keys((), problem=said if str(file) in said else f"{file}: {said}")


def _secret_files(settings: Settings, key_file: str) -> Finding:
    places = Places(settings.home)
    named = [settings.secret_key_file, places.secret, places.password, Path(key_file) if key_file else None]
    modes = {str(file): _mode(file) for file in named if file is not None}
    found = {path: mode for path, mode in modes.items() if mode is not None}
    opened = [judge_machine.OpenFile(path, mode) for path, mode in found.items() if mode & 0o077]
    return judge_machine.secret_files(opened, len(found))


def _mode(file: Path) -> int | None:
    try:
        return stat.S_IMODE(file.stat().st_mode)
    except OSError:
        return None


def _private_stack(settings: Settings) -> tuple[Finding, str | None]:
    """What is to be said of the private broker, and its address if it runs."""
    try:
        status = embedded.look(settings, patience_s=_PATIENCE_S)
    except BrokerError as error:
        return fail("private stack", str(error), "`flashq down --now` ends it, or end its process"), None
    if status is None:
        return _private_broker(), None
    failing = {name: one["last_end"] for name, one in status["processes"].items() if one["failing"]}
    found = judge_machine.private_stack(status["phase"], failing, str(settings.home / "logs"))
    return found, status["url"] if status["phase"] == "ready" else None


def _private_broker() -> Finding:
    try:
        return judge_machine.private_broker(str(find_server()), "")
    except BrokerError as error:
        return judge_machine.private_broker("", str(error))


# -- the broker --------------------------------------------------------------------------------------


def _broker(broker: Broker, address: Address, settings: Settings) -> Iterator[Finding]:
    with closing(broker.connect()) as line:
        server = look(line)
    elsewhere = bool(address.beyond_loopback or address.service)
    yield judge_broker.version(server)
    yield judge_broker.role(server)
    yield judge_broker.disk(server)
    yield judge_broker.durability(server, settings.durability)
    yield judge_broker.eviction(server, settings.durability)
    yield judge_broker.memory(server)
    yield judge_broker.rights(server, elsewhere=elsewhere)
    if not address.service:  # the server that the sentinels name may be another the next moment
        asked_for = queries_health.asks_for_password(_anonymous(address.url), _PATIENCE_S)
        yield judge_broker.password(
            asked_for=asked_for, elsewhere=elsewhere, private=settings.redis_url is None
        )
    yield from _asked("clock", lambda: [judge_broker.clock(_ahead_s(broker))])
    yield from _asked("functions", lambda: [judge_broker.functions(_functions(broker))])


def _asked(check: str, found: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """Findings, or that the broker does not say. Raises BrokerUnreachable."""
    try:
        yield from list(found())
    except BrokerRefused as error:
        advice = "ask as a user of the broker who may read that: `flashq keys acl viewer`"
        yield unknown(check, str(error), advice if "NOPERM" in str(error) else "")


def _ahead_s(broker: Broker) -> float:
    return time.time() - queries_fleet.now_ms(broker) / 1000  # noqa: TID251 — this clock is what is examined


def _anonymous(url: str) -> str:
    """The address without user and password."""
    scheme, _, rest = url.partition("://")
    place, slash, path = rest.partition("/")
    return f"{scheme}://{place.rpartition('@')[2]}{slash}{path}"


def _functions(broker: Broker) -> judge_broker.Functions:
    mine = broker.library.name
    known = queries_health.libraries(broker)
    others = None if known is None else tuple(name for name in known if name != mine)
    return judge_broker.Functions(mine, queries_health.library_loaded(broker), others)


# -- the fleet ---------------------------------------------------------------------------------------


def _fleet(broker: Broker, settings: Settings) -> Iterator[Finding]:
    yield from _asked("fleet", lambda: _processes(broker, settings))
    yield from _asked("endpoints", lambda: [judge_fleet.endpoints(queries_fleet.endpoints(broker))])
    yield from _asked("waiting", lambda: _jobs(broker))
    yield from _asked("stray workers", lambda: [judge_fleet.stray_workers(queries_health.strays(broker))])


def _processes(broker: Broker, settings: Settings) -> Iterator[Finding]:
    fleet = queries_health.fleet(broker)
    yield judge_fleet.hosts(fleet)
    yield judge_fleet.autoscaler(fleet)
    yield judge_fleet.key_spread(_keys(settings).ids, fleet)
    yield judge_fleet.versions(__version__, fleet)
    mine = ".".join(platform.python_version_tuple()[:2])
    yield judge_fleet.python(mine, queries_health.endpoint_pythons(broker), fleet)


def _jobs(broker: Broker) -> Iterator[Finding]:
    queues = queries_queues.queues(broker)
    yield judge_fleet.waiting(queues)
    yield judge_fleet.dead_letters(queues)
    yield judge_fleet.parked_jobs(queues)
