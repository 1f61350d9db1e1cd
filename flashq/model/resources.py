"""What an endpoint's worker needs of a host: GPUs by group or model, or CPU cores and memory.

The names are those of Runpod Flash, so that its scripts read the same here; what they come down to is what
one's own hosts can report: NVML product names, cores and GiB. This module knows nothing of hosts, and imports
only the standard library (`import flashq` shows these enums). Pure; wrong values raise `ValueError` with what
is allowed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING

from flashq.model.checks import kind, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable


class GpuType(Enum):
    """One GPU model. The value is its NVML product name; `ANY` stands for every GPU."""

    ANY = "any"
    NVIDIA_GEFORCE_RTX_4090 = "NVIDIA GeForce RTX 4090"
    NVIDIA_GEFORCE_RTX_5090 = "NVIDIA GeForce RTX 5090"
    NVIDIA_RTX_6000_ADA_GENERATION = "NVIDIA RTX 6000 Ada Generation"
    NVIDIA_RTX_PRO_6000_BLACKWELL_SERVER_EDITION = "NVIDIA RTX PRO 6000 Blackwell Server Edition"
    NVIDIA_RTX_PRO_6000_BLACKWELL_WORKSTATION_EDITION = "NVIDIA RTX PRO 6000 Blackwell Workstation Edition"
    NVIDIA_RTX_PRO_6000_BLACKWELL_MAX_Q_WORKSTATION_EDITION = (
        "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition"
    )
    NVIDIA_H100_80GB_HBM3 = "NVIDIA H100 80GB HBM3"
    NVIDIA_RTX_A4000 = "NVIDIA RTX A4000"
    NVIDIA_RTX_A4500 = "NVIDIA RTX A4500"
    NVIDIA_RTX_4000_ADA_GENERATION = "NVIDIA RTX 4000 Ada Generation"
    NVIDIA_RTX_2000_ADA_GENERATION = "NVIDIA RTX 2000 Ada Generation"
    NVIDIA_RTX_A5000 = "NVIDIA RTX A5000"
    NVIDIA_L4 = "NVIDIA L4"
    NVIDIA_GEFORCE_RTX_3090 = "NVIDIA GeForce RTX 3090"
    NVIDIA_A40 = "NVIDIA A40"
    NVIDIA_RTX_A6000 = "NVIDIA RTX A6000"
    NVIDIA_A100_80GB_PCIe = "NVIDIA A100 80GB PCIe"
    NVIDIA_A100_SXM4_80GB = "NVIDIA A100-SXM4-80GB"
    NVIDIA_H200 = "NVIDIA H200"
    NVIDIA_B200 = "NVIDIA B200"

    @classmethod
    def all(cls) -> list[GpuType]:
        """Every model but `ANY`."""
        return [member for member in cls if member is not cls.ANY]


class GpuGroup(Enum):
    """GPUs of one architecture and memory size (GB), named as Runpod's pools; `ANY` stands for every GPU."""

    ANY = "any"
    ADA_24 = "ADA_24"
    ADA_32_PRO = "ADA_32_PRO"
    ADA_48_PRO = "ADA_48_PRO"
    ADA_80_PRO = "ADA_80_PRO"
    AMPERE_16 = "AMPERE_16"
    AMPERE_24 = "AMPERE_24"
    AMPERE_48 = "AMPERE_48"
    AMPERE_80 = "AMPERE_80"
    HOPPER_141 = "HOPPER_141"
    BLACKWELL_96 = "BLACKWELL_96"
    BLACKWELL_180 = "BLACKWELL_180"

    @classmethod
    def all(cls) -> list[GpuGroup]:
        """Every group but `ANY`."""
        return [member for member in cls if member is not cls.ANY]

    @property
    def products(self) -> tuple[str, ...]:
        """NVML product names of the GPUs in this group; empty for `ANY`."""
        return _PRODUCTS.get(self, ())


_PRODUCTS: dict[GpuGroup, tuple[str, ...]] = {
    GpuGroup.ADA_24: ("NVIDIA GeForce RTX 4090",),
    GpuGroup.ADA_32_PRO: ("NVIDIA GeForce RTX 5090",),
    GpuGroup.ADA_48_PRO: ("NVIDIA RTX 6000 Ada Generation", "NVIDIA L40", "NVIDIA L40S"),
    GpuGroup.ADA_80_PRO: ("NVIDIA H100 PCIe", "NVIDIA H100 80GB HBM3", "NVIDIA H100 NVL"),
    GpuGroup.AMPERE_16: (
        "NVIDIA RTX A4000",
        "NVIDIA RTX A4500",
        "NVIDIA RTX 4000 Ada Generation",
        "NVIDIA RTX 2000 Ada Generation",
    ),
    GpuGroup.AMPERE_24: ("NVIDIA RTX A5000", "NVIDIA L4", "NVIDIA GeForce RTX 3090"),
    GpuGroup.AMPERE_48: ("NVIDIA A40", "NVIDIA RTX A6000"),
    GpuGroup.AMPERE_80: ("NVIDIA A100 80GB PCIe", "NVIDIA A100-SXM4-80GB"),
    GpuGroup.HOPPER_141: ("NVIDIA H200",),
    GpuGroup.BLACKWELL_96: (
        "NVIDIA RTX PRO 6000 Blackwell Server Edition",
        "NVIDIA RTX PRO 6000 Blackwell Workstation Edition",
        "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition",
    ),
    GpuGroup.BLACKWELL_180: ("NVIDIA B200",),
}


class CpuInstanceType(str, Enum):  # noqa: UP042 -- a str and Enum, like Flash's
    """A size of CPU worker. The value reads family-cores-GiB: `cpu5c-4-8` is 4 cores and 8 GiB."""

    CPU3G_1_4 = "cpu3g-1-4"
    CPU3G_2_8 = "cpu3g-2-8"
    CPU3G_4_16 = "cpu3g-4-16"
    CPU3G_8_32 = "cpu3g-8-32"
    CPU3C_1_2 = "cpu3c-1-2"
    CPU3C_2_4 = "cpu3c-2-4"
    CPU3C_4_8 = "cpu3c-4-8"
    CPU3C_8_16 = "cpu3c-8-16"
    CPU5C_1_2 = "cpu5c-1-2"
    CPU5C_2_4 = "cpu5c-2-4"
    CPU5C_4_8 = "cpu5c-4-8"
    CPU5C_8_16 = "cpu5c-8-16"


class ServerlessScalerType(Enum):
    """Flash's two scaling rules by name; unset means flashq's own (earliest finish)."""

    QUEUE_DELAY = "QUEUE_DELAY"
    REQUEST_COUNT = "REQUEST_COUNT"


@dataclass(frozen=True, slots=True)
class GpuRequest:
    """The GPU models a worker may run on: NVML product names, the preferred first; empty means any GPU."""

    products: tuple[str, ...] = ()
    others: bool = False
    """Any other will do as well, after those."""

    @property
    def any(self) -> bool:
        """Whether every GPU will do, and none is preferred."""
        return not self.products

    @lru_cache(maxsize=4096)  # noqa: B019 -- keyed by value: a request is frozen
    def rank(self, product: str) -> int | None:
        """How far from the preferred model a GPU of this NVML product name is: 0 is best; None: it will not do."""
        ranks = (at for at, name in enumerate(self.products) if _same_model(name, product))
        return next(ranks, len(self.products) if self.any or self.others else None)


@dataclass(frozen=True, slots=True)
class CpuRequest:
    """A CPU worker's size. None means "not counted": the worker takes what the host leaves it."""

    instance: str = "any"
    cores: int | None = None
    memory_gib: int | None = None

    @property
    def memory_bytes(self) -> int | None:
        """`memory_gib` in bytes."""
        return None if self.memory_gib is None else self.memory_gib << 30


# Product names of other makes of GPU than Flash knows begin with one of these (T4, V100, older Quadros).
_VENDORS = ("nvidia ", "tesla ", "quadro ", "geforce ")
_KNOWN = tuple(
    dict.fromkeys(
        [product for products in _PRODUCTS.values() for product in products]
        + [model.value for model in GpuType.all()]
    )
)


_LISTED = frozenset(product.casefold() for product in _KNOWN)
# What NVML appends to a model's name: the card's form, its kind of memory, and how much of that it has.
_APPENDED = re.compile(r"pcie|sxm\d?|nvl|oam|hbm\d?e?|\d+gb")


def _same_model(wanted: str, product: str) -> bool:
    """Whether NVML's name of a GPU is the model that is wanted.

    Case, separators and a leading "NVIDIA" (which older drivers leave out) do not count. A name that is not listed here
    stands for all forms and memory sizes of its model: "Tesla V100" for a "Tesla V100-SXM2-16GB".
    """
    names, found = _model_words(wanted), _model_words(product)
    rest = found[len(names) :]
    if found[: len(names)] != names:
        return False
    return not rest or (wanted.casefold() not in _LISTED and all(map(_APPENDED.fullmatch, rest)))


def cuda_suffices(driver: str, wanted: str) -> bool:
    """Whether a driver that runs CUDA up to `driver` ("12.4"; empty: not known) runs `wanted` (empty: any)."""
    return not wanted or _version(driver) >= _version(wanted)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdecimal())


def _model_words(name: str) -> tuple[str, ...]:
    words = _words(name.casefold())
    return words[1:] if words[:1] == ("nvidia",) else words


def parse_gpu(value: object) -> GpuRequest:
    """Read `gpu=`: a `GpuGroup`, a `GpuType`, a string, or a list of these, the preferred first; None is any GPU.

    A string is a group's or a model's name in any case (`"ada_24"`, `"NVIDIA_H200"`), an NVML product name
    (`"Tesla T4"`: also one not listed here), or words of one that hold a number (`"H100"`, `"RTX 4090"`:
    every model with those words). Raises `ValueError` for anything else.
    """
    wanted = [GpuGroup.ANY] if value is None else list(value) if isinstance(value, list | tuple) else [value]
    if not wanted:
        raise ValueError("must name at least one GPU group or model; leave gpu out for any GPU")
    products: dict[str, None] = {}
    accepts_any = False
    for item in wanted:
        found = _products_of(item)
        accepts_any = accepts_any or not found
        if not accepts_any:  # what is named after "any" is in that
            products.update(dict.fromkeys(found))
    return GpuRequest(tuple(products), others=accepts_any and bool(products))


def _products_of(item: object) -> tuple[str, ...]:
    """Product names one item of `gpu=` stands for; empty for any GPU."""
    if isinstance(item, GpuGroup):
        return item.products
    if isinstance(item, GpuType):
        return () if item is GpuType.ANY else (item.value,)
    if not isinstance(item, str):
        raise ValueError(f"must be a GpuGroup, a GpuType, a string or a list of these, not {kind(item)}")
    name = item.strip()
    folded = name.casefold()
    if folded == "any":
        return ()
    for group in GpuGroup.all():
        if group.value.casefold() == folded:
            return group.products
    similar = _with_words(folded)
    exact = tuple(product for product in similar if _words(product.casefold()) == _words(folded))
    if similar:
        return exact or similar
    if folded.startswith(_VENDORS) and any(letter.isdigit() for letter in name):
        return (name,)
    raise ValueError(_unknown(name, "GPU", [group.value for group in GpuGroup], _KNOWN))


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in re.split(r"[\s_-]+", text) if word)


def _with_words(text: str) -> tuple[str, ...]:
    """Known products that hold the words of `text` in a row; none unless one of the words has a digit."""
    words = _words(text)
    if not any(letter.isdigit() for letter in text):
        return ()
    found = []
    for product in _KNOWN:
        have = _words(product.casefold())
        if any(have[start : start + len(words)] == words for start in range(len(have) - len(words) + 1)):
            found.append(product)
    return tuple(found)


def parse_cpu(value: object) -> CpuRequest:
    """Read `cpu=`: a `CpuInstanceType`, its name in any case, `"any"`, or a list of names.

    A list means that any of the sizes will do, so the smallest is what is reserved. Raises `ValueError` for
    anything else.
    """
    if isinstance(value, list | tuple):
        if not value:
            raise ValueError("must name at least one CPU instance type, or 'any'")
        sizes = [_cpu(item) for item in value]
        return min(sizes, key=lambda size: (size.cores or 0, size.memory_gib or 0))
    return _cpu(value)


def _cpu(item: object) -> CpuRequest:
    if not isinstance(item, str):
        raise ValueError(
            f"must be a CpuInstanceType, its name, 'any' or a list of names, not {kind(item)};"
            f" allowed: any, {_listed(CpuInstanceType)}"
        )
    name = (item.value if isinstance(item, CpuInstanceType) else item).strip().casefold().replace("_", "-")
    if name == "any":
        return CpuRequest()
    allowed = ["any", *(member.value for member in CpuInstanceType)]
    if name not in allowed:
        raise ValueError(_unknown(item, "CPU instance type", allowed))
    _, cores, memory_gib = name.split("-")
    return CpuRequest(name, int(cores), int(memory_gib))


def _listed(members: Iterable[Enum]) -> str:
    return ", ".join(str(member.value) for member in members)


def _unknown(name: str, what: str, listed: list[str], others: tuple[str, ...] = ()) -> str:
    """The message for a name that is not known: the nearest ones, and all that are allowed."""
    also = ", or a model such as 'NVIDIA H200', 'RTX 4090' or GpuType.NVIDIA_L4" if others else ""
    return f"no such {what}{nearest(name, [*listed, *others])}; allowed: {', '.join(listed)}{also}"
