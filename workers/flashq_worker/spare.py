"""A worker process before it is told what it is: all that can be done ahead is, and an executor is parked beside it.

What it is told comes by its standard input, a line of JSON each: any number of words which zygote is likely to be
wanted next, then its configuration (and after that, keys; see `held_keys`).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
from pathlib import Path
from typing import TYPE_CHECKING

from flashq.store.scripts import library
from flashq_worker import executor_start
from flashq_worker.environments import environment

if TYPE_CHECKING:
    from flashq_worker.executor_start import Parked

_MADV_POPULATE_WRITE = 23
_PARK = b'{"park":'


def park_word(place: Path) -> bytes:
    """The line that has a spare park an executor of the zygote at `place`."""
    return json.dumps({"park": str(place)}).encode() + b"\n"


def get_ready() -> None:
    """What every worker would do later, while somebody waits: reading its scripts, imports made where they are used."""
    library()
    environment.requirements(("packaging",))


def own_pages() -> None:
    """Copy now what memory a fork has shared, which would be copied page by page as it is written to.

    Where the kernel does not know how (before Linux 5.14), nothing is copied.
    """
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, rights, *_ = line.split()
        if rights == "rw-p":
            begin, end = (int(number, 16) for number in span.split("-"))
            madvise(begin, end - begin, _MADV_POPULATE_WRITE)


class Spare:
    """Waits at `descriptor` for its configuration.

    `parked`: an executor, where one was to be parked. `rest`: what was read after the configuration.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.parked: Parked | None = None
        self.rest = b""

    def configuration(self) -> bytes:
        """The line, or all there is."""
        place: Path | None = None
        owned = False
        while True:
            line, end, rest = self.rest.partition(b"\n")
            if end and not line.startswith(_PARK):
                self.rest = rest
                return line
            if end:
                self.rest = rest
                place = Path(json.loads(line)["park"])
                continue
            if not select.select([self._descriptor], [], [], 0)[0]:  # nobody waits for it
                if not owned:
                    own_pages()
                    owned = True
                if place is not None:
                    self._park(place)
                    place = None
            piece = os.read(self._descriptor, 65536)
            if not piece:
                self.rest = b""
                return line
            self.rest += piece

    def _park(self, place: Path) -> None:
        if self.parked is not None:
            self.parked.discard()
            self.parked = None
        with contextlib.suppress(OSError):
            self.parked = executor_start.park(place)
