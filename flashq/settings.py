"""Settings in force, from the environment and the nearest pyproject.toml; nothing else reads either.

| variable | key in `[tool.flashq]` | meaning |
|---|---|---|
| FLASHQ_REDIS_URL | redis_url | the broker's address (its forms: flashq/address.py); unset: one is started |
| FLASHQ_TLS_CA | tls_ca | a file of the certificates that the broker's has to come from; default: the system's |
| FLASHQ_TLS_CERT | tls_cert | a file with the certificate to show to the broker |
| FLASHQ_TLS_KEY | tls_key | a file with that certificate's key |
| FLASHQ_ALLOW_PLAINTEXT | allow_plaintext | "1": on a private network, use a broker elsewhere without verified TLS |
| FLASHQ_SECRET_KEY | – | the signing key, at least 32 bytes; several: separated by commas, the one that signs first |
| FLASHQ_SECRET_KEY_FILE | secret_key_file | a file that holds it, or several, one a line, and only its owner can read |
| FLASHQ_HOME | home | folder of state, environments and logs; default: the platform's user data folder |
| FLASHQ_NAMESPACE | namespace | keeps apart what shares a broker; default "default" |
| FLASHQ_DURABILITY | durability | what an acknowledged call has to survive: `memory`, `fsync` or `fsync+replica` |
| FLASHQ_PAYLOAD_LIMIT | payload_limit | bytes of one call's arguments or one result; default 64 MiB |
| FLASHQ_ENVIRONMENTS_DAYS | environments_days | days that a host keeps an environment which nobody uses; default 30 |
| FLASHQ_ENVIRONMENTS_GIB | environments_gib | GiB beyond which a host removes the longest unused ones; default 50 |
| FLASHQ_CONTAINER_ENGINE | container_engine | `podman` or `docker`, for `image=`; default: the first there is |
| FLASHQ_CONTAINER_OPTIONS | container_options | options of each container of this host, as on a command line |
| FLASHQ_LABELS | labels | labels of this host, beside those of `flashq host --label`; separated by commas |
| FLASHQ_LEASE_S | lease_s | seconds of silence after which a worker is lost; default 15 |
| RQ_KEY_PREFIX | – | first part of every key in the broker, as for RQ itself; default "rq" |

The environment wins. An empty variable counts as unset; paths in pyproject.toml start at its folder. How keys are
written says `flashq.secret_keys`. This module owns `os.environ`. It does without pydantic, whose import costs
more than all that is read here.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashq.address import Address, with_parameters
from flashq.errors import SettingsError
from flashq.model.address import masked
from flashq.model.checks import nearest, number, whole
from flashq.model.durability import Durability
from flashq.private_files import read_private
from flashq.secret_keys import SecretKey as SecretKey
from flashq.secret_keys import read_secret_key as read_secret_key
from flashq.secret_keys import read_secret_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PREFIX = "FLASHQ_"
DEFAULT_PAYLOAD_LIMIT = 64 * 2**20
MAX_PAYLOAD_LIMIT = 512 * 2**20
"""The largest value a Redis string can hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is in force. Paths are absolute."""

    redis_url: str | None = field(default=None, repr=False)
    """None: embedded. May hold a password; show `shown_redis_url` instead. Names the files for TLS, too."""
    allow_plaintext: bool = False
    """Whether the broker may be elsewhere and without verified TLS."""
    secret_key: SecretKey | None = None
    """The one that signs."""
    verifying_keys: tuple[SecretKey, ...] = ()
    """Others, whose signatures are accepted too."""
    secret_key_file: Path | None = None
    """Where the keys were read, and may change; None: in a variable."""
    home: Path
    namespace: str = "default"
    payload_limit: int = DEFAULT_PAYLOAD_LIMIT
    lease_s: float = 15.0
    environments_days: float = 30.0
    environments_gib: float = 50.0
    container_engine: str = ""
    """Empty: the first that is there."""
    container_options: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    durability: Durability | None = None
    """What is wanted at least; but for `memory`, a broker that loses data by its setup is warned of."""
    rq_prefix: str = "rq"
    """First part of every key; stock RQ tools read the same variable."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Which variable or key gave each setting; those left at their default are not in it."""

    @property
    def shown_redis_url(self) -> str | None:
        """The broker's address with its password masked."""
        return None if self.redis_url is None else masked(self.redis_url)

    def require_secret_key(self) -> bytes:
        """The signing key. Raises `SettingsError` where none is set."""
        if self.secret_key is None:
            raise SettingsError(
                "no signing key: set FLASHQ_SECRET_KEY or FLASHQ_SECRET_KEY_FILE to the one of the hosts"
                " (`flashq keys make` makes the first)"
            )
        return self.secret_key.value

    def require_secrets(self) -> tuple[bytes, ...]:
        """All keys as a keyring takes them: the one that signs first. Raises as `require_secret_key`."""
        return (self.require_secret_key(), *(key.value for key in self.verifying_keys))

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None, cwd: Path | None = None) -> Settings:
        """Read `environ` (default: this process's) and the pyproject.toml nearest above `cwd`.

        Raises `SettingsError` naming the variable or key that is wrong; no message shows a secret.
        """
        folder = (Path.cwd() if cwd is None else cwd).absolute()
        environ = os.environ if environ is None else environ
        given = _from_pyproject(folder)
        given.update(_from_environ(environ, folder))
        if "secret_key" in given and "secret_key_file" in given:
            del given["secret_key_file"]  # it came from pyproject.toml
        values: dict[str, Any] = {}
        sources: dict[str, str] = {}
        for name, setting in given.items():
            values[name], sources[name] = setting.read(_READERS[name]), setting.source
        if environ.get("RQ_KEY_PREFIX"):
            values["rq_prefix"] = _Given(environ["RQ_KEY_PREFIX"], "RQ_KEY_PREFIX", folder).read(_rq_prefix)
        if "home" not in values:
            values["home"] = _default_home()
        _settle_keys(values, sources, given)
        _settle_address(values, given)
        return cls(**values, sources=sources)


def users_variables(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without what may hold the broker's address, its password or a key: for user code."""
    environ = os.environ if environ is None else environ
    ours = (PREFIX, "RQ_", "REDIS_", "VALKEY_")
    return {name: value for name, value in environ.items() if not name.startswith(ours)}


@dataclass(frozen=True, slots=True)
class _Given:
    """A setting as somebody wrote it."""

    value: Any
    source: str
    folder: Path
    """Where relative paths start."""
    secret: bool = False

    def read(self, reader: Callable[[_Given], Any]) -> Any:
        try:
            return reader(self)
        except ValueError as error:
            shown = "" if self.secret else f" ({self.value!r})"
            raise SettingsError(f"{self.source}{shown}: {error}") from None

    def text(self) -> str:
        if not isinstance(self.value, str):
            raise ValueError("must be a string")
        return self.value

    def path(self) -> Path:
        return self.folder / Path(self.text()).expanduser()


# -- where they come from ----------------------------------------------------------------------------


def _from_environ(environ: Mapping[str, str], folder: Path) -> dict[str, _Given]:
    variables = {PREFIX + name.upper(): name for name in _READERS}
    for variable in sorted(environ):
        if variable.startswith(PREFIX) and variable not in variables:
            _refuse_misspelling(variable, variables)
    found = {
        name: _Given(environ[variable], variable, folder, secret=name in _SECRET)
        for variable, name in variables.items()
        if environ.get(variable)
    }
    if "secret_key" in found and "secret_key_file" in found:
        raise SettingsError("FLASHQ_SECRET_KEY and FLASHQ_SECRET_KEY_FILE are both set; give the key once")
    return found


def _refuse_misspelling(variable: str, known: Mapping[str, str]) -> None:
    """Other programs may have variables of this prefix; one that nearly is ours was meant for us."""
    import difflib  # only where such a variable exists

    if near := difflib.get_close_matches(variable, known, n=1, cutoff=0.85):
        raise SettingsError(f"{variable}: no such variable; did you mean {near[0]}?")


def _from_pyproject(folder: Path) -> dict[str, _Given]:
    for parent in (folder, *folder.parents):
        file = parent / "pyproject.toml"
        if file.is_file():
            return _read_pyproject(file)
    return {}


def _read_pyproject(file: Path) -> dict[str, _Given]:
    try:
        text = file.read_text("utf-8")
        if "flashq" not in text:
            return {}
        import tomllib  # only where the file speaks of us

        tool = tomllib.loads(text).get("tool", {})
    except (OSError, ValueError) as error:  # not readable, not UTF-8, not TOML
        raise SettingsError(f"{file}: {error}") from None
    table = tool.get("flashq", {}) if isinstance(tool, dict) else {}
    if not isinstance(table, dict):
        raise SettingsError(f"flashq in [tool] of {file}: must be a table")
    given = {}
    for name, value in table.items():
        source = f"{name} in [tool.flashq] of {file}"
        if name == "secret_key":
            raise SettingsError(
                f"{source}: a file that is shared is no place for a key; set FLASHQ_SECRET_KEY"
            )
        if name not in _READERS:
            raise SettingsError(f"{source}: no such setting{nearest(name, _READERS)}")
        given[name] = _Given(value, source, file.parent, secret=name in _SECRET)
    return given


def _default_home() -> Path:
    import platformdirs  # only where no home is set

    return Path(platformdirs.user_data_dir("flashq", appauthor=False)).absolute()


# -- what each may be --------------------------------------------------------------------------------


def _redis_url(given: _Given) -> str:
    return Address.parse(given.text().strip()).url


def _settle_address(values: dict[str, Any], given: Mapping[str, _Given]) -> None:
    """Put the files for TLS into the broker's address. Raises SettingsError where that gives too much away."""
    files = {name: values.pop(name) for name in _TLS_FILES if name in values}
    if "redis_url" not in values:
        return  # the private broker's socket: nothing leaves this machine
    address = Address.parse(values["redis_url"])
    shown = f"{given['redis_url'].source} ({masked(address.url)})"
    if files and not address.tls and address.hosts:
        first = given[next(iter(files))].source
        raise SettingsError(f"{first}: for a broker with TLS (rediss://), which {shown} is not")
    exposure = address.exposure()
    if exposure and not values.get("allow_plaintext"):
        raise SettingsError(
            f"{shown}: {exposure}. Use TLS (rediss://, FLASHQ_TLS_CA); on a private network you may set"
            " FLASHQ_ALLOW_PLAINTEXT=1"
        )
    values["redis_url"] = with_parameters(
        address.url, {_TLS_FILES[name]: str(file) for name, file in files.items()}
    )


def _file(given: _Given) -> Path:
    file = given.path()
    try:
        with file.open("rb"):
            return file
    except OSError as error:
        raise ValueError(f"cannot read {file}: {error.strerror}") from None


def _flag(given: _Given) -> bool:
    if isinstance(given.value, bool):
        return given.value
    meant = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    found = meant.get(str(given.value).strip().lower())
    if found is None:
        raise ValueError("must be 1 or 0")
    return found


def _secret_key(given: _Given) -> tuple[SecretKey, ...]:
    return read_secret_keys(given.text().replace(",", "\n"))


def _secret_key_file(given: _Given) -> tuple[SecretKey, ...]:
    file = given.path()
    try:
        return read_secret_keys(read_private(file))
    except FileNotFoundError as error:
        raise ValueError(f"cannot read {file}: {error.strerror}") from None


def _settle_keys(values: dict[str, Any], sources: dict[str, str], given: Mapping[str, _Given]) -> None:
    """Of the keys that were read, the first signs."""
    for name in ("secret_key", "secret_key_file"):
        if name in values:
            values["secret_key"], *others = values[name]
            values["verifying_keys"] = tuple(others)
            sources["secret_key"] = sources[name]
    if "secret_key_file" in values:
        values["secret_key_file"] = given["secret_key_file"].path()
        del sources["secret_key_file"]


def _home(given: _Given) -> Path:
    folder = given.path()
    if folder.exists() and not folder.is_dir():
        raise ValueError("is not a folder")
    return folder


def _namespace(given: _Given) -> str:
    name = given.text()
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name):
        raise ValueError("must be at most 64 letters, digits, '_' and '-', and begin with a letter or digit")
    return name


def _rq_prefix(given: _Given) -> str:
    """Names of keys go into patterns, ACL rules and listings: nothing in them may mean something there."""
    prefix = given.text()
    if not re.fullmatch(r"[A-Za-z0-9_.:{}-]{1,64}", prefix):
        raise ValueError("must be at most 64 letters, digits, '_', '-', '.', ':' and braces")
    return prefix


def _payload_limit(given: _Given) -> int:
    value = _parsed(given.value, int)
    return whole(value, minimum=1024, maximum=MAX_PAYLOAD_LIMIT, unit="bytes")


def _lease_s(given: _Given) -> float:
    value = _parsed(given.value, float)
    return float(number(value, minimum=0.1, maximum=3600, unit="seconds"))


def _environments_days(given: _Given) -> float:
    return float(number(_parsed(given.value, float), minimum=0, maximum=3650, unit="days"))


def _environments_gib(given: _Given) -> float:
    return float(number(_parsed(given.value, float), minimum=0, maximum=1_000_000, unit="GiB"))


def _container_engine(given: _Given) -> str:
    name = given.text()
    if name not in ("podman", "docker"):
        raise ValueError("must be podman or docker")
    return name


def _container_options(given: _Given) -> tuple[str, ...]:
    import shlex  # only where there are any

    words = shlex.split(given.value) if isinstance(given.value, str) else given.value
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ValueError("must be a command line's options, or a list of them")
    if words and not words[0].startswith("-"):
        raise ValueError("must begin with an option, such as --network=host")
    return tuple(words)


def _labels(given: _Given) -> tuple[str, ...]:
    from flashq.model.parameters import label  # only where there are labels

    value = given.value.split(",") if isinstance(given.value, str) else given.value
    if not isinstance(value, list):
        raise ValueError("must be a list of labels")
    return tuple(label(one.strip() if isinstance(one, str) else one) for one in value)


def _durability(given: _Given) -> Durability:
    try:
        return Durability(given.text())
    except ValueError:
        raise ValueError(f"must be one of {', '.join(Durability)}") from None


def _parsed(value: Any, kind: Callable[[str], float]) -> Any:
    """A number that the environment can only give as text."""
    try:
        return kind(value) if isinstance(value, str) else value
    except ValueError:
        return value  # the check that follows says what it must be


_READERS: dict[str, Callable[[_Given], Any]] = {
    "redis_url": _redis_url,
    "tls_ca": _file,
    "tls_cert": _file,
    "tls_key": _file,
    "allow_plaintext": _flag,
    "secret_key": _secret_key,
    "secret_key_file": _secret_key_file,
    "home": _home,
    "namespace": _namespace,
    "payload_limit": _payload_limit,
    "environments_days": _environments_days,
    "environments_gib": _environments_gib,
    "container_engine": _container_engine,
    "container_options": _container_options,
    "labels": _labels,
    "lease_s": _lease_s,
    "durability": _durability,
}
_SECRET = frozenset({"redis_url", "secret_key"})
_TLS_FILES = {"tls_ca": "ssl_ca_certs", "tls_cert": "ssl_certfile", "tls_key": "ssl_keyfile"}
"""Settings and the parameters of the address that they become."""
