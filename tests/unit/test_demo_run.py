"""The demo's own flow around what the other parts do: what is chosen, what is printed, how it ends."""

from __future__ import annotations

import pytest

from flashq import Timing
from tests.demo import checks, demo, docstrings, report


def library(count: int) -> list[docstrings.Docstring]:
    names = sorted([*checks.QUESTIONS.values(), *(f"module.name{number:04}" for number in range(count))])
    return [docstrings.Docstring(name, "Does something.") for name in names]


@pytest.mark.parametrize("limit", [100, 14, 3])
def test_a_limit_keeps_the_pinned_answers_and_the_order(limit: int) -> None:
    # Given more docstrings than are wanted
    everything = library(1000)

    # If some are chosen
    chosen = demo.choose(everything, limit)

    # Expect all pinned answers among them, in the order of the whole
    assert len(chosen) == max(limit, len(checks.QUESTIONS))
    assert set(checks.QUESTIONS.values()) <= {docstring.name for docstring in chosen}
    assert chosen == [docstring for docstring in everything if docstring in chosen]


@pytest.mark.parametrize("limit", [None, 5000])
def test_without_a_limit_or_with_a_high_one_all_are_chosen(limit: int | None) -> None:
    assert demo.choose(library(20), limit) == library(20)


def test_the_run_fails_with_the_names_of_the_checks_that_failed(capsys: pytest.CaptureFixture[str]) -> None:
    # Given a check that held and two that did not
    judged = [
        checks.Check("one", True, "1 of 1"),
        checks.Check("two", False, "?"),
        checks.Check("three", False, ""),
    ]

    # Expect a non-zero status, a line for each, and the names of the failed
    assert demo.judge(judged) == 1
    printed = capsys.readouterr()
    assert "  ok      one: 1 of 1\n  FAILED  two: ?\n" in printed.out
    assert printed.err == "failed: two, three\n"


def test_the_run_succeeds_where_every_check_held() -> None:
    assert demo.judge([checks.Check("one", True, "1 of 1")]) == 0


@pytest.mark.parametrize(
    ("arguments", "gpu", "idle_s"), [([], False, 8), (["--gpu", "--interactive"], True, 60)]
)
def test_the_endpoint_is_what_the_options_ask_for(arguments: list[str], gpu: bool, idle_s: int) -> None:
    spec = demo.endpoint(demo.parse([*arguments, "--workers", "3"])).spec

    assert (spec.gpu is not None, spec.cpu is None) == (gpu, gpu)
    assert (spec.workers, spec.idle_timeout) == ((0, 3), idle_s)
    assert any(requirement.startswith("onnxruntime-gpu") for requirement in spec.dependencies) == gpu


def test_a_cold_start_is_broken_down_in_words() -> None:
    timing = Timing(2.5, 0.01, 0.75, 3.27, 1, {"environment": 1.4, "zygote": 0.2})

    assert list(report.cold_start(timing)) == [
        "The first job met no worker:  3.270 s from its submission to its result.",
        "   2.500 s  waiting for a worker to start",
        "       1.400 s  making its environment, or finding it made",
        "       0.200 s  zygote",
        "   0.010 s  from being taken to running",
        "   0.750 s  in the function, which loaded the model first",
    ]


def test_a_time_that_is_not_known_is_not_shown_as_zero() -> None:
    assert "       ?  waiting for a worker to start" in list(report.cold_start(Timing()))


def test_warm_latency_tells_median_and_longest() -> None:
    assert report.warm_latency([0.005, 0.02, 0.006]) == (
        "Warm: a question took 6.0 ms (median of 3; the longest 20.0 ms)."
    )
