"""A broker's address: what is behind it, and that no password in it is ever shown."""

from __future__ import annotations

import pytest

from flashq.address import Address
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


def test_a_sentinels_address_names_sentinels_and_what_to_do_with_their_answer() -> None:
    url = "redis+sentinel://u:p%40@a:1,b,[::1]:5/main/2?sentinel_password=x%2F&health_check_interval=3"
    address = Address.parse(url)
    assert address.service == "main"
    assert address.sentinel_urls() == [
        "redis://:x%2F@a:1/?health_check_interval=3",
        "redis://:x%2F@b:26379/?health_check_interval=3",
        "redis://:x%2F@[::1]:5/?health_check_interval=3",
    ]
    assert address.server_url("::2", 6) == "redis://u:p%40@[::2]:6/2?health_check_interval=3"
    assert "p%40" not in repr(address)
    assert "x%2F" not in repr(address)


def test_a_sentinels_address_may_be_short_and_want_tls() -> None:
    address = Address.parse("rediss+sentinel://a/main")
    assert address.sentinel_urls() == ["rediss://a:26379/"]
    assert address.server_url("b", 6379) == "rediss://b:6379"
