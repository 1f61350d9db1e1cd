"""Parameters of a Flash endpoint as those of a flashq one.

What is the same is passed on, to be judged there. Names of a cloud's hardware and places become what the hosts have,
which is said once; what means nothing on one's own hosts and would change what a program does is refused by name.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING, Any

from flashq.compat import told
from flashq.compat.choices import VOLUME, chosen
from flashq.compat.cloud import NetworkVolume, PodTemplate
from flashq.errors import NotSupportedError, SpecError
from flashq.model.resources import GpuGroup, GpuType, parse_cpu
from flashq.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

_ANY = (GpuGroup.ANY, GpuType.ANY)
_FOLDERS: dict[str, str] = {}
"""Names of network volumes that have no folder of their own, and where they are: /runpod-volume is one place."""

#: Parts of a template that say how the cloud starts a container: there is none here. Each with its unset values.
_OF_CONTAINERS = {
    "advancedStart": (False, None),
    "config": ({}, None),
    "containerRegistryAuthId": ("", None),
    "dockerArgs": ("", None),
    "imageName": ("", None),
    "ports": ("", None),
    "startScript": ("", None),
}
_DEFAULT_DISK_GB = 64


def name(given: str) -> str:
    """A name by flashq's rule: what Flash takes and flashq does not becomes '-'."""
    made = re.sub(r"-{2,}", "-", re.sub(r"[^A-Za-z0-9_-]", "-", given)).strip("-").lstrip("_")
    if made and made != given:
        told.once(f"name:{given}", f"the endpoint {given!r} is named {made!r} here")
    return made or given


def gpu(given: Any) -> Any:
    """GPUs, the preferred first, and any other after them."""
    if given is None:
        return None
    wanted = list(given) if isinstance(given, list | tuple) else [given]
    if chosen().exact or not wanted or any(item in _ANY for item in wanted):
        return wanted
    told.once(
        "gpu",
        f"GPUs that this program names, such as {_plain(wanted[0])}, are preferred; where none is free, a GPU of"
        " another model is used (--exact waits for one)",
    )
    return [*wanted, GpuGroup.ANY]


def cpu(given: Any) -> Any:
    """A size of CPU worker; on the private broker, where one machine is all there is, whatever that has left.

    A cloud has a core for each worker that waits to be called again; there, one endpoint would wait for another's.
    """
    counted = chosen().exact or chosen().sizes or told.in_worker()
    if given is None or counted or Settings.load().redis_url is not None:
        return given
    told.once(
        "cpu",
        f"sizes of CPU workers, such as {parse_cpu(given).instance}, are not counted on this machine: workers share"
        " what it has (--exact counts them)",
    )
    return "any"


def dependencies(given: Any, *, on_gpu: bool) -> Any:
    """Its requirements, and for endpoints with GPUs those that were chosen beside."""
    beside = chosen().packages if on_gpu else ()
    return [*(given or ()), *beside] if beside else given


def datacenter(given: Any) -> Any:
    """Labels of hosts; by default none, since a cloud's data centres are no places of one's own."""
    if not given:
        return None
    named = list(given) if isinstance(given, list | tuple) else [given]
    if chosen().exact:
        return [_plain(each) for each in named]
    told.once(
        "datacenter",
        f"data centres, such as {_plain(named[0])}, are the cloud's: hosts are used wherever they are (--exact waits"
        f" for one with the label datacenter={_plain(named[0])})",
    )
    return None


def volume(given: Any) -> str | None:
    """The folder on the hosts that stands for a network volume. Raises SpecError, NotSupportedError."""
    if given is None or isinstance(given, str):
        return given
    volumes = list(given) if isinstance(given, list | tuple) else [given]
    if not volumes or not all(isinstance(each, NetworkVolume) for each in volumes):
        raise SpecError("volume", "must be a NetworkVolume, or a list of them", value=given)
    folders = dict.fromkeys(map(_folder, volumes))  # of several, each is the same disk in another data centre
    if len(folders) > 1:
        raise NotSupportedError(
            "volume", f"an endpoint has one folder, and these are {', '.join(folders)}", value=given
        )
    return next(iter(folders))


def _folder(one: NetworkVolume) -> str:
    if folder := chosen().volumes.get(one.label):
        return folder
    holder = _FOLDERS.setdefault(VOLUME, one.label)
    if holder != one.label:
        raise NotSupportedError(
            "volume",
            f"{VOLUME} is the network volume {holder!r} already, and can't be {one.label!r} as well: give one of them a"
            " folder of its own (--volume NAME=/folder)",
            value=one,
        )
    told.once(
        "volume",
        f"the network volume {one.label!r} is the folder {VOLUME} on the hosts; its size is not enforced",
    )
    return VOLUME


def min_cuda_version(given: Any) -> Any:
    """The version as text. Flash's own default is none here: it would rule older hosts out."""
    return given.value if isinstance(given, Enum) else given


def scaling(kind: Any, value: Any) -> dict[str, Any]:
    """Flash's rule where it is asked for, by name or by its value; else flashq's own."""
    if kind is not None:
        return {"scaler_type": kind, "scaler_value": value}
    return {} if value == 4 else {"scaler_type": "QUEUE_DELAY", "scaler_value": value}


def env(given: Mapping[str, str] | None, template: Any) -> dict[str, str] | None:
    """Variables, those of the template too. Raises SpecError, NotSupportedError for the rest of a template."""
    if template is None:
        return None if given is None else dict(given)
    if not isinstance(template, PodTemplate):
        raise SpecError("template", "must be a PodTemplate", value=template)
    for part, unset in _OF_CONTAINERS.items():
        if (value := getattr(template, part)) not in unset:
            raise NotSupportedError(
                "template",
                f"its {part}={value!r} says how the cloud starts a container, and workers here are processes; "
                "leave it out",
            )
    if template.containerDiskInGb not in (_DEFAULT_DISK_GB, None):
        told.once("disk", "containerDiskInGb reserves nothing: workers use the disks of their hosts")
    return {**template.variables(), **(given or {})}


def _plain(item: Any) -> str:
    return str(item.value if isinstance(item, Enum) else item)


def forget() -> None:
    """No network volume has a folder yet: another program begins."""
    _FOLDERS.clear()
