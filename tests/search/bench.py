"""A broker that is put into a state, given a command, looked at, given it again, looked at, and put back.

All that is to be tried in one state is sent at once. The commands are the shipped ones; look.lua does the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hiredis

from flashq.store.command import Command
from flashq.store.line import Line, pack, pack_script
from tests.search.rules import CHANNEL
from tests.search.view import Change, Frozen, thawed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flashq.store.scripts import Library
    from tests.search.alphabet import Action, Step

LOOK = (Path(__file__).parent / "look.lua").read_text("utf-8")


@dataclass(frozen=True, slots=True)
class Tried:
    """What an action came to.

    `change`: from the state entered; `again`: from there, by the second time.
    """

    change: Change
    now_ms: int
    again: Change
    woken: bool
    answer: Any
    told: list[str]
    told_again: list[str]
    error: str


class Bench:
    """One connection to a broker that is used for nothing else."""

    def __init__(self, url: str, scripts: Library) -> None:
        self._scripts = scripts
        self._line = Line(url)
        self._ear = Line(url)
        for setup in (
            ("CONFIG", "SET", "appendonly", "no"),
            ("FUNCTION", "FLUSH"),
            ("FUNCTION", "LOAD", scripts.source),
            ("FUNCTION", "LOAD", LOOK),
        ):
            self._line.call(pack(*setup))
        self._ear.call(pack("SUBSCRIBE", CHANNEL))
        self._look = pack("FCALL", "flashq_search_look", 0)
        self._again = pack("FCALL", "flashq_search_again", 0)
        self._mark = pack("PUBLISH", CHANNEL, "")

    def close(self) -> None:
        self._line.close()
        self._ear.close()

    def first(self, now_ms: int, commands: Sequence[Step]) -> Frozen:
        """The state that these commands lead to from an empty broker."""
        self._line.call(pack("FCALL", "flashq_search_enter", 0, now_ms))
        for command in commands:
            self._line.call(self._packed(command))
        rows, gone, _, _ = self._line.call(self._look)
        return thawed(Frozen({}, now_ms), Change(tuple(rows), tuple(gone)), now_ms)

    def send(self, state: Frozen, actions: Sequence[Action]) -> None:
        """Have all this tried, each from this state; `receive` gives what came of it."""
        parts = [pack("FCALL", "flashq_search_enter", 0, state.now_ms, *state.rows.values())]
        for action in actions:
            steps = [self._packed(step) for step in action.steps]
            parts += [self._mark, *steps, self._look, self._mark]
            parts += [steps[-1], self._again] if action.again else [self._again]
        parts.append(self._mark)
        self._line.send(b"".join(parts))

    def receive(self, actions: Sequence[Action]) -> list[Tried]:
        """What the oldest `send` came to."""
        self._line.read()
        found = [self._read(action) for action in actions]
        self._line.read()
        self._heard()
        for tried in found:
            tried.told.extend(self._heard())
            tried.told_again.extend(self._heard())
        return found

    def _read(self, action: Action) -> Tried:
        self._line.read()
        answers = [self._line.read() for _ in action.steps]
        rows, gone, woken, clock = self._line.read()
        self._line.read()
        if action.again:
            answers.append(self._line.read())
        again = Change(*(tuple(part) for part in self._line.read()))
        errors = [str(answer) for answer in answers if isinstance(answer, hiredis.ReplyError)]
        answer = answers[len(action.steps) - 1]
        command = action.command
        if command is not None and not errors:
            answer = command.parse(answer)
        change = Change(tuple(rows), tuple(gone))
        return Tried(change, int(clock), again, bool(woken), answer, [], [], "; ".join(errors))

    def _packed(self, step: Step) -> bytes:
        return pack_script(step, self._scripts) if isinstance(step, Command) else pack(*step)

    def _heard(self) -> list[str]:
        """What was published until the next mark."""
        found = []
        while (message := self._ear.read()[2]) != b"":
            found.append(message.decode())
        return found
