"""A broker's address as people may see it. Pure."""

from __future__ import annotations

import re
from urllib.parse import urlsplit


def masked(url: str) -> str:
    """`url` without its password, wherever that stands: before the host, or as a parameter."""
    login, separator, address = urlsplit(url).netloc.rpartition("@")
    user, colon, _ = login.partition(":")
    shown = f"{user}{colon}***" if colon else user
    url = url.replace(f"//{login}{separator}{address}", f"//{shown}{separator}{address}", 1)
    return re.sub(r"(?i)([?&]password=)[^&]*", r"\1***", url)
