"""A server's address taken apart for connecting to it, as redis-py reads it."""

from __future__ import annotations

import pytest
from redis.connection import parse_url

from flashq.store.dial import Target


@pytest.mark.parametrize(
    "url",
    [
        "redis://h",
        "redis://h:6380/3",
        "redis://[::1]:7/0",
        "rediss://u%40:p%3Aw%2F@h:1/2?ssl_ca_certs=/a%20b.pem&ssl_check_hostname=no",
        "redis://:p@h?db=4&client_name=me",
        "redis://h/1?username=u%2540&password=p%2541",
        "unix:///run/b%20c.sock?db=2",
        "unix://u:p@/s",
    ],
)
def test_an_address_means_what_it_means_to_redis_py(url: str) -> None:
    target, theirs = Target.parse(url), parse_url(url)  # type: ignore[no-untyped-call]
    assert target.path == theirs.get("path", "")
    if not target.path:
        assert (target.host, target.port) == (theirs["host"], theirs.get("port", 6379))
    assert target.username == theirs.get("username", "")
    assert target.password == theirs.get("password", "")
    assert target.database == theirs.get("db", 0)
    assert target.tls == url.startswith("rediss")
    if "ssl_check_hostname" in theirs:
        assert target.truth("ssl_check_hostname") == theirs["ssl_check_hostname"]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://h/0?ssl_validate_ocsp=true", "has the parameter ssl_validate_ocsp; known are client_name,"),
        ("redis://h/0?db=x", "'x', which is no number"),
    ],
)
def test_what_is_not_known_is_refused_by_name(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Target.parse(url)


def test_a_yes_or_no_is_one_of_a_few_words_and_else_refused() -> None:
    assert Target.parse("redis://h").truth("socket_keepalive")
    assert not Target.parse("redis://h?socket_keepalive=False").truth("socket_keepalive")
    with pytest.raises(ValueError, match="neither yes nor no"):
        Target.parse("redis://h?socket_keepalive=perhaps").truth("socket_keepalive")


def test_no_repr_shows_a_password() -> None:
    assert "pw" not in repr(Target.parse("redis://u:pw@h/0?ssl_password=pw"))
