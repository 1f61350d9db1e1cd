"""What `flashq verify` prints of a campaign, and what its exit code says; the campaign itself is elsewhere."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from flashq.cli import flashq
from flashq.errors import BrokerUnreachable
from flashq.verify import verification
from flashq.verify.check import Verdict, Violation
from flashq.verify.verification import BrokerKind, Verification

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from flashq.settings import Settings

    Run = Callable[..., tuple[int, str, "Runs"]]

BROKER = BrokerKind(server="Valkey 9.1.2", private=True, append_only=True, eviction="noeviction")
HARM = Violation("lost", "verify-1", "last seen \x1b[2J queued")


def done(seed: int, *violations: Violation, settled_s: float | None = 2.34) -> Verification:
    verdict = Verdict(
        violations=violations,
        jobs=600,
        attempts=650,
        extra_runs=21,
        unexplained=1,
        failed_unexplained=0,
        hits=40,
        refused=3,
        lost_by_design=0,
        settled_s=settled_s,
        faults={"kill worker": (8, 9), "lose reply": (5, 0)},
        missed=2,
    )
    return Verification(seed, 85, BROKER, verdict)


class Runs:
    """Stands in the place of `verification.verify`."""

    def __init__(self, answer: Callable[[int], Verification]) -> None:
        self._answer = answer
        self.asked: dict[str, Any] = {}

    def __call__(self, settings: Settings, folder: Path, **asked: Any) -> Verification:
        self.asked = asked | {"folder": folder}
        return self._answer(asked["seed"])


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    def invoke(answer: Callable[[int], Verification], *arguments: str) -> tuple[int, str, Runs]:
        runs = Runs(answer)
        monkeypatch.setattr(verification, "verify", runs)
        result = CliRunner().invoke(flashq, ["verify", *arguments], standalone_mode=False)
        code = result.return_value if result.exception is None else getattr(result.exception, "exit_code", -1)
        return int(code), result.output, runs

    return invoke


def test_promises_kept_are_a_table_and_code_0(run: Run) -> None:
    code, output, runs = run(lambda seed: done(seed), "--seed", "7", "--faults", "85", "--jobs", "600")

    assert code == 0
    rows = dict(line.split("\t", 1) for line in output.splitlines())
    assert rows["kill worker"] == "8\t9"
    assert rows["all"] == "13\t40"
    assert rows["seed"] == "7"
    assert rows["broker"] == "Valkey 9.1.2, private, append-only file on, noeviction"
    assert (rows["lost"], rows["stale"], rows["changed"]) == ("0", "0", "0")
    assert rows["settled s"] == "2.3"
    assert {name: runs.asked[name] for name in ("seed", "faults", "calls")} == {
        "seed": 7,
        "faults": 85,
        "calls": 600,
    }
    assert not runs.asked["folder"].exists(), "nothing is left behind"


def test_a_broken_promise_is_named_with_code_6_and_what_happened_is_kept(run: Run) -> None:
    code, output, runs = run(lambda seed: done(seed, HARM))

    assert code == 6
    assert "lost: verify-1: last seen \\x1b[2J queued" in output
    assert f"what happened is in {runs.asked['folder']}" in output
    assert runs.asked["folder"].is_dir()
    runs.asked["folder"].rmdir()


def test_json_has_all_of_it(run: Run) -> None:
    code, output, _ = run(lambda seed: done(seed, settled_s=None), "--json", "--seed", "3")

    told = json.loads(output)
    assert code == 0
    assert told["holds"] is True
    assert told["seed"] == 3
    assert told["broker"]["server"] == "Valkey 9.1.2"
    assert told["faults"][0] == {"kind": "kill worker", "count": 8, "hits": 9}
    assert told["settled_s"] is None
    assert told["violations"] == []
    assert {
        "jobs",
        "attempts",
        "repeated",
        "repeated_unexplained",
        "failed_unexplained",
        "hits",
        "lost",
        "stale",
        "changed",
    } <= told.keys()


def test_without_a_seed_each_run_has_one_of_its_own(run: Run) -> None:
    seeds = {run(lambda seed: done(seed))[2].asked["seed"] for _ in range(5)}

    assert len(seeds) > 1


def test_a_broker_that_is_away_is_code_1(run: Run) -> None:
    def away(seed: int) -> Verification:
        raise BrokerUnreachable("no broker at redis://x")

    code, _, runs = run(away)

    assert code == 1
    runs.asked["folder"].rmdir()


@pytest.mark.parametrize("arguments", [("--faults", "0"), ("--jobs", "3"), ("--seed", "-1")])
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    assert CliRunner().invoke(flashq, ["verify", *arguments]).exit_code == 2
