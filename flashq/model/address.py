"""A broker's address as people may see it. Pure."""

from __future__ import annotations

import re

_PARTS = re.compile(r"(?P<scheme>[^:/?#]*://)(?P<place>[^/?#]*)(?P<rest>.*)", re.DOTALL)


def masked(url: str) -> str:
    """`url` without its passwords, wherever they stand: before the host, or as parameters."""
    parts = _PARTS.fullmatch(url)
    if parts is not None:
        login, at, address = parts["place"].rpartition("@")
        user, colon, _ = login.partition(":")
        url = f"{parts['scheme']}{user}{':***' if colon else ''}{at}{address}{parts['rest']}"
    return re.sub(r"(?i)([?&]\w*password=)[^&]*", r"\1***", url)
