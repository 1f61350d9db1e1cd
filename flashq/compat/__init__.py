"""Programs written for `runpod_flash`, as they are: `python -m flashq.compat script.py`.

`install()` makes `import runpod_flash` give what is here. What means the same on one's own hosts is passed on to
`flashq.Endpoint`; what names a cloud's hardware and places is mapped to what the hosts have, which is said once; what
cannot be honoured is refused by name. docs/from-flash.md has the table.

Endpoints' own processes import this too, so it needs the standard library alone.
"""

from __future__ import annotations

from flashq.compat.choices import Choices, choose
from flashq.compat.finder import install as _install

__all__ = ["Choices", "install"]


def install(choices: Choices | None = None) -> None:
    """From now on `import runpod_flash` gives flashq's. Raises ConfigurationError where another was imported before."""
    choose(choices or Choices())
    _install()
