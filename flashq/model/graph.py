"""A digest of a graph of values: of what is reachable from a root, with cycles and unordered parts.

Objects of a program form such graphs: functions that call each other, sets, dicts. The digest depends on
labels and links alone: never on the order in which nodes were found, on how unordered parts were listed, or
(outside cycles) on whether equal parts are one node or several. Pure.

How: strongly connected components are taken from the leaves up. A node outside every cycle is hashed over the
digests of what it links to. Inside a component each node begins with a colour, the hash of what it is by
itself, and colours are refined by those of the neighbours until no two nodes part any more; a member's digest
is then its colour and the set of all colours of its component, so that a change anywhere in a cycle reaches
every member.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

Item = bytes | int
"""Data as it stands, or the index of another node."""


@dataclass(slots=True)
class Node:
    """What a value is (`label`), and what it is made of."""

    label: bytes
    ordered: list[Item] = field(default_factory=list)
    unordered: list[tuple[Item, ...]] = field(default_factory=list)


def graph_digest(nodes: Sequence[Node], root: int = 0) -> bytes:
    """32 bytes that stand for everything reachable from `nodes[root]`."""
    digests: dict[int, bytes] = {}
    for component in _components(nodes, root):
        if len(component) == 1 and component[0] not in _links(nodes[component[0]]):
            index = component[0]
            digests[index] = _hash_node(nodes[index], digests.__getitem__)
        else:
            _digest_cycle(nodes, component, digests)
    return digests[root]


def _digest_cycle(nodes: Sequence[Node], component: Sequence[int], digests: dict[int, bytes]) -> None:
    colours = dict.fromkeys(component, b"")

    def digest_of(link: int) -> bytes:
        return colours[link] if link in colours else digests[link]

    shades = 0
    while True:
        colours = {index: _hash_node(nodes[index], digest_of) for index in component}
        if len(set(colours.values())) == shades:
            break
        shades = len(set(colours.values()))
    whole = _hash(sorted(set(colours.values())))
    digests.update((index, _hash([b"cycle", colour, whole])) for index, colour in colours.items())


def _links(node: Node) -> list[int]:
    links = [item for item in node.ordered if isinstance(item, int)]
    links += [item for group in node.unordered for item in group if isinstance(item, int)]
    return links


def _hash_node(node: Node, digest_of: Callable[[int], bytes]) -> bytes:
    def part(item: Item) -> bytes:
        return b"n" + digest_of(item) if isinstance(item, int) else b"d" + item

    groups = sorted(_hash(part(item) for item in group) for group in node.unordered)
    return _hash([node.label, _hash(part(item) for item in node.ordered), *groups])


def _hash(parts: Iterable[bytes]) -> bytes:
    state = hashlib.sha256()
    for part in parts:
        state.update(len(part).to_bytes(8, "big"))
        state.update(part)
    return state.digest()


def _components(nodes: Sequence[Node], root: int) -> list[list[int]]:
    """Strongly connected components reachable from `root`, each after all it links to (Tarjan)."""
    order: dict[int, int] = {}
    lowest: dict[int, int] = {}
    open_nodes: list[int] = []
    on_stack: set[int] = set()
    components: list[list[int]] = []

    def enter(index: int) -> tuple[int, list[int]]:
        order[index] = lowest[index] = len(order)
        open_nodes.append(index)
        on_stack.add(index)
        return index, _links(nodes[index])

    path = [enter(root)]
    while path:
        index, links = path[-1]
        if links:
            link = links.pop()
            if link not in order:
                path.append(enter(link))
            elif link in on_stack:
                lowest[index] = min(lowest[index], order[link])
            continue
        path.pop()
        if path:
            lowest[path[-1][0]] = min(lowest[path[-1][0]], lowest[index])
        if lowest[index] == order[index]:
            component = [open_nodes.pop()]
            while component[-1] != index:
                component.append(open_nodes.pop())
            on_stack.difference_update(component)
            components.append(component)
    return components


# -- plain values ------------------------------------------------------------------------------------


_ATOMS: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda value: b"None",
    type(...): lambda value: b"...",
    type(NotImplemented): lambda value: b"NotImplemented",
    bool: lambda value: b"bool %d" % value,
    int: lambda value: b"int %x" % value,
    float: lambda value: b"float " + struct.pack(">d", value),
    complex: lambda value: b"complex " + struct.pack(">dd", value.real, value.imag),
    str: lambda value: b"str " + value.encode("utf-8", "surrogatepass"),
    bytes: lambda value: b"bytes " + value,
    bytearray: lambda value: b"bytearray " + bytes(value),
}


def plain(value: Any) -> bytes | None:
    """A plain value, or a container of only such, as bytes; None for all else."""
    kind = type(value)
    encode = _ATOMS.get(kind)
    if encode is not None:
        return encode(value)
    if kind not in _CONTAINERS:
        return None
    parts = []
    for part in (each for pair in value.items() for each in pair) if kind is dict else value:
        encode = _ATOMS.get(type(part))
        if encode is None:
            return None
        encoded = encode(part)
        parts.append(len(encoded).to_bytes(8, "big") + encoded)
    if kind is dict:
        parts = [key + item for key, item in zip(parts[::2], parts[1::2], strict=True)]
    content = parts if kind in (list, tuple) else sorted(parts)
    return b"".join([b"%b of " % kind.__name__.encode(), *content])


_CONTAINERS = frozenset({list, tuple, dict, set, frozenset})


def word(text: str) -> bytes:
    """A name, which no plain value is encoded like."""
    return b"word " + text.encode("utf-8", "surrogatepass")
