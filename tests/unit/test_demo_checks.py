"""The demo's judgement of itself."""

from __future__ import annotations

import pytest

from tests.demo import checks, docstrings


@pytest.mark.parametrize(
    ("vectors", "completed", "failed", "unfinished", "held"),
    [
        (300, 20, 0, 0, True),
        (299, 20, 0, 0, False),  # a docstring without a vector
        (300, 19, 0, 0, False),  # a job the broker has lost
        (300, 21, 0, 0, False),  # a job that nobody submitted
        (300, 19, 1, 0, False),
        (300, 20, 0, 1, False),
    ],
)
def test_every_docstring_and_every_job_must_be_there(
    vectors: int, completed: int, failed: int, unfinished: int, held: bool
) -> None:
    counts = checks.Counts(completed=completed, failed=failed, unfinished=unfinished)

    check = checks.all_accounted_for(300, vectors, 20, counts)

    assert check.held is held
    assert f"{vectors} vectors for 300 docstrings; of 20 jobs" in check.evidence


@pytest.mark.parametrize(
    ("theirs", "held"),
    [([[1.0, 0.0], [0.0, 1.0]], True), ([[1.0, 0.0], [0.1, 0.995]], False)],
)
def test_every_vector_of_the_sample_must_agree(theirs: list[list[float]], held: bool) -> None:
    assert checks.sample_agrees([[1.0, 0.0], [0.0, 1.0]], theirs).held is held


def test_an_empty_sample_proves_nothing() -> None:
    assert not checks.sample_agrees([], []).held


def test_every_pinned_answer_must_be_found() -> None:
    # Given the right answer to all but one question
    answers = {question: ["something.else", pinned] for question, pinned in checks.QUESTIONS.items()}
    right = checks.questions_answered(answers)
    answers["greatest common divisor"] = ["math.lcm"]
    wrong = checks.questions_answered(answers)

    # Expect that one to be named
    assert right.held
    assert not wrong.held
    assert "'greatest common divisor' → math.gcd" in wrong.evidence


def test_a_question_without_an_answer_is_missed() -> None:
    assert not checks.questions_answered({}).held


def test_the_pinned_answers_are_in_the_library_and_enough() -> None:
    assert len(checks.QUESTIONS) >= 10
    assert set(checks.QUESTIONS.values()) <= {docstring.name for docstring in docstrings.collect()}


def test_a_cold_answer_is_told() -> None:
    assert checks.answers_were_warm(0, 14).held
    assert not checks.answers_were_warm(1, 14).held


@pytest.mark.parametrize(("peak", "held"), [(1, False), (2, True), (3, False)])
def test_the_peak_is_the_most_that_was_allowed(peak: int, held: bool) -> None:
    assert checks.peak_reached(peak, 2).held is held


def test_one_worker_left_is_one_too_many() -> None:
    assert checks.none_left(0).held
    assert not checks.none_left(1).held
