"""Facts as lines: what is written is read again, and a line cut short harms no other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from flashq.verify.history import (
    Acknowledged,
    Began,
    Ended,
    Fact,
    Fault,
    Healed,
    History,
    Left,
    Read,
    Refused,
    Wiped,
    line,
    parse_all,
)
from flashq.verify.ledger import Ledger, Tail, facts_in, history_of

if TYPE_CHECKING:
    from pathlib import Path

FACTS: list[Fact] = [
    Acknowledged(3, "a", "key", 1.5),
    Began("a", 3, 1, 1, 10, 11, 2.5),
    Ended("a", 1, 10, "value", 3.5),
    Read("a", "reader", "finished", "a/1/10", "", 4.0, 4.5, 1),
    Fault("kill worker", 5.0, 5.5, (10, 11), everybody=False, missed=True),
    Healed(6.0),
    Wiped(7.0),
    Left(1, 2, 3),
    Refused(4, "BrokerRefused", 8.0),
]


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: type(fact).__name__)
def test_a_fact_is_read_as_it_was_written(fact: Fact) -> None:
    assert parse_all(line(fact)) == ([fact], 0)


def test_a_line_cut_short_harms_no_other() -> None:
    """Given a fact whose writer was killed halfway, expect those before and after it, and one that is torn."""
    written = line(FACTS[0]) + line(FACTS[1])[:30] + line(FACTS[2])

    assert parse_all(written) == ([FACTS[0], FACTS[2]], 1)


def test_a_history_sorts_facts_by_kind_and_time() -> None:
    history = History.of([Wiped(2.0), *FACTS, Wiped(1.0)])

    assert [wiped.at for wiped in history.wiped] == [1.0, 2.0, 7.0]
    assert history.healed == Healed(6.0)
    assert history.left == Left(1, 2, 3)


def test_ledgers_of_a_folder_make_one_history(tmp_path: Path) -> None:
    for name in ("caller-0", "runs-17"):
        ledger = Ledger(tmp_path, name)
        for fact in FACTS:
            ledger.write(fact)
        ledger.close()

    assert facts_in(tmp_path, "caller-0") == FACTS
    assert facts_in(tmp_path, "caller-1") == []
    assert len(history_of(tmp_path).acknowledged) == 2


def test_a_tail_reads_what_is_new_and_whole(tmp_path: Path) -> None:
    """Given a line that is being written, expect it once it is whole, and nothing twice."""
    tail = Tail(tmp_path, "caller")
    file = tmp_path / "caller-0.facts"
    file.write_bytes(line(FACTS[0]) + line(FACTS[1])[:30])
    assert tail.new() == [FACTS[0]]
    file.write_bytes(line(FACTS[0]) + line(FACTS[1]))
    assert tail.new() == [FACTS[1]]
    assert tail.new() == []
