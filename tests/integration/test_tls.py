"""A broker with TLS: its certificate is verified, ours is shown, and whatever does not fit is refused at once."""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from flashq import Endpoint
from flashq.client import Client
from flashq.errors import BrokerUnreachable, BrokerUntrusted
from flashq.settings import Settings
from flashq.store.broker import Broker
from tests.certificates import Authority
from tests.rig import SECRET, BrokerServer, Rig, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.requires("redis")


@Endpoint(name="tls", cpu="any")
def double(payload: bytes) -> bytes:
    return payload + payload


def server(authority: Authority, certificate: tuple[Path, Path], *, clients: bool = False) -> BrokerServer:
    """A server that is reached as localhost; `clients`: they have to show a certificate."""
    port, (file, key) = free_port(), certificate
    arguments = ["--tls-port", str(port), "--tls-cert-file", str(file), "--tls-key-file", str(key)]
    arguments += ["--tls-ca-cert-file", str(authority.file), "--tls-auth-clients", "yes" if clients else "no"]
    return BrokerServer("redis", arguments=arguments, url=f"rediss://localhost:{port}/0")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def good(authority: Authority) -> Iterator[BrokerServer]:
    with closing(server(authority, authority.certificate("good", "localhost"))) as made:
        yield made


def settings(url: str, folder: Path, **variables: str) -> Settings:
    """Settings as somebody would write them."""
    given = {"FLASHQ_REDIS_URL": url, "FLASHQ_HOME": str(folder), "FLASHQ_SECRET_KEY": SECRET.hex()}
    return Settings.load(given | variables, folder)


def ping(settings: Settings) -> object:
    assert settings.redis_url is not None
    with closing(Broker(settings.redis_url, patience_s=0)) as broker:
        return broker.execute("PING")


def test_a_whole_job_goes_over_tls_with_certificates_on_both_sides(
    authority: Authority, tmp_path: Path
) -> None:
    # Given a server that wants to see a certificate, and one of its authority for us
    made = server(authority, authority.certificate("both", "localhost"), clients=True)
    ours, key = authority.certificate("caller")
    files = {"FLASHQ_TLS_CA": str(authority.file), "FLASHQ_TLS_CERT": str(ours), "FLASHQ_TLS_KEY": str(key)}
    made.url = str(settings(made.url, tmp_path, **files).redis_url)
    rig = Rig(made)
    try:
        # If a worker does a job whose arguments and result fill many TLS records, expect the result
        rig.ready_worker(double)
        payload = bytes(range(256)) * 2048
        assert double.remote(payload) == payload + payload
        assert list(double.map([b"a", b"b"], progress=False)) == [b"aa", b"bb"]
    finally:
        rig.close()

    # If no certificate is shown, expect no connection
    with closing(server(authority, authority.certificate("shy", "localhost"), clients=True)) as strict:
        bare = settings(strict.url, tmp_path, FLASHQ_TLS_CA=str(authority.file))
        with pytest.raises(BrokerUnreachable):
            ping(bare)


def test_the_authority_may_stand_in_the_address(
    good: BrokerServer, authority: Authority, tmp_path: Path
) -> None:
    assert ping(settings(f"{good.url}?ssl_ca_certs={authority.file}", tmp_path)) == b"PONG"


def test_a_certificate_of_another_authority_is_not_trusted(good: BrokerServer, tmp_path: Path) -> None:
    # Given another authority, or only those of the system
    other = Authority(tmp_path, "other")
    for files in ({"FLASHQ_TLS_CA": str(other.file)}, {}):
        # Expect an error that says so, and what to do
        with pytest.raises(BrokerUntrusted, match=r"certificate.* FLASHQ_TLS_CA names"):
            ping(settings(good.url, tmp_path, **files))


def test_a_certificate_for_another_name_is_not_trusted(
    good: BrokerServer, authority: Authority, tmp_path: Path
) -> None:
    elsewhere = good.url.replace("localhost", "127.0.0.1")
    with pytest.raises(BrokerUntrusted, match=r"IP address mismatch.*127\.0\.0\.1"):
        ping(settings(elsewhere, tmp_path, FLASHQ_TLS_CA=str(authority.file)))


def test_an_expired_certificate_is_not_trusted_and_the_caller_told_at_once(
    authority: Authority, tmp_path: Path
) -> None:
    expired = authority.certificate("expired", "localhost", expired=True)
    with closing(server(authority, expired)) as made:
        there = settings(made.url, tmp_path, FLASHQ_TLS_CA=str(authority.file))
        with pytest.raises(BrokerUntrusted, match="certificate has expired"):
            ping(there)

        # If somebody calls through it, expect the same without waiting for it to get better
        with closing(Client(there)) as client:
            began = time.monotonic()
            job = client.submit(double, (b"",), {})
            with pytest.raises(BrokerUntrusted, match="certificate has expired"):
                job.result(timeout=10)
            assert time.monotonic() - began < 2.5
