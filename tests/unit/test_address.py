"""No password of a broker's address is ever shown."""

from __future__ import annotations

import pytest

from flashq.model.address import masked


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h:6379/0", "redis://h:6379/0"),
        ("redis://:pw@h:6379/0", "redis://:***@h:6379/0"),
        ("rediss://user:p@ss:w@h/1?x=1", "rediss://user:***@h/1?x=1"),
        ("redis://user@h", "redis://user@h"),
        ("redis://h/0?password=pw&db=1", "redis://h/0?password=***&db=1"),
        ("unix:///run/b.sock?PASSWORD=pw", "unix:///run/b.sock?PASSWORD=***"),
        ("no address", "no address"),
    ],
)
def test_masked(url: str, shown: str) -> None:
    assert masked(url) == shown
