"""Where uv finds packages on a host whose operator configured pip: uv does not read pip's configuration."""

from __future__ import annotations

import configparser
import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_UV_VARIABLES = (
    "UV_INDEX",
    "UV_DEFAULT_INDEX",
    "UV_INDEX_URL",
    "UV_EXTRA_INDEX_URL",
    "UV_FIND_LINKS",
    "UV_NO_INDEX",
)
_UV_KEYS = ("index", "index-url", "extra-index-url", "find-links", "no-index")
_PIP_KEYS = ("index-url", "extra-index-url", "find-links", "no-index")


@dataclass(frozen=True, slots=True)
class Indexes:
    """What to add to uv's environment and options. Addresses may hold passwords, so they are no options."""

    variables: dict[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()


def pip_indexes(variables: Mapping[str, str], prefix: Path) -> Indexes:
    """pip's indexes in uv's terms; nothing where uv has indexes of its own.

    `variables` is the operator's environment, `prefix` the Python installation whose pip.conf counts.
    """
    if _uv_has_indexes(variables):
        return Indexes()
    pip = _pip_settings(variables, prefix)
    given: dict[str, str] = {}
    if "index-url" in pip:
        given["UV_DEFAULT_INDEX"] = pip["index-url"].strip()
    if pip.get("extra-index-url", "").split():
        given["UV_INDEX"] = " ".join(pip["extra-index-url"].split())
        # As pip does: the best version of all indexes, not of the first that knows the name.
        given["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    if pip.get("find-links", "").split():
        given["UV_FIND_LINKS"] = ",".join(pip["find-links"].split())
    no_index = pip.get("no-index", "").strip().lower() in ("1", "true", "yes", "on")
    return Indexes(given, ("--no-index",) if no_index else ())


def _uv_has_indexes(variables: Mapping[str, str]) -> bool:
    if any(variables.get(name) for name in _UV_VARIABLES):
        return True
    for file in _uv_files(variables):
        try:
            settings = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # not there, or not readable: uv itself will say so
        pip = settings.get("pip")
        if any(
            key in table for table in (settings, pip if isinstance(pip, dict) else {}) for key in _UV_KEYS
        ):
            return True
    return False


def _uv_files(variables: Mapping[str, str]) -> Iterator[Path]:
    if variables.get("UV_NO_CONFIG"):
        return
    if file := variables.get("UV_CONFIG_FILE"):
        yield Path(file)
        return
    yield _user_folder(variables) / "uv" / "uv.toml"
    for folder in variables.get("XDG_CONFIG_DIRS", "/etc/xdg").split(os.pathsep):
        yield Path(folder) / "uv" / "uv.toml"
    yield Path("/etc/uv/uv.toml")


def _pip_settings(variables: Mapping[str, str], prefix: Path) -> dict[str, str]:
    """pip's own settings of `_PIP_KEYS`: its files, later ones over earlier ones, then its variables."""
    settings: dict[str, str] = {}
    for file in _pip_files(variables, prefix):
        parser = configparser.RawConfigParser()
        try:
            parser.read(file, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError):
            continue  # pip would fail on it; uv does not need it
        for section in ("global", "install"):
            for key in _PIP_KEYS:
                if parser.has_option(section, key):
                    settings[key] = parser.get(section, key)
    for key in _PIP_KEYS:
        if value := variables.get("PIP_" + key.upper().replace("-", "_")):
            settings[key] = value
    return settings


def _pip_files(variables: Mapping[str, str], prefix: Path) -> Iterator[Path]:
    own = variables.get("PIP_CONFIG_FILE")
    if own == os.devnull:
        return
    for folder in variables.get("XDG_CONFIG_DIRS", "/etc/xdg").split(os.pathsep):
        yield Path(folder) / "pip" / "pip.conf"
    yield Path("/etc/pip.conf")
    yield _home(variables) / ".pip" / "pip.conf"
    yield _user_folder(variables) / "pip" / "pip.conf"
    yield prefix / "pip.conf"
    if own:
        yield Path(own)


def _user_folder(variables: Mapping[str, str]) -> Path:
    own = variables.get("XDG_CONFIG_HOME")
    return Path(own) if own else _home(variables) / ".config"


def _home(variables: Mapping[str, str]) -> Path:
    own = variables.get("HOME")
    return Path(own) if own else Path.home()
