"""How the scripts' replies read: one function a shape, given what the server sent. Pure."""

from __future__ import annotations

from typing import Any

from flashq.model.lifecycle import JobState
from flashq.store.command import mapping, number, text
from flashq.store.records import (
    Advanced,
    Beat,
    Claim,
    Claimed,
    Joined,
    Led,
    Observed,
    Reaped,
    Registered,
    Renewed,
    Submitted,
    Term,
    Watched,
)
from flashq.store.workers import WorkerRow


def registered(r: Any) -> Registered:
    return Registered(text(r[0]), int(r[1]), text(r[2]), text(r[3]))


_ROW = 10  # values that a claimed job comes as


def handed_over(framed: bytes) -> Claimed:
    """The job that came with a ring (`claim:` and its row, each value after its length).

    Raises ValueError for what is none: anybody who can write to the broker can ring.
    """
    values: list[bytes] = []
    at = 0
    for _ in range(_ROW):
        colon = framed.index(b":", at)
        length = framed[at:colon]
        if not length.isdigit():
            raise ValueError(f"a value as long as {length[:20]!r}")
        at = colon + 1 + int(length)
        values.append(framed[colon + 1 : at])
    if at != len(framed):
        raise ValueError(f"{len(framed)} bytes, of which {at} are a claimed job")
    try:
        return _job(values)
    except OverflowError as error:
        raise ValueError(str(error)) from None


def coldness(word: bytes | str) -> bool | None:
    """Whether a job found no idle worker ('c'), or one ('w'); None where that is not known (yet)."""
    return {"c": True, "w": False}.get(text(word))


def submitted(r: Any) -> Submitted:
    return Submitted(text(r[0]), text(r[1]), int(r[2]), r[3] == 1)


def _job(row: list[bytes]) -> Claimed:
    return Claimed(
        job=row[0].decode(),
        fence=int(row[1]),
        call=row[2],
        revision=text(row[3]),
        generation=int(row[4]),
        attempt=int(row[5]),
        losses=int(row[6]),
        enqueued_ms=int(float(row[7])),
        cold=row[8] == b"1",
        retries_used=int(row[9]),
    )


def claim(r: Any) -> Claim:
    return Claim(int(r[0]), r[1].decode(), tuple([_job(row) for row in r[2]]))


def advanced(r: Any) -> Advanced:
    return Advanced(claim(r), tuple([text(v) for v in r[3]]), tuple([text(v) for v in r[4]]))


def renewed(r: Any) -> Renewed:
    return Renewed(int(r[0]), text(r[1]), tuple(text(v) for v in r[2]))


def reaped(r: Any) -> Reaped:
    return Reaped(int(r[0]), int(r[1]), int(r[2]), int(r[3]), int(r[4]), r[5] == 1)


def joined(r: Any) -> Joined:
    return Joined(int(r[0]), text(r[1]), int(r[2]), text(r[3]))


def led(r: Any) -> Led:
    return Led(int(r[0]), Term(int(r[1]), text(r[2])), int(r[3]), int(r[4]))


def beat(r: Any) -> Beat:
    return Beat(int(r[0]), int(r[2]))


def chunked(r: Any) -> tuple[str, int]:
    return text(r[0]), int(r[1])


def words(r: Any) -> tuple[str, str]:
    """Two texts."""
    return text(r[0]), text(r[1])


def pair(r: Any) -> tuple[int, int]:
    return int(r[0]), int(r[1])


def watched(rows: Any) -> list[Watched]:
    return [
        Watched(
            state=JobState(text(r[0])) if r[0] else None,
            fence=int(r[1]),
            reason=text(r[2]),
            text=text(r[3]),
            outcome=r[4],
            generation=int(r[5]),
            cold=coldness(r[6]),
        )
        for r in rows
    ]


def observed(r: Any) -> Observed:
    return Observed(
        now_ms=int(r[0]),
        record=mapping(r[1]),
        stats=mapping(r[2]),
        queued=int(r[3]),
        enqueued_ms=tuple(number(v) for v in r[4]),
        scheduled=int(r[5]),
        began_ms=tuple(number(v) for v in r[6]),
        workers=tuple(WorkerRow(text(w[0]), number(w[1]), mapping(w[2])) for w in r[7]),
        nested=int(r[8]),
    )


def key_uses(reply: Any) -> tuple[int, set[str]]:
    """KEY_USES."""
    return int(reply[0]), {text(one) for one in reply[1]}
