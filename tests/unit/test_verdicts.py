"""Which pickles a worker takes: of its own Python, and of a cloudpickle that its own one reads."""

from __future__ import annotations

from typing import Any

import pytest

from flashq.errors import PythonMismatch
from flashq.model.envelope import Header
from flashq.model.keyring import Direction
from flashq_worker import verdicts


def call(**fields: Any) -> Header:
    return Header(direction=Direction.CALL, endpoint="embed", **fields)


@pytest.mark.parametrize(
    ("theirs", "here"), [("", "3.1"), ("3.1", "3.1"), ("3.0", "3.1"), ("3.9", "3.10"), ("odd", "odd")]
)
def test_what_an_older_cloudpickle_wrote_is_taken(theirs: str, here: str) -> None:
    verdicts.check_cloudpickle(call(cloudpickle=theirs), here)


@pytest.mark.parametrize(
    ("theirs", "here"), [("3.2", "3.1"), ("3.10", "3.9"), ("2.2", "3.1"), ("4.0", "3.1"), ("odd", "3.1")]
)
def test_what_a_newer_cloudpickle_or_another_major_one_wrote_is_not(theirs: str, here: str) -> None:
    with pytest.raises(PythonMismatch, match=f"{theirs}.*{here}"):
        verdicts.check_cloudpickle(call(cloudpickle=theirs), here)


def test_json_is_of_no_version() -> None:
    verdicts.check_python(call(encoding="json", python="2.7"), "3.11")
    verdicts.check_cloudpickle(call(encoding="json", cloudpickle="9.0"), "3.1")


@pytest.mark.parametrize("theirs", ["3.12", "", "2.7"])
def test_another_python_is_named(theirs: str) -> None:
    with pytest.raises(PythonMismatch, match=r"3\.11"):
        verdicts.check_python(call(python=theirs), "3.11")
