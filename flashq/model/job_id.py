"""Ids of jobs: `<endpoint>-<uuid>`, the uuid of version 7 (RFC 9562), which tells when it was made.

So it can be told of a job that the broker does not have whether its result has expired or it was never there (or was
deleted), long after everything kept of it is gone. Pure: time and randomness are arguments.
"""

from __future__ import annotations

import json
import re

from flashq.errors import JobNotFound, ResultExpired

RANDOM_BYTES = 10
_CLOCKS_S = 0.1  # by how much the clock in an id may be behind the broker's
_ID = re.compile(r"(.+)-([0-9a-f]{8})-([0-9a-f]{4})-([0-9a-f])[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII)


def new_job_id(endpoint: str, at_ms: int, random: bytes) -> str:
    """An id made at this moment, from `RANDOM_BYTES` random bytes."""
    bits = int.from_bytes(random, "big")
    variant = 0x8000 | bits >> 48 & 0x3FFF
    return (
        f"{endpoint}-{at_ms >> 16 & 0xFFFFFFFF:08x}-{at_ms & 0xFFFF:04x}-7{bits >> 62 & 0xFFF:03x}"
        f"-{variant:04x}-{bits & 0xFFFFFFFFFFFF:012x}"
    )


def endpoint_of(job_id: str) -> str:
    """The endpoint in a job's id; '' where it is no such id."""
    parts = _ID.fullmatch(job_id)
    return parts[1] if parts else ""


def made_ms(job_id: str) -> int | None:
    """When an id was made; None where it does not tell."""
    parts = _ID.fullmatch(job_id)
    return int(parts[2] + parts[3], 16) if parts and parts[4] == "7" else None


def kept_s(spec: str) -> float | None:
    """For how long an endpoint keeps results, by the JSON of its record; None where that does not say."""
    try:
        return float(json.loads(spec)["call_defaults"]["result_ttl"])
    except (ValueError, KeyError, TypeError):
        return None


def missing(job_id: str, keep_s: float | None, age_s: float | None) -> JobNotFound | ResultExpired:
    """Why the broker does not have a job that was submitted `age_s` ago.

    `keep_s`: for how long results of its endpoint are kept. None: not known.
    """
    if keep_s is not None and age_s is not None and age_s > keep_s - _CLOCKS_S:
        message = f"job {job_id} is kept no longer: results are kept for {keep_s:g} s (or it was deleted)"
        return ResultExpired(message, job_id=job_id)
    return JobNotFound(f"no job {job_id} in the broker: never there, or deleted", job_id=job_id)
