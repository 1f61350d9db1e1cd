"""The environment in which uv finds packages where pip does.

uv does not read pip's configuration, and a machine behind a package mirror often has no other. So pip's
settings (its files and PIP_… variables, as `pip config list` merges them) become uv's UV_… variables. What uv
is already told wins, and a machine without pip settings gets plain PyPI.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

SETTING = re.compile(r"(?P<section>[^.=]+)\.(?P<name>[^=]+)=(?P<value>.*)")
SECTIONS = ("global", "install", ":env:")  # the later one wins, as in pip
TRUE = frozenset({"1", "true", "yes", "on"})


def pip_settings(listing: str) -> dict[str, str]:
    """The options that hold for `pip install`, by name, from the output of `pip config list`."""
    by_section: dict[str, dict[str, str]] = {section: {} for section in SECTIONS}
    for line in listing.splitlines():
        match = SETTING.fullmatch(line)
        if match is not None and match["section"] in by_section:
            by_section[match["section"]][match["name"]] = ast.literal_eval(match["value"])
    return {name: value for section in SECTIONS for name, value in by_section[section].items()}


def uv_variables(settings: Mapping[str, str]) -> dict[str, str]:
    """pip's settings as uv's environment variables."""
    variables: dict[str, str] = {}
    if index := settings.get("index-url", "").strip():
        variables["UV_DEFAULT_INDEX"] = index
    if extra := settings.get("extra-index-url", "").split():
        variables["UV_INDEX"] = " ".join(extra)
        # pip takes the best version of all its indexes; uv by itself stops at the first that knows the name.
        variables["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    if links := settings.get("find-links", "").split():
        variables["UV_FIND_LINKS"] = ",".join(links)
    if settings.get("no-index", "").lower() in TRUE:
        variables["UV_NO_INDEX"] = "1"
    if hosts := settings.get("trusted-host", "").split():
        variables["UV_INSECURE_HOST"] = " ".join(hosts)
    if certificates := settings.get("cert", "").strip():
        variables["SSL_CERT_FILE"] = certificates
    if timeout := (settings.get("timeout") or settings.get("default-timeout", "")).strip():
        variables["UV_HTTP_TIMEOUT"] = timeout
    return variables


def index_environment() -> dict[str, str]:
    """This process's environment, with uv's variables filled in from pip's configuration.

    Raises CalledProcessError when pip cannot read its own configuration.
    """
    pip = [sys.executable, "-m", "pip", "config", "list"]
    listing = subprocess.run(pip, check=True, stdout=subprocess.PIPE, text=True).stdout
    return {**uv_variables(pip_settings(listing)), **os.environ}
