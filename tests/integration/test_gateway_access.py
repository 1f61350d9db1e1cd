"""Who may use the gateway, from where, and with how much: what RELIABILITY.md's attacks by HTTP meet."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import logging
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from starlette.requests import Request as StarletteRequest

from flashq import Endpoint
from flashq.errors import ConfigurationError
from flashq.gateway import heads, webhooks
from flashq.gateway.access import Access
from flashq.gateway.app import Options
from flashq.gateway.guards import LOOPBACK_NAMES
from flashq.gateway.problems import Problem
from flashq.gateway.serve import serve
from flashq.model.keyring import Keyring
from flashq.settings import SecretKey, Settings
from flashq.store import api_keys
from tests.integration.gateway_rig import Gateway, Reply
from tests.rig import SECRET, BrokerServer, Rig, free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.requires("valkey")]
LIMIT = 20_000


@Endpoint(name="ga-echo", cpu="any")
def echo(text: Any = "") -> Any:
    return text


@Endpoint(name="ga-other", cpu="any")
def other(text: Any = "") -> Any:
    return text


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    made = Rig()
    made.settings = Settings(
        redis_url=made.server.url,
        secret_key=SecretKey(SECRET),
        home=made.home,
        lease_s=made.lease_s,
        payload_limit=LIMIT,
    )
    made.worker(echo)
    made.register(other)
    yield made
    made.close()


@pytest.fixture(scope="module")
def gateway(rig: Rig) -> Iterator[Gateway]:
    """One that listens beyond this machine: it wants keys whatever is on record."""
    made = Gateway(rig, Options(local_only=False, body_s=1.0, keys_fresh_s=0.1))
    yield made
    made.close()


@pytest.fixture(scope="module")
def local(rig: Rig) -> Iterator[Gateway]:
    """One for this machine alone, beside keys that others made."""
    made = Gateway(rig, Options(local_only=True, hosts=LOOPBACK_NAMES, keys_fresh_s=0.1))
    yield made
    made.close()


def make(rig: Rig, *endpoints: str, expires_s: float | None = None) -> str:
    """A key that is known from now on."""
    return api_keys.make(rig.broker, "test", endpoints, expires_s)[0]


def run(gateway: Gateway, key: str | None, endpoint: str = "ga-echo", scheme: str = "Bearer ") -> Reply:
    headers = {} if key is None else {"Authorization": f"{scheme}{key}"}
    return gateway.ask("POST", f"/v2/{endpoint}/runsync", {"input": {"text": "a"}}, headers)


def test_a_key_is_needed_and_enough(gateway: Gateway, rig: Rig) -> None:
    key = make(rig)
    wait_until(lambda: run(gateway, key).status == 200)
    assert run(gateway, key, scheme="").status == 200
    assert run(gateway, key, scheme="bearer ").status == 200
    for wrong in (None, "", "x", "fqk_x_y", key[:-1] + ("A" if key[-1] != "A" else "B"), "é" * 20):
        reply = run(gateway, wrong if wrong is None else wrong.encode().decode("latin-1"))
        assert reply.status == 401, wrong
        assert reply.headers["www-authenticate"] == "Bearer"


def test_a_key_is_for_its_endpoints(gateway: Gateway, rig: Rig) -> None:
    key = make(rig, "ga-echo")
    job = wait_until(lambda: (reply := run(gateway, key)).status == 200 and reply.body)["id"]
    assert run(gateway, key, "ga-other").status == 403
    headers = {"Authorization": f"Bearer {key}"}
    assert gateway.ask("GET", f"/v2/ga-other/status/{job}", None, headers).status == 403
    assert gateway.ask("GET", f"/v2/ga-echo/status/{job}", None, headers).status == 200


def test_another_tenants_job_is_not_there(gateway: Gateway, rig: Rig) -> None:
    """Given the id of a job of another endpoint, expect nothing of it by one's own."""
    mine, all_of_them = make(rig, "ga-other"), make(rig)
    job = wait_until(lambda: (reply := run(gateway, all_of_them)).status == 200 and reply.body)["id"]
    headers = {"Authorization": f"Bearer {mine}"}
    for method, verb in (("GET", "status"), ("GET", "stream"), ("POST", "cancel"), ("POST", "retry")):
        assert gateway.ask(method, f"/v2/ga-other/{verb}/{job}", None, headers).status == 404


def test_a_key_expires_and_is_revoked(gateway: Gateway, rig: Rig) -> None:
    brief, kept = make(rig, expires_s=60), make(rig)
    wait_until(lambda: run(gateway, kept).status == 200)
    assert run(gateway, brief).status == 200
    field = api_keys.id_of(brief)
    key = rig.broker.keys.of("api_keys")
    record = json.loads(rig.broker.execute("HGET", key, field))
    rig.broker.execute("HSET", key, field, json.dumps({**record, "expires_ms": 1}))
    wait_until(lambda: "expired" in str(run(gateway, brief).body))
    assert api_keys.revoke(rig.broker, api_keys.id_of(kept))
    wait_until(lambda: run(gateway, kept).status == 401)


def test_what_is_kept_of_a_key_does_not_tell_it(rig: Rig) -> None:
    key = make(rig)
    kept = rig.broker.execute("HGET", rig.broker.keys.of("api_keys"), api_keys.id_of(key)).decode()
    assert key.rsplit("_", 1)[1] not in kept
    assert len(key.split("_", 2)[2]) == 43


def test_a_record_that_somebody_else_wrote_lets_nobody_in(gateway: Gateway, rig: Rig) -> None:
    for junk in ("", "[]", '{"digest": null}', "\xff"):
        rig.broker.execute("HSET", rig.broker.keys.of("api_keys"), "abcdef", junk)
        assert run(gateway, "fqk_abcdef_x").status == 401
        assert all(not found.digest for found in api_keys.listed(rig.broker) if found.id == "abcdef")
    rig.broker.execute("HDEL", rig.broker.keys.of("api_keys"), "abcdef")


@pytest.mark.parametrize("name", ["api_key", "token"])
def test_a_key_in_the_address_is_refused(gateway: Gateway, name: str) -> None:
    reply = gateway.post(f"/v2/ga-echo/run?{name}=fqk_a_b", {"input": {}})
    assert reply.status == 401
    assert "logs" in reply.body["error"]


def test_keys_are_in_no_log(gateway: Gateway, rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    key = make(rig)
    with caplog.at_level(logging.DEBUG):
        run(gateway, key)
        run(gateway, key + "x")
        gateway.get(f"/v2/ga-echo/status/{key}", Authorization=f"Bearer {key}")
    assert key not in caplog.text


def test_from_the_first_key_on_this_machine_needs_one_too(local: Gateway, rig: Rig) -> None:
    key = make(rig)
    wait_until(lambda: run(local, None).status == 401)
    assert run(local, key).status == 200


def test_no_key_and_another_address_do_not_go_together(tmp_path: Path) -> None:
    """Given no API key, expect the gateway not to listen beyond this machine, and to say why."""
    with contextlib.closing(BrokerServer()) as server:
        settings = Settings(redis_url=server.url, secret_key=SecretKey(SECRET), home=tmp_path)
        with pytest.raises(ConfigurationError, match="without an API key everybody"):
            serve(settings, Keyring([SECRET]), "0.0.0.0", free_port())


# -- hostile pages -----------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[::2]"])
def test_a_name_that_leads_here_is_not_ours(local: Gateway, host: str) -> None:
    """Given a page that has its own name lead to this address (DNS rebinding), expect nothing."""
    assert local.ask("GET", "/healthz", None, {"Host": host}).status == 421


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:5"])
def test_names_of_this_machine_are_ours(local: Gateway, host: str) -> None:
    assert local.ask("GET", "/healthz", None, {"Host": host}).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
@pytest.mark.parametrize(("method", "verb"), [("POST", "purge-queue"), ("POST", "run"), ("GET", "health")])
def test_a_page_of_another_origin_is_refused(
    gateway: Gateway, headers: dict[str, str], method: str, verb: str
) -> None:
    assert gateway.ask(method, f"/v2/ga-echo/{verb}", None, headers).status == 403


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]
)
def test_what_a_form_can_send_is_no_call(gateway: Gateway, rig: Rig, kind: str) -> None:
    key = make(rig)
    headers = {"Authorization": f"Bearer {key}"}
    wait_until(lambda: run(gateway, key).status == 200)
    body = b'{"input": {}}'
    assert gateway.ask("POST", "/v2/ga-echo/run", body, {**headers, "Content-Type": kind}).status == 415


# -- bodies ------------------------------------------------------------------------------------------


@pytest.fixture
def headers(gateway: Gateway, rig: Rig) -> dict[str, str]:
    return {"Authorization": f"Bearer {make(rig)}"}


def test_a_body_over_the_limit_is_413(gateway: Gateway, headers: dict[str, str]) -> None:
    said = gateway.ask("POST", "/v2/ga-echo/run", {"input": {"text": "x" * LIMIT}}, headers)
    assert said.status == 413
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
    connection.putrequest("POST", "/v2/ga-echo/run")  # 1 GiB is announced: nothing of it is waited for
    connection.putheader("Content-Length", str(1 << 30))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


def test_a_body_in_pieces_that_never_ends_is_413(gateway: Gateway) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), 10) as sock:
        sock.sendall(
            b"POST /v2/ga-echo/run HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
            b"Content-Type: application/json\r\nAuthorization: x\r\n\r\n"
        )
        answer = sock.recv(100)  # no key: nothing of the body is read
    assert b" 401 " in answer


def test_a_slow_body_is_408(gateway: Gateway, headers: dict[str, str]) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), 10) as sock:
        sock.sendall(
            f"POST /v2/ga-echo/run HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\nContent-Type: application/json\r\n"
            f"Authorization: {headers['Authorization']}\r\n\r\n{{".encode()
        )
        assert b" 408 " in sock.recv(100)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[1]", 422),
        (b'"text"', 422),
        (b'{"input": {"text": NaN}}', 400),
        (b'{"input": {"text": Infinity}}', 400),
        (b'{"input": {"text": 1e999}}', 422),
        (b'{"input": {"text": "\xff"}}', 400),
        (b"[" * 10_000, 400),
        (b'{"input": {"text": ' + b"[" * 200 + b"]" * 200 + b"}}", 422),
        (b'{"input": {"text": "\\ud800"}}', 422),
    ],
)
def test_a_body_that_is_none_is_refused(
    gateway: Gateway, headers: dict[str, str], body: bytes, status: int
) -> None:
    reply = gateway.ask("POST", "/v2/ga-echo/runsync", body, headers)
    assert reply.status == status, reply.body
    assert run(gateway, headers["Authorization"].removeprefix("Bearer ")).status == 200


@pytest.mark.parametrize("text", ["a\0b", "a\nb", "\x1b[2J", "<script>", "💥", ""])
def test_odd_text_comes_back_as_it_is(gateway: Gateway, headers: dict[str, str], text: str) -> None:
    reply = gateway.ask("POST", "/v2/ga-echo/runsync", {"input": {"text": text}}, headers)
    assert reply.body["output"] == text


@pytest.mark.parametrize(
    "name", ["..", "../x", "a:b", "*", "x" * 10_000, "%00", "a%0ab", "%2e%2e%2fx", "ga-echo--old"]
)
def test_odd_names_are_not_there(gateway: Gateway, headers: dict[str, str], name: str) -> None:
    path = name.replace("*", "%2A")
    assert gateway.ask("POST", f"/v2/{path}/run", {"input": {}}, headers).status in (404, 405)
    assert gateway.ask("GET", f"/v2/ga-echo/status/{path}", None, headers).status == 404


@pytest.mark.parametrize("before", [b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"])
def test_a_head_that_does_not_come_is_not_waited_for(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, before: bytes
) -> None:
    """Given connections that send their heads byte by byte, also after a whole request, expect them to be closed."""
    monkeypatch.setattr(heads, "HEAD_S", 0.3)
    with socket.create_connection(("127.0.0.1", gateway.port), 10) as sock:
        if before:
            sock.sendall(before)
            assert b" 200 " in sock.recv(4096)
        sock.settimeout(0.05)
        wait_until(lambda: is_closed_after(sock, b"G"), timeout_s=3, what="the connection to be closed")


def is_closed_after(sock: socket.socket, piece: bytes) -> bool:
    """Whether the other side has closed it; else it gets this piece."""
    try:
        sock.sendall(piece)
        return not sock.recv(100)
    except TimeoutError:
        return False
    except OSError:
        return True


def test_bodies_of_many_take_no_more_memory_than_there_is(gateway: Gateway, headers: dict[str, str]) -> None:
    """Given callers that send most of a large body each and then wait, expect further ones to be told to come again."""
    size = LIMIT + 60_000
    head = (
        "POST /v2/ga-echo/run HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {size}\r\nAuthorization: {headers['Authorization']}\r\n\r\n"
    )
    wait_until(lambda: run(gateway, headers["Authorization"].removeprefix("Bearer ")).status == 200)
    with contextlib.ExitStack() as stack:
        for _ in range(30):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", gateway.port), 10))
            sock.sendall(head.encode() + b" " * (size - 1))
        answer = wait_until(lambda: sock.recv(300).decode(), what="the last to be answered")
    assert " 503 " in answer
    assert "retry-after" in answer.lower()
    assert run(gateway, headers["Authorization"].removeprefix("Bearer ")).status == 200


def test_a_compressed_body_is_not_taken(gateway: Gateway, headers: dict[str, str]) -> None:
    given = {**headers, "Content-Encoding": "gzip"}
    assert gateway.ask("POST", "/v2/ga-echo/run", b"\x1f\x8b", given).status == 415


def test_a_caller_that_goes_away_leaves_the_gateway_well(gateway: Gateway, headers: dict[str, str]) -> None:
    body = json.dumps({"input": {"text": "a"}}).encode()
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", gateway.port), 10) as sock:
            sock.sendall(
                f"POST /v2/ga-other/runsync HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: "
                f"{headers['Authorization']}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
    assert gateway.ask("GET", "/v2/ga-other/health", None, headers).status == 200


def test_webhooks_into_this_network_are_not_told(
    gateway: Gateway, headers: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    for url in (
        "http://127.0.0.1:1/",
        "http://169.254.169.254/latest",
        "http://[::1]/",
        "http://10.0.0.1/",
        "http://0.0.0.0/",
        "http://[::ffff:127.0.0.1]/",
        "http://localhost/",
        "http://[64:ff9b::169.254.169.254]/",
        "http://[::127.0.0.1]/",
    ):
        caplog.clear()
        reply = gateway.ask("POST", "/v2/ga-echo/runsync", {"input": {"text": "a"}, "webhook": url}, headers)
        assert reply.status == 200
        wait_until(lambda: "inside this network" in caplog.text, what=url)


def test_a_webhook_that_takes_its_time_keeps_no_sender(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a server that answers byte by byte, for ever, expect each try to end."""
    monkeypatch.setattr(webhooks, "_TRY_S", 0.5)
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        dripping = threading.Thread(target=drip, args=(server, over))
        dripping.start()
        try:
            opened = webhooks.Webhooks(None, never, internal=True)  # type: ignore[arg-type]
            target = webhooks.Webhook("", "http", "127.0.0.1", server.getsockname()[1], "/")
            began = time.monotonic()
            with pytest.raises((OSError, http.client.HTTPException)):
                opened._post(target, b"{}")
            assert time.monotonic() - began < 5
            opened.close()
        finally:
            over.set()
            dripping.join()


async def never(job: str) -> dict[str, Any]:
    raise AssertionError(job)


def drip(server: socket.socket, over: threading.Event) -> None:
    connection, _ = server.accept()
    with connection, contextlib.suppress(OSError):
        connection.sendall(b"HTTP/1.1")
        while not over.wait(0.05):
            connection.sendall(b"x")


# -- keys that are none ------------------------------------------------------------------------------


def test_words_that_are_no_keys_have_the_broker_asked_once_at_a_time(rig: Rig) -> None:
    """Given many requests at once with keys that nobody made, expect few looks at the broker."""
    looks = 0

    class Slow:
        async def ask(self, question: Any) -> tuple[list[Any], int]:
            nonlocal looks
            looks += 1
            await asyncio.sleep(0.05)
            return [], 0

    async def storm() -> int:
        access = Access(Slow(), local_only=False)  # type: ignore[arg-type]
        request = StarletteRequest(
            {
                "type": "http",
                "query_string": b"",
                "headers": [(b"authorization", b"Bearer fqk_0011_x")],
            }
        )
        found = await asyncio.gather(*(access.key_of(request) for _ in range(100)), return_exceptions=True)
        return sum(isinstance(one, Problem) and one.status == 401 for one in found)

    assert asyncio.run(storm()) == 100
    assert looks <= 3


# -- probes ------------------------------------------------------------------------------------------


def test_probes_need_no_key(gateway: Gateway) -> None:
    assert gateway.get("/healthz").body == {"status": "ok"}
    assert gateway.get("/readyz").body == {"status": "ok"}


def test_docs_and_schema(gateway: Gateway) -> None:
    page = gateway.get("/docs")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert "//" not in page.body
    for name in ("swagger-ui-bundle.js", "swagger-ui.css", "begin.js"):
        assert f"/docs/{name}" in page.body
        assert gateway.get(f"/docs/{name}").status == 200
    assert (
        gateway.get("/docs/..%2f__init__.py").status == 401
    )  # a route of endpoint "docs", for which a key is needed
    assert gateway.get("/docs/core.py").status == 404
    assert "/v2/{endpoint}/runsync" in gateway.get("/openapi.json").body["paths"]
