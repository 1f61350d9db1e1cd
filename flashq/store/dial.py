"""Opens a socket to one server: TCP, TLS or a unix socket, then password and database in one round trip.

Decides nothing about which server that is (see `reach`) and sends no request of ours (see `line`). It is not
redis-py that connects, because importing redis-py takes 20 MB and 150 ms in each process, for these few lines.
The parameters of an address are named as redis-py names them.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import hiredis

from flashq._version import __version__

_READ = 65536
_TRUE = ("1", "true", "t", "yes", "y", "on")
_FALSE = ("0", "false", "f", "no", "n", "off", "")
_CERTIFICATES = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
_PARAMETERS = frozenset(
    {
        "db",
        "username",
        "password",
        "client_name",
        "socket_keepalive",
        "ssl_ca_certs",
        "ssl_ca_path",
        "ssl_ca_data",
        "ssl_certfile",
        "ssl_keyfile",
        "ssl_password",
        "ssl_cert_reqs",
        "ssl_check_hostname",
        "ssl_min_version",
        "ssl_ciphers",
    }
)
_POOLS = frozenset({"health_check_interval", "max_connections", "retry_on_timeout"})
"""These speak of what redis-py does with connections later: they hold for its clients (`Broker.redis`) alone."""
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
"""A peer that vanished without a word is noticed after 45 s. (macOS has not all of them.)"""
_NOT_NOW = frozenset({"LOADING", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN"})
_UNWANTED = frozenset({"NOAUTH", "WRONGPASS"})


class Denied(Exception):
    """The server answered, and does not want this user."""


@dataclass(frozen=True, slots=True)
class Target:
    """A server's address taken apart. No repr shows its password."""

    host: str
    port: int
    path: str
    """Of a unix socket; '' where it is a host."""
    tls: bool
    username: str = field(repr=False)
    password: str = field(repr=False)
    database: int
    parameters: dict[str, str] = field(repr=False)

    @classmethod
    def parse(cls, url: str) -> Target:
        """Of a `redis://`, `rediss://` or `unix://` address. Raises ValueError, without the URL."""
        parts = urlsplit(url)
        given = dict(parse_qsl(parts.query))
        unknown = sorted(given.keys() - _PARAMETERS - _POOLS)
        if unknown:
            raise ValueError(
                f"the address has the parameter {unknown[0]}; known are {', '.join(sorted(_PARAMETERS | _POOLS))}"
            )
        unix = parts.scheme == "unix"
        database = given.get("db", "0" if unix else parts.path.strip("/") or "0")
        if not database.isdecimal():
            raise ValueError(f"its database is {database!r}, which is no number")
        return cls(
            "" if unix else unquote(parts.hostname or "localhost"),
            0 if unix else parts.port or 6379,
            unquote(parts.path) if unix else "",
            parts.scheme == "rediss",
            unquote(parts.username) if parts.username else given.get("username", ""),
            unquote(parts.password) if parts.password else given.get("password", ""),
            int(database),
            given,
        )

    def truth(self, name: str) -> bool:
        """A parameter that is a yes or a no; unset, it is a yes. Raises ValueError."""
        value = self.parameters.get(name, "true").lower()
        if value not in (*_TRUE, *_FALSE):
            raise ValueError(f"{name} is {value!r}, which is neither yes nor no")
        return value in _TRUE


def dial(target: Target, timeout_s: float) -> socket.socket:
    """A blocking socket on which requests may be sent. `timeout_s`: for each step of the way.

    Raises: OSError (also ssl.SSLError), ValueError for parameters that say nothing, Denied.
    """
    connected = _unix(target, timeout_s) if target.path else _tcp(target, timeout_s)
    try:
        if target.tls:
            connected = _context(target).wrap_socket(connected, server_hostname=target.host)
        _introduce(connected, target)
    except BaseException:
        connected.close()
        raise
    return connected


def hang_up(connected: socket.socket, opened_by: int) -> None:
    """Close it. `opened_by`: the process that opened it; in a fork of that one the connection goes on."""
    if os.getpid() == opened_by and connected.fileno() >= 0:
        with contextlib.suppress(OSError):  # it is lost already
            connected.shutdown(socket.SHUT_RDWR)  # whoever waits for it in another thread wakes
    connected.close()


def ask(connected: socket.socket, *requests: tuple[str | int, ...]) -> list[Any]:
    """One reply to each request, all sent at once on a blocking socket; an error reply is a hiredis.ReplyError.

    Raises: OSError.
    """
    connected.sendall(b"".join(bytes(hiredis.pack_command(request)) for request in requests))  # type: ignore[arg-type]
    reader = hiredis.Reader()
    replies: list[Any] = []
    while len(replies) < len(requests):
        reply = reader.gets()
        if reply is not False:
            replies.append(reply)
            continue
        data = connected.recv(_READ)
        if not data:
            raise ConnectionError("it closed the connection")
        reader.feed(data)
    return replies


def _unix(target: Target, timeout_s: float) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.settimeout(timeout_s)
        made.connect(target.path)
    except BaseException:
        made.close()
        raise
    return made


def _tcp(target: Target, timeout_s: float) -> socket.socket:
    failure: OSError = OSError(f"{target.host} has no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(
        target.host, target.port, type=socket.SOCK_STREAM
    ):
        made = socket.socket(family, kind, protocol)
        try:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if target.truth("socket_keepalive"):
                made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for name, value in _KEEPALIVE.items():
                    if hasattr(socket, name):
                        made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
            made.settimeout(timeout_s)
            made.connect(address)
        except OSError as error:
            made.close()
            failure = error
        except BaseException:
            made.close()
            raise
        else:
            return made
    raise failure


def _context(target: Target) -> ssl.SSLContext:
    given = target.parameters
    wanted = given.get("ssl_cert_reqs", "required")
    if wanted not in _CERTIFICATES:
        raise ValueError(f"ssl_cert_reqs is {wanted!r}, which is none of {', '.join(_CERTIFICATES)}")
    context = ssl.create_default_context()
    context.check_hostname = target.truth("ssl_check_hostname") and wanted != "none"
    context.verify_mode = _CERTIFICATES[wanted]
    if "ssl_certfile" in given:
        context.load_cert_chain(given["ssl_certfile"], given.get("ssl_keyfile"), given.get("ssl_password"))
    elif "ssl_keyfile" in given:
        raise ValueError("ssl_keyfile is the key of a certificate: ssl_certfile names it")
    authorities = [given.get(f"ssl_ca_{what}") for what in ("certs", "path", "data")]
    if any(authorities):
        context.load_verify_locations(*authorities)
    if "ssl_min_version" in given:
        context.minimum_version = ssl.TLSVersion(int(given["ssl_min_version"]))
    if "ssl_ciphers" in given:
        context.set_ciphers(given["ssl_ciphers"])
    return context


def _introduce(connected: socket.socket, target: Target) -> None:
    requests: list[tuple[str | int, ...]] = []
    if target.password or target.username:
        requests.append(("AUTH", *filter(None, (target.username,)), target.password))
    # A round trip where nothing else is to be said, too: it shows that the server lives, and who we are in CLIENT LIST.
    requests.append(("CLIENT", "SETINFO", "LIB-NAME", "flashq"))
    requests.append(("CLIENT", "SETINFO", "LIB-VER", __version__))
    if name := target.parameters.get("client_name"):
        requests.append(("CLIENT", "SETNAME", name))
    if target.database:
        requests.append(("SELECT", target.database))
    for request, reply in zip(requests, ask(connected, *requests), strict=True):
        if isinstance(reply, hiredis.ReplyError):
            _judge(request[0], request[1], str(reply))


def _judge(command: str | int, what: str | int, refused: str) -> None:
    word = refused.split(" ", 1)[0]
    if word in _NOT_NOW:
        raise ConnectionError(refused)
    if command == "AUTH" or word in _UNWANTED:
        raise Denied(refused)
    if what == "SETINFO":  # this user may not say it, or the server knows it not yet: nothing depends on it
        return
    if word == "NOPERM":
        raise Denied(refused)
    raise ConnectionError(refused)
