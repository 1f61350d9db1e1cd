"""How rows are shown: on a terminal, in a pipe, as JSON."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from flashq.cli import render

NOON = datetime(2026, 1, 31, 12, 0, 0, 500_000, tzinfo=UTC)


@dataclass(frozen=True)
class Row:
    id: str
    state: str | None
    since: datetime | None
    jobs: int | None = 0
    gpus: Any = None
    cold: bool | None = None


def on_terminal(*rows: Row, columns: tuple[str, ...] = ("id", "state", "since")) -> str:
    screen = io.StringIO()
    console = Console(file=screen, width=100, force_terminal=True, color_system=None)
    console.print(render.table(rows, columns, NOON + timedelta(seconds=90)))
    return screen.getvalue()


HOSTILE = "\x1b]0;owned\x07\x1b[2J\r\n\x9b1m\u202egnp.exe\u2028\ud800"


def test_a_table_escapes_names_and_takes_no_markup_from_them() -> None:
    shown = on_terminal(Row("[red]x[/red]\x1b[31m", "idle", None))

    assert r"[red]x[/red]\x1b[31m" in shown
    assert "\x1b" not in shown


def test_a_table_shows_ages_and_marks_what_is_unknown() -> None:
    shown = on_terminal(Row("w1", None, NOON))

    assert "90 s ago" in shown
    assert "–" in shown


def test_headings_are_words() -> None:
    @dataclass(frozen=True)
    class Job:
        enqueued_at: datetime
        oldest_age_s: float
        in_progress: int

    made = render.table([Job(NOON, 1.5, 2)], ["enqueued_at", "oldest_age_s", "in_progress"], NOON)

    assert [column.header for column in made.columns] == ["ENQUEUED", "OLDEST AGE", "IN PROGRESS"]
    assert [column.justify for column in made.columns] == ["left", "right", "right"]
    assert [[str(cell) for cell in column.cells] for column in made.columns] == [["1 s ago"], ["2 s"], ["2"]]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-3, "0 ms"),
        (0.85, "850 ms"),
        (1, "1 s"),
        (119, "119 s"),
        (120, "2 min"),
        (7199, "120 min"),
        (7200, "2 h"),
        (172_800, "2 d"),
    ],
)
def test_an_age_is_short(seconds: float, shown: str) -> None:
    assert render.age(seconds) == shown


def test_plain_rows_have_every_field_between_tabs() -> None:
    rows = [Row("w\t1", "idle", NOON, 2, [{"name": "H100"}], True), Row("w2", None, None, None, [], False)]

    header, first, second = render.plain_lines(rows)

    assert header.split("\t") == ["id", "state", "since", "jobs", "gpus", "cold"]
    assert first.split("\t") == [
        r"w\t1",
        "idle",
        "2026-01-31T12:00:00.500Z",
        "2",
        '[{"name": "H100"}]',
        "yes",
    ]
    assert second.split("\t") == ["w2", "–", "–", "–", "–", "no"]


def test_json_is_one_array_with_null_for_what_is_unknown() -> None:
    written = render.as_json_text([Row("w\x1b", None, NOON, None)])

    assert written.isascii()
    assert json.loads(written) == [
        {"id": "w\x1b", "state": None, "since": "2026-01-31T12:00:00.500Z", "jobs": None}
        | {"gpus": None, "cold": None}
    ]
    assert "\x1b" not in written


def test_no_rows_are_an_empty_array_in_json_and_said_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    render.show([], as_json=True, columns=["id"], none="no rows")
    assert capsys.readouterr() == ("[]\n", "")

    render.show([], as_json=False, columns=["id"], none="no rows")
    assert capsys.readouterr() == ("", "no rows\n")


def test_a_value_that_no_row_has_is_not_written() -> None:
    with pytest.raises(TypeError, match="set"):
        render.as_json_text([Row("w1", None, None, gpus=set())])


def test_entries_are_aligned_and_indented() -> None:
    lines = list(
        render.entries(
            {
                "id": "j1",
                "error": "one\ntwo\x07\n",
                "worker": None,
                "startup": {"load": 0.25, "x": None},
                "log": "",
            }
        )
    )

    assert lines == [
        "id       j1",
        "error    one",
        "         two\\x07",
        "worker   –",
        "startup  load 0.25",
        "log      –",
    ]
