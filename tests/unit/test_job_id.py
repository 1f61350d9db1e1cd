"""Ids of jobs: they name their endpoint and the moment they were made, and nothing else is taken for one."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashq.errors import JobNotFound, ResultExpired
from flashq.model.job_id import RANDOM_BYTES, endpoint_of, made_ms, missing, new_job_id
from flashq.model.parameters import NAME_PATTERN

UUID = "0b9e3a70-6c1d-4f0e-9a55-2f1c7b1de001"


@given(
    endpoint=st.from_regex(NAME_PATTERN, fullmatch=True),
    at_ms=st.integers(0, 2**48 - 1),
    random=st.binary(min_size=RANDOM_BYTES, max_size=RANDOM_BYTES),
)
def test_an_id_tells_its_endpoint_and_its_time(endpoint: str, at_ms: int, random: bytes) -> None:
    job_id = new_job_id(endpoint, at_ms, random)

    assert (endpoint_of(job_id), made_ms(job_id)) == (endpoint, at_ms)
    stands_for = uuid.UUID(job_id[len(endpoint) + 1 :])
    assert (stands_for.version, stands_for.variant, len(job_id) - len(endpoint)) == (7, uuid.RFC_4122, 37)


@given(
    st.binary(min_size=RANDOM_BYTES, max_size=RANDOM_BYTES),
    st.binary(min_size=RANDOM_BYTES, max_size=RANDOM_BYTES),
)
def test_ids_differ_where_their_random_bits_do(one: bytes, other: bytes) -> None:
    kept = (1 << 74) - 1  # of 80 bits 6 are the version's and the variant's
    same = int.from_bytes(one, "big") & kept == int.from_bytes(other, "big") & kept

    assert (new_job_id("e", 1, one) == new_job_id("e", 1, other)) is same


@pytest.mark.parametrize("given_id", ["", "embed", "embed-1", f"-{UUID}", UUID, "e-" + "0" * 36])
def test_what_is_no_id_tells_nothing(given_id: str) -> None:
    assert (endpoint_of(given_id), made_ms(given_id)) == ("", None)


def test_an_id_of_another_version_tells_no_time() -> None:
    job_id = f"embed-large-{UUID}"

    assert (endpoint_of(job_id), made_ms(job_id)) == ("embed-large", None)


@pytest.mark.parametrize(
    ("keep_s", "age_s", "error"),
    [
        (1800, 1801, ResultExpired),
        (1800, 1799, JobNotFound),
        (1800, -3600, JobNotFound),
        (1800, None, JobNotFound),
        (None, 10**9, JobNotFound),
    ],
)
def test_a_job_older_than_results_are_kept_has_expired(
    keep_s: float | None, age_s: float | None, error: type[Exception]
) -> None:
    """Row 24."""
    told = missing("embed-1", keep_s, age_s)

    assert type(told) is error
    assert told.job_id == "embed-1"
