"""Makes the connection to the broker: over TCP, TLS or a unix socket, or to the primary that sentinels name.

redis-py carries it out (handshake, password, database). Here is decided which server it is, and what its failure
is called: unreachable (try again), untrusted or refused (trying again will not help).
"""

from __future__ import annotations

import contextlib
import ssl
from typing import Any

import redis
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from flashq.address import Address
from flashq.errors import BrokerError, BrokerRefused, BrokerUnreachable, BrokerUntrusted
from flashq.model.address import masked
from flashq.store.names import NAMES

try:
    from redis.driver_info import DriverInfo
except ImportError:  # redis-py before it named itself by an object
    _NAMED: dict[str, Any] = {}
else:
    _NAMED = {"driver_info": DriverInfo()}  # once: it looks up its version among all packages

Connection = Any  # redis.connection.AbstractConnection, whose methods have no types
CONNECT_TIMEOUT_S = 3.0
_SENTINEL_TIMEOUT_S = 1.0
_answered: dict[str, str] = {}
"""By broker, the sentinel that answered last: it is asked first."""


def open_connection(url: str) -> Connection:
    """A connection to the broker at `url`.

    Raises: BrokerUnreachable, BrokerUntrusted, BrokerRefused.
    """
    address = _parsed(url)
    return _find_primary(address)[1] if address.service else _open(url)


def server_url(url: str) -> str:
    """The address of the one server that is the broker now.

    Raises as `open_connection` does.
    """
    address = _parsed(url)
    if not address.service:
        return url
    found, connection = _find_primary(address)
    connection.disconnect()
    return found


def _parsed(url: str) -> Address:
    try:
        return Address.parse(url)
    except ValueError as error:
        raise BrokerUnreachable(f"no broker at {masked(url)}: the address {error}") from None


def _open(url: str, timeout_s: float = CONNECT_TIMEOUT_S) -> Connection:
    shown = masked(url)
    try:
        pool = redis.ConnectionPool.from_url(
            url, protocol=2, socket_connect_timeout=timeout_s, socket_timeout=timeout_s, **_NAMED
        )
        connection = pool.connection_class(**{**pool.connection_kwargs, "retry_on_error": []})
        if "host" in pool.connection_kwargs:
            NAMES.wait_for(pool.connection_kwargs["host"], timeout_s)
        connection.connect()
    except (AuthenticationError, NoPermissionError) as error:
        raise BrokerRefused(f"the broker at {shown} refused: {error}") from None
    except (RedisError, OSError, ValueError, TypeError) as error:
        raise _failure(shown, error) from None
    return connection


def _failure(shown: str, error: Exception) -> BrokerError:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return BrokerUnreachable(f"no broker at {shown}: {error}")
    return BrokerUntrusted(
        f"the broker at {shown} is not trusted: {cause.verify_message}. FLASHQ_TLS_CA names the file of the"
        " certificates that its own has to come from; the name in the address has to be in it"
    )


# -- Sentinel ----------------------------------------------------------------------------------------


def _find_primary(address: Address) -> tuple[str, Connection]:
    """Ask one sentinel after the other; the primary's address and a connection to it.

    What a sentinel names counts only if it says itself that it is a primary: during a failover the old one may
    still be named.
    """
    failures: list[BrokerError] = []
    urls = address.sentinel_urls()
    urls.sort(key=lambda url: url != _answered.get(address.url))
    for sentinel in urls:
        try:
            found = _named_by(sentinel, address)
            connection = _open(found)
        except BrokerError as error:
            failures.append(error)
            continue
        role = _role(connection)
        if role == "master":
            _answered[address.url] = sentinel
            return found, connection
        connection.disconnect()
        failures.append(BrokerUnreachable(f"{masked(found)} is named as primary and says it is {role!r}"))
    final = [error for error in failures if not isinstance(error, BrokerUnreachable)]
    if len(final) == len(failures):
        raise final[0]
    reasons = "; ".join(dict.fromkeys(str(error) for error in failures))
    raise BrokerUnreachable(f"no primary of {address.service!r} by {masked(address.url)}: {reasons}")


def _named_by(sentinel: str, address: Address) -> str:
    connection = _open(sentinel, _SENTINEL_TIMEOUT_S)
    with contextlib.closing(_Closing(connection)):
        reply = _ask(connection, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", address.service)
    if not isinstance(reply, list) or len(reply) != 2:
        raise BrokerUnreachable(f"the sentinel at {masked(sentinel)} knows no service {address.service!r}")
    host, port = (part.decode() if isinstance(part, bytes) else str(part) for part in reply)
    return address.server_url(host, int(port))


def _role(connection: Connection) -> str:
    reply = _ask(connection, "ROLE")
    first = reply[0] if isinstance(reply, list) and reply else reply
    return first.decode() if isinstance(first, bytes) else str(first)


def _ask(connection: Connection, *parts: str) -> object:
    try:
        connection.send_command(*parts)
        answer: object = connection.read_response()
    except ResponseError as error:
        raise BrokerRefused(f"{parts[0]} was refused: {error}") from None
    except (RedisError, OSError) as error:
        raise BrokerUnreachable(f"no answer to {parts[0]}: {error}") from None
    return answer


class _Closing:
    """So that `closing` closes a connection of redis-py."""

    def __init__(self, connection: Connection) -> None:
        self.close = connection.disconnect
