"""What whoever runs a Flash program may decide of how a cloud's names are read. One for the process."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

VOLUME = "/runpod-volume"
"""Where Flash mounts a network volume; programs have it written in them."""


@dataclass(frozen=True, slots=True)
class Choices:
    """`exact`: GPU models and data centres are conditions, as in the cloud, and an endpoint waits for them; else GPUs
    are a preference and data centres are left out.

    `sizes`: CPU sizes are counted on the private broker, too: what is built there is for hosts.
    `volumes`: for names of network volumes, folders on the hosts; one that is not in it is /runpod-volume.
    `packages`: requirements that endpoints with GPUs have beside their own, since Flash's image for these has some.
    """

    exact: bool = False
    sizes: bool = False
    packages: tuple[str, ...] = ()
    volumes: Mapping[str, str] = field(default_factory=dict)


_chosen = Choices()


def choose(choices: Choices) -> None:
    """These hold for endpoints that are made from now on."""
    global _chosen
    _chosen = choices


def chosen() -> Choices:
    """What holds now."""
    return _chosen
