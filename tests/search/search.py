"""The search itself: every command in every state, breadth first, each state once."""

from __future__ import annotations

import hashlib
import time
from collections import Counter, deque
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flashq.store.scripts import library
from tests.conformance.world import LUA_CLOCK, START_MS
from tests.search import judge
from tests.search.alphabet import healed_by_waiting, wait, work
from tests.search.bench import Bench
from tests.search.canonical import Canon, Names
from tests.search.graph import Graph
from tests.search.view import Frozen, changed, read, thawed

if TYPE_CHECKING:
    from flashq.store.scripts import Library
    from tests.search.alphabet import Action
    from tests.search.bench import Tried
    from tests.search.scopes import Scope
    from tests.search.view import View


@dataclass
class Found:
    """What a search came to. `left`: states not expanded, where it was stopped before the fixpoint."""

    scope: str
    states: int = 0
    transitions: int = 0
    deepest: int = 0
    left: int = 0
    took_s: float = 0.0
    problems: list[str] = field(default_factory=list)
    effective: Counter[str] = field(default_factory=Counter)  # scripts that changed something, by name

    @property
    def complete(self) -> bool:
        """Whether the fixpoint was reached: then I8 was judged too."""
        return not self.left

    def named(self, name: str) -> list[str]:
        """The problems whose names begin so."""
        return [problem for problem in self.problems if problem.startswith(name)]

    def __str__(self) -> str:
        end = "complete" if self.complete else f"stopped with {self.left} states to expand"
        return (
            f"{self.scope}: {self.states} states, {self.transitions} transitions, depth {self.deepest},"
            f" {end}, {self.took_s:.1f} s"
        )


class Search:
    """One scope on one broker."""

    def __init__(self, scope: Scope, url: str, scripts: Library | None = None) -> None:
        self.scope = scope
        self._bench = Bench(url, scripts or library(LUA_CLOCK))
        self._canon = Canon(Names(scope.cast.jobs, scope.cast.workers), scope.unread)
        self._ids: dict[bytes, int] = {}
        self._frontier: deque[tuple[int, Frozen]] = deque()
        self.graph = Graph()
        self.found = Found(scope.name)

    def run(self, *, most_states: int = 0, until: str = "") -> Found:
        """To the fixpoint, to the first problem whose name begins so, or to so many states."""
        began = time.monotonic()
        with closing(self._bench):
            first = self._bench.first(START_MS, self.scope.before)
            view = read(first)
            self._add(self._number(view), first, view, -1, "")
            under_way: deque[tuple[int, Frozen, View, list[Action]]] = deque()
            while (self._frontier or under_way) and not self.found.named(until):
                if (
                    self._frontier
                    and len(under_way) < 2
                    and not (most_states and len(self._ids) > most_states)
                ):
                    number, state = self._frontier.popleft()
                    under_way.append(self._sent(number, state))
                elif under_way:
                    self._took(*under_way.popleft())
                else:
                    break
        self.found.states = len(self._ids)
        self.found.deepest = self.graph.deepest
        self.found.left = len(self._frontier)
        if self.found.complete:
            self.found.problems += self.graph.unhealed()
        self.found.took_s = time.monotonic() - began
        return self.found

    def _sent(self, number: int, state: Frozen) -> tuple[int, Frozen, View, list[Action]]:
        view = read(state)
        cast = self.scope.cast
        healing = work(view, cast) if healed_by_waiting(view) else wait(view, cast)
        actions = [*self.scope.actions(view), healing]
        self._bench.send(state, actions)
        return number, state, view, actions

    def _took(self, number: int, state: Frozen, view: View, actions: list[Action]) -> None:
        tried = self._bench.receive(actions)
        for action, outcome in zip(actions[:-1], tried[:-1], strict=True):
            self.found.transitions += 1
            self._judged(number, state, view, action, outcome)
        self._healed(number, view, actions[-1], tried[-1])

    def _judged(self, number: int, state: Frozen, view: View, action: Action, outcome: Tried) -> None:
        after = changed(view, outcome.change, outcome.now_ms)
        problems = list(judge.step_problems(action, outcome, view, after, restarts=self.scope.restarts))
        if action.again and outcome.again:
            twice = changed(after, outcome.again, outcome.now_ms)
            problems += judge.again_problems(action, after, twice)
        if problems:
            self._report(number, action.label, problems)
        elif after is not view:
            self.found.effective[action.script] += 1
            self._enter(state, outcome, after, number, action.label)

    def _healed(self, number: int, view: View, action: Action, outcome: Tried) -> None:
        after = changed(view, outcome.change, outcome.now_ms)
        if problems := list(judge.step_problems(action, outcome, view, after, restarts=self.scope.restarts)):
            self._report(number, action.label, problems)
        if action.script == "work":
            self.graph.heals(number)
        else:
            self.graph.waits(number, self._number(after))

    def _number(self, view: View) -> bytes:
        return hashlib.blake2b(self._canon.text(view), digest_size=16).digest()

    def _enter(self, state: Frozen, outcome: Tried, view: View, parent: int, label: str) -> None:
        key = self._number(view)
        if key not in self._ids:
            later = thawed(state, outcome.change, outcome.now_ms + 1)  # each command takes a millisecond
            self._add(key, later, view, parent, label)

    def _add(self, key: bytes, state: Frozen, view: View, parent: int, label: str) -> None:
        number = self._ids[key] = self.graph.add(key, parent, label)
        self._frontier.append((number, state))
        if problems := list(judge.state_problems(view, self.scope.cast.capacity)):
            self._report(number, "", problems)

    def _report(self, number: int, label: str, problems: list[str]) -> None:
        path = [*self.graph.path(number), label]
        story = "\n    ".join(step for step in path if step)
        self.found.problems += [f"{problem}\n  after\n    {story}" for problem in problems]
