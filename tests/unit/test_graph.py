"""The digest of a graph: the same however it is listed, another for every change, cycles or not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from flashq.model.graph import Item, Node, graph_digest

if TYPE_CHECKING:
    import random

#: A graph as plain data: for each node its label, its ordered links and its unordered links.
Plain = list[tuple[int, list[int], list[int]]]


@st.composite
def graphs(draw: st.DrawFn) -> Plain:
    size = draw(st.integers(1, 8))
    links = st.lists(st.integers(0, size - 1), max_size=3)
    return [(draw(st.integers(0, 2)), draw(links), draw(links)) for _ in range(size)]


def nodes_of(plain: Plain, places: list[int] | None = None) -> list[Node]:
    """Nodes of a graph, node i at `places[i]`."""
    places = places or list(range(len(plain)))
    nodes = [Node(b"")] * len(plain)
    for (label, ordered, unordered), place in zip(plain, places, strict=True):
        items: list[Item] = [places[link] for link in ordered]
        nodes[place] = Node(b"%d" % label, items, [(places[link],) for link in unordered])
    return nodes


@given(graphs(), st.randoms(use_true_random=False))
def test_the_order_of_nodes_and_of_unordered_parts_does_not_matter(plain: Plain, rng: random.Random) -> None:
    places = rng.sample(range(len(plain)), len(plain))
    shuffled = [
        (label, ordered, rng.sample(unordered, len(unordered))) for label, ordered, unordered in plain
    ]
    assert graph_digest(nodes_of(plain)) == graph_digest(nodes_of(shuffled, places), places[0])


def reachable(plain: Plain) -> set[int]:
    seen, pending = {0}, [0]
    while pending:
        _, ordered, unordered = plain[pending.pop()]
        new = {*ordered, *unordered} - seen
        seen |= new
        pending += new
    return seen


@given(graphs(), st.data())
def test_a_changed_label_anywhere_reachable_changes_the_digest(plain: Plain, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(plain) - 1))
    label, ordered, unordered = plain[index]
    changed = [*plain[:index], (label + 10, ordered, unordered), *plain[index + 1 :]]
    same = graph_digest(nodes_of(plain)) == graph_digest(nodes_of(changed))
    assert same is (index not in reachable(plain))


def test_a_change_far_away_in_a_ring_reaches_the_root() -> None:
    ring: Plain = [(index, [(index + 1) % 50], []) for index in range(50)]
    changed = [*ring[:25], (99, *ring[25][1:]), *ring[26:]]
    assert graph_digest(nodes_of(ring)) != graph_digest(nodes_of(changed))


def test_members_of_one_cycle_differ_as_they_do() -> None:
    plain: Plain = [(0, [1], []), (1, [0], [])]
    assert graph_digest(nodes_of(plain), 0) != graph_digest(nodes_of(plain), 1)


def test_order_counts_where_it_should() -> None:
    one, two = Node(b"1"), Node(b"2")
    assert graph_digest([Node(b"", [1, 2]), one, two]) != graph_digest([Node(b"", [2, 1]), one, two])
    assert graph_digest([Node(b"", [], [(1,), (2,)]), one, two]) == graph_digest(
        [Node(b"", [], [(2,), (1,)]), one, two]
    )


def test_parts_are_not_run_together() -> None:
    assert graph_digest([Node(b"a", [b"bc"])]) != graph_digest([Node(b"a", [b"b", b"c"])])
    assert graph_digest([Node(b"ab")]) != graph_digest([Node(b"a", [b"b"])])
    assert graph_digest([Node(b"", [b"a"])]) != graph_digest([Node(b"", [], [(b"a",)])])


def test_equal_parts_may_be_one_node_or_two() -> None:
    assert graph_digest([Node(b"", [1, 1]), Node(b"x")]) == graph_digest(
        [Node(b"", [1, 2]), Node(b"x"), Node(b"x")]
    )


def test_a_long_chain_needs_no_recursion() -> None:
    chain = [Node(b"", [index + 1]) for index in range(50_000)]
    assert len(graph_digest([*chain, Node(b"end")])) == 32
