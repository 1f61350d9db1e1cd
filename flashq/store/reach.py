"""Makes the connection to the broker: over TCP, TLS or a unix socket, or to the primary that sentinels name.

`dial` carries it out (TLS, password, database). Here is decided which server it is, and what its failure is called:
unreachable (try again), untrusted or refused (trying again will not help).
"""

from __future__ import annotations

import contextlib
import ssl
from typing import TYPE_CHECKING

import hiredis

from flashq.address import Address
from flashq.errors import BrokerError, BrokerRefused, BrokerUnreachable, BrokerUntrusted
from flashq.model.address import masked
from flashq.store.dial import Denied, Target, ask, dial
from flashq.store.names import NAMES

if TYPE_CHECKING:
    import socket

CONNECT_TIMEOUT_S = 3.0
_SENTINEL_TIMEOUT_S = 1.0
_answered: dict[str, str] = {}
"""By broker, the sentinel that answered last: it is asked first."""


def open_connection(url: str) -> socket.socket:
    """A blocking socket to the broker at `url`, on which requests may be sent.

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
    connection.close()
    return found


def _parsed(url: str) -> Address:
    try:
        return Address.parse(url)
    except ValueError as error:
        raise BrokerUnreachable(f"no broker at {masked(url)}: the address {error}") from None


def _open(url: str, timeout_s: float = CONNECT_TIMEOUT_S) -> socket.socket:
    shown = masked(url)
    try:
        target = Target.parse(url)
        if target.host:
            NAMES.wait_for(target.host, timeout_s)
        return dial(target, timeout_s)
    except Denied as error:
        raise BrokerRefused(f"the broker at {shown} refused: {error}") from None
    except (OSError, ValueError) as error:
        raise _failure(shown, error) from None


def _failure(shown: str, error: Exception) -> BrokerError:
    if not isinstance(error, ssl.SSLCertVerificationError):
        why = (isinstance(error, OSError) and error.strerror) or error
        return BrokerUnreachable(f"no broker at {shown}: {why}")
    return BrokerUntrusted(
        f"the broker at {shown} is not trusted: {error.verify_message}. FLASHQ_TLS_CA names the file of the"
        " certificates that its own has to come from; the name in the address has to be in it"
    )


# -- Sentinel ----------------------------------------------------------------------------------------


def _find_primary(address: Address) -> tuple[str, socket.socket]:
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
        connection.close()
        failures.append(BrokerUnreachable(f"{masked(found)} is named as primary and says it is {role!r}"))
    final = [error for error in failures if not isinstance(error, BrokerUnreachable)]
    if len(final) == len(failures):
        raise final[0]
    reasons = "; ".join(dict.fromkeys(str(error) for error in failures))
    raise BrokerUnreachable(f"no primary of {address.service!r} by {masked(address.url)}: {reasons}")


def _named_by(sentinel: str, address: Address) -> str:
    connection = _open(sentinel, _SENTINEL_TIMEOUT_S)
    with contextlib.closing(connection):
        reply = _ask(connection, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", address.service)
    if not isinstance(reply, list) or len(reply) != 2:
        raise BrokerUnreachable(f"the sentinel at {masked(sentinel)} knows no service {address.service!r}")
    host, port = (part.decode() if isinstance(part, bytes) else str(part) for part in reply)
    return address.server_url(host, int(port))


def _role(connection: socket.socket) -> str:
    reply = _ask(connection, "ROLE")
    first = reply[0] if isinstance(reply, list) and reply else reply
    return first.decode() if isinstance(first, bytes) else str(first)


def _ask(connection: socket.socket, *parts: str) -> object:
    try:
        (answer,) = ask(connection, parts)
    except OSError as error:
        raise BrokerUnreachable(f"no answer to {parts[0]}: {error}") from None
    if isinstance(answer, hiredis.ReplyError):
        raise BrokerRefused(f"{parts[0]} was refused: {answer}")
    return answer
