"""Find out what is the case, on this machine and on the broker, and have it judged. Changes nothing."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import stat
import time
from contextlib import closing
from typing import TYPE_CHECKING

from flashq import embedded
from flashq._version import __version__
from flashq.address import Address
from flashq.doctor import judge
from flashq.doctor.finding import fail, unknown
from flashq.embedded.places import Places
from flashq.embedded.server import find_server
from flashq.errors import BrokerError, FlashqError
from flashq.model.keyring import Keyring
from flashq.private_files import read_private
from flashq.secret_keys import read_secret_keys
from flashq.store import queries_fleet, queries_health, queries_queues
from flashq.store.broker import Broker
from flashq.store.server import look

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from flashq.doctor.finding import Finding
    from flashq.settings import Settings

_PATIENCE_S = 3.0
_ROUND_TRIPS = 21


def examine(settings: Settings) -> Iterator[Finding]:
    """Everything, a finding at a time: what is nearest first. Broker trouble is a finding."""
    yield from _here(settings)
    url = settings.redis_url or embedded.find(settings)
    if url is None:
        yield _private_server()
        return
    address = Address.parse(url)
    yield judge.address(address)
    with closing(Broker(url, prefix=settings.rq_prefix, patience_s=_PATIENCE_S)) as broker:
        try:
            yield judge.latency(queries_health.round_trips_ms(broker, _ROUND_TRIPS))
        except BrokerError as error:
            advice = "see that it runs and that FLASHQ_REDIS_URL names it, with user and password"
            yield fail("broker", str(error), advice)
            return
        yield from _broker(broker, address, settings)
        yield from _fleet(broker, settings)


# -- this machine ------------------------------------------------------------------------------------


def _here(settings: Settings) -> Iterator[Finding]:
    yield judge.home(str(settings.home), *_room(settings.home))
    yield _signing_key(settings)
    yield _secret_files(settings)
    uv = shutil.which("uv") or (importlib.util.find_spec("uv") and "the uv package")
    yield judge.uv(uv or None, workers=importlib.util.find_spec("flashq_worker") is not None)


def _room(home: Path) -> tuple[str, int | None]:
    """Why nothing can be kept in `home`, or ''; and how many bytes are free where it is, or will be."""
    there = next(folder for folder in (home, *home.parents) if folder.exists())
    problem = "" if there.is_dir() and os.access(there, os.W_OK | os.X_OK) else f"{there} cannot be written"
    try:
        return problem, shutil.disk_usage(there).free
    except OSError:
        return problem, None


def _key_ids(settings: Settings) -> tuple[str, ...]:
    """The keys in force here, the one that signs first; () where there are none. Raises FlashqError, ValueError."""
    if settings.redis_url is None:
        try:
            written = read_private(Places(settings.home).secret)
        except FileNotFoundError:
            return ()
        return Keyring([key.value for key in read_secret_keys(written)]).ids
    return Keyring(settings.require_secrets()).ids if settings.secret_key is not None else ()


def _signing_key(settings: Settings) -> Finding:
    private = settings.redis_url is None
    try:
        ids = _key_ids(settings)
    except (FlashqError, ValueError) as error:
        return judge.signing_key((), str(error), private=private)
    source = settings.secret_key_file or settings.sources.get("secret_key", "")
    return judge.signing_key(ids, str(Places(settings.home).secret if private else source), private=private)


def _secret_files(settings: Settings) -> Finding:
    places = Places(settings.home)
    named = [settings.secret_key_file, places.secret, places.password]
    modes = {str(file): _mode(file) for file in named if file is not None}
    found = {path: mode for path, mode in modes.items() if mode is not None}
    opened = [judge.OpenFile(path, mode) for path, mode in found.items() if mode & 0o077]
    return judge.secret_files(opened, len(found))


def _mode(file: Path) -> int | None:
    try:
        return stat.S_IMODE(file.stat().st_mode)
    except OSError:
        return None


def _private_server() -> Finding:
    try:
        return judge.private_broker(str(find_server()), "")
    except BrokerError as error:
        return judge.private_broker("", str(error))


# -- the broker --------------------------------------------------------------------------------------


def _broker(broker: Broker, address: Address, settings: Settings) -> Iterator[Finding]:
    with closing(broker.connect()) as line:
        server = look(line)
    elsewhere = bool(address.beyond_loopback or address.service)
    yield judge.version(server)
    yield judge.role(server)
    yield judge.durability(server, settings.durability)
    yield judge.eviction(server, settings.durability)
    yield judge.memory(server)
    yield judge.rights(server, elsewhere=elsewhere)
    if not address.service:  # the server that the sentinels name may be another the next moment
        asked_for = queries_health.asks_for_password(_anonymous(address.url))
        yield judge.password(asked_for=asked_for, elsewhere=elsewhere, private=settings.redis_url is None)
    yield _asked("clock", lambda: judge.clock(_ahead_s(broker)))
    yield _asked("functions", lambda: judge.functions(_functions(broker)))


def _ahead_s(broker: Broker) -> float:
    return time.time() - queries_fleet.now_ms(broker) / 1000  # noqa: TID251 — this clock is what is examined


def _anonymous(url: str) -> str:
    """The address without user and password."""
    scheme, _, rest = url.partition("://")
    place, slash, path = rest.partition("/")
    return f"{scheme}://{place.rpartition('@')[2]}{slash}{path}"


def _functions(broker: Broker) -> judge.Functions:
    mine = broker.library.name
    known = queries_health.libraries(broker)
    others = None if known is None else tuple(name for name in known if name != mine)
    return judge.Functions(mine, queries_health.library_loaded(broker), others)


def _asked(check: str, found: Callable[[], Finding]) -> Finding:
    """A finding, or that the broker does not say."""
    try:
        return found()
    except BrokerError as error:
        return unknown(check, str(error))


# -- the fleet ---------------------------------------------------------------------------------------


def _fleet(broker: Broker, settings: Settings) -> Iterator[Finding]:
    try:
        fleet = queries_health.fleet(broker)
        endpoints, queues = queries_fleet.endpoints(broker), queries_queues.queues(broker)
    except BrokerError as error:
        yield unknown("fleet", str(error), "ask as a user of the broker who may read its lists")
        return
    yield judge.hosts(fleet)
    yield judge.autoscaler(fleet)
    try:
        yield judge.key_spread(_key_ids(settings), fleet)
    except (FlashqError, ValueError) as error:
        yield unknown("key spread", str(error))
    yield judge.versions(__version__, fleet)
    yield judge.python(".".join(platform.python_version_tuple()[:2]), fleet)
    yield judge.endpoints(endpoints)
    yield judge.waiting(queues)
    yield judge.dead_letters(queues)
    yield judge.parked_jobs(queues)
    yield _asked("stray workers", lambda: judge.stray_workers(queries_health.strays(broker)))
