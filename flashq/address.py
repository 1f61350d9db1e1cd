"""The broker's address: what FLASHQ_REDIS_URL may be, what of it leaves this machine, and the servers behind it.

    redis://[[USER]:PASSWORD@]HOST[:PORT][/DB]           in the clear
    rediss://[[USER]:PASSWORD@]HOST[:PORT][/DB]          over TLS, the server's certificate verified
    unix://[[USER]:PASSWORD@]/path/to/socket
    redis+sentinel://[[USER]:PASSWORD@]HOST[:PORT][,HOST[:PORT]…]/SERVICE[/DB]     the primary that sentinels name
    rediss+sentinel://…                                  the same, sentinels and servers over TLS

USER and PASSWORD are the servers'; those of the sentinels are the parameters `sentinel_username` and
`sentinel_password`. Other parameters (`?ssl_ca_certs=/ca.pem&…`) are those of `store.dial`. Nothing here does I/O.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

_SENTINEL_PORT = 26379
_TLS_SCHEMES = ("rediss", "rediss+sentinel")
_SERVER_SCHEMES = ("redis", "rediss")
_SENTINEL_SCHEMES = ("redis+sentinel", "rediss+sentinel")
_HOST = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.%]+)\]|(?P<name>[^\[\]:,/\s]+))(?::(?P<port>\d{1,5}))?")
_UNVERIFIED = {
    "ssl_cert_reqs": ("none", "optional"),
    "ssl_check_hostname": ("false", "no", "n", "f", "0", ""),
}


@dataclass(frozen=True, slots=True)
class Address:
    """A broker's address taken apart. No repr shows its passwords."""

    url: str = field(repr=False)
    scheme: str
    hosts: tuple[tuple[str, int], ...]
    """The server; or the sentinels; none for a unix socket."""
    service: str = ""
    """What the sentinels call the primary; '' where there are none."""
    rest: str = field(default="", repr=False)
    """Of a sentinel's address: what a server's goes on with after host and port: /DB?parameters."""
    login: str = field(default="", repr=False)
    sentinel_login: str = field(default="", repr=False)

    @classmethod
    def parse(cls, url: str) -> Address:
        """Raises ValueError saying what is wrong, without the URL."""
        scheme, separator, _ = url.partition("://")
        if separator and scheme in _SENTINEL_SCHEMES:
            return _sentinels(url, scheme)
        try:
            parts = urlsplit(url)
            port = parts.port  # raises where it is no number
        except ValueError:
            raise ValueError("is not a URL such as redis://:password@host:6379/0") from None
        if parts.scheme == "unix":
            if not parts.path.startswith("/"):
                raise ValueError("names no socket: unix:///path/to/socket")
            return cls(url, "unix", ())
        if parts.scheme not in _SERVER_SCHEMES:
            raise ValueError("must begin with redis://, rediss:// (TLS), unix:// or redis+sentinel://")
        if not parts.hostname:
            raise ValueError("names no host: redis://host:6379/0")
        _check_database(parts.path)
        return cls(url, parts.scheme, ((parts.hostname, port or 6379),))

    @property
    def tls(self) -> bool:
        return self.scheme in _TLS_SCHEMES

    @property
    def beyond_loopback(self) -> list[str]:
        """Hosts that are not plainly this machine. A name other than localhost is never looked up."""
        return [host for host, _ in self.hosts if not _loopback(host)]

    @property
    def verified(self) -> bool:
        """Whether TLS shows that the server is who it should be."""
        parameters = _parameters(urlsplit(self.url).query)
        return self.tls and not any(
            parameters.get(name, "-").lower() in values for name, values in _UNVERIFIED.items()
        )

    @property
    def key_file(self) -> str:
        """The key of the certificate that is shown to the broker; '' where none is."""
        return _parameters(urlsplit(self.url).query).get("ssl_keyfile", "")

    def exposure(self) -> str:
        """Why what travels to the broker may be read or altered on its way; '' where it may not."""
        if self.verified or not (self.service or self.beyond_loopback):
            return ""
        # Sentinels here may name servers elsewhere.
        which = "the servers that its sentinels name" if self.service else ", ".join(self.beyond_loopback)
        if self.tls:
            return f"the certificate of {which} would not be verified: anybody could stand in for it"
        return f"passwords, arguments and results would travel unencrypted to {which}"

    def sentinel_urls(self) -> list[str]:
        """The address of each sentinel."""
        scheme = self.scheme.partition("+")[0]
        parameters = self.rest.partition("?")[2]
        query = f"?{parameters}" if parameters else ""
        return [f"{scheme}://{self.sentinel_login}{_shown(*host)}/{query}" for host in self.hosts]

    def server_url(self, host: str, port: int) -> str:
        """The address of a server that a sentinel named."""
        return f"{self.scheme.partition('+')[0]}://{self.login}{_shown(host, port)}{self.rest}"


def with_parameters(url: str, parameters: Mapping[str, str]) -> str:
    """`url` with these parameters, those that it has already left as they are."""
    base, _, query = url.partition("?")
    missing = {name: value for name, value in parameters.items() if name not in _parameters(query)}
    return f"{base}?{'&'.join(filter(None, (query, urlencode(missing))))}" if missing else url


def _sentinels(url: str, scheme: str) -> Address:
    base, _, query = url.partition("?")
    place, _, path = base.partition("://")[2].partition("/")
    login, at, written = place.rpartition("@")
    hosts = []
    for one in written.split(","):
        match = _HOST.fullmatch(one)
        port = int(match["port"] or _SENTINEL_PORT) if match else 0
        if not match or not 0 < port < 65536:
            raise ValueError("names its sentinels wrongly: redis+sentinel://host:26379,host:26379/service/0")
        hosts.append((match["six"] or match["name"], port))
    service, slash, database = path.partition("/")
    if not service:
        raise ValueError("names no service: redis+sentinel://host:26379/mymaster/0")
    _check_database(slash + database)
    parameters = _parameters(query)
    user, password = (parameters.pop(f"sentinel_{name}", "") for name in ("username", "password"))
    return Address(
        url,
        scheme,
        tuple(hosts),
        unquote(service),
        slash + database + (f"?{urlencode(parameters)}" if parameters else ""),
        login + at,
        f"{quote(user, safe='')}:{quote(password, safe='')}@" if user or password else "",
    )


def _check_database(path: str) -> None:
    if not re.fullmatch(r"(/\d*)?", path):
        raise ValueError("must end with the number of a database, such as /0")


def _parameters(query: str) -> dict[str, str]:
    return dict(parse_qsl(query, keep_blank_values=True))


def _shown(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _loopback(host: str) -> bool:
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    if re.fullmatch(r"127(\.\d{1,3}){3}", name):
        return True
    return name.strip("[]") in ("::1", "0:0:0:0:0:0:0:1")
