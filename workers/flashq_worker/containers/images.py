"""Images of a host: one that is not there is got from its registry, once; one that is there is taken as it is."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

from flashq.errors import EnvironmentBuildError
from flashq_worker.containers import engine as engines
from flashq_worker.containers.engine import NoEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flashq_worker.containers.engine import Engine

# What engines pass on of registries that answered: no host would get it.
_UNKNOWN = re.compile(
    "manifest unknown|manifest for .* not found|name unknown|repository .* does not exist"
    "|repository .* not found|invalid reference format|access to the resource is denied",
    re.IGNORECASE,
)


class ImageUnavailable(EnvironmentBuildError):
    """An image is not on this host, and cannot be got now."""


class ImageUnknown(ImageUnavailable):
    """Its registry says that there is no such image, or not for us: another try would end the same way."""


def provide(
    image: str, variables: Mapping[str, str], say: Callable[[str], None], *, engine: str = ""
) -> Engine:
    """Have an image on this host; the engine that has it (`engine`: by name).

    `say` gets its lines while it is pulled. Raises ImageUnknown, ImageUnavailable, OSError.
    """
    try:
        found = engines.find(variables, engine)
    except NoEngine as why:
        raise ImageUnavailable(f"image {image} cannot be run on this host: {why}") from None
    _ensure(found, image, variables, say)
    return found


def _ensure(engine: Engine, image: str, variables: Mapping[str, str], say: Callable[[str], None]) -> None:
    there = subprocess.run(
        engines.inspect_words(engine, image),
        env=dict(variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    if there.returncode == 0:
        return
    said: list[str] = []
    with subprocess.Popen(
        engines.pull_words(engine, image),
        env=dict(variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    ) as pull:
        assert pull.stdout is not None
        for line in pull.stdout:
            say(line.rstrip())
            said = [*said[1 - engines.LAST_LINES :], line]
    if pull.returncode == 0:
        return
    tail = engines.last_lines("".join(said))
    kind = ImageUnknown if _UNKNOWN.search(tail) else ImageUnavailable
    why = engines.last_lines(tail, 1) or f"code {pull.returncode}"
    raise kind(f"image {image} cannot be pulled by {engine}: {why}", tail)
