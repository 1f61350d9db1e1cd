"""Runpod's job API as its clients rely on it: a test for each line of the table, and for each trap."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from flashq import Endpoint
from flashq.gateway.app import Options
from flashq.model.causes import Cause
from flashq.store.queries_why import why
from tests.integration.gateway_rig import Gateway
from tests.rig import Rig, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.requires("valkey")]


@dataclasses.dataclass
class Size:
    width: int
    height: int = 1


@Endpoint(name="gw-echo", cpu="any", result_ttl=600)
def echo(text: str, times: int = 1, size: Size | None = None, **rest: Any) -> Any:
    return {"text": text * times, "area": None if size is None else size.width * size.height, "rest": rest}


@Endpoint(name="gw-fail", cpu="any")
def fail(message: str = "no luck") -> None:
    raise ValueError(message)


@Endpoint(name="gw-count", cpu="any")
def count(to: int) -> Any:
    yield from range(to)


@Endpoint(name="gw-breaks", cpu="any")
def breaks() -> Any:
    yield 1
    raise ValueError("broken")


@Endpoint(name="gw-nobody", cpu="any", max_queued=3)
def nobody(text: str = "") -> str:
    return text


@Endpoint(name="gw-sleep", cpu="any")
def sleep(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    made = Rig()
    for endpoint in (echo, fail, count, sleep, breaks):
        made.worker(endpoint)
    made.register(nobody)
    yield made
    made.close()


@pytest.fixture(scope="module")
def gateway(rig: Rig) -> Iterator[Gateway]:
    made = Gateway(rig, Options(internal_webhooks=True, webhook_pause_s=0.05))
    yield made
    made.close()


def ended(gateway: Gateway, endpoint: str, job: str) -> Any:
    over = ("COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT")
    return wait_until(lambda: (s := gateway.status(endpoint, job))["status"] in over and s)


# -- the table ---------------------------------------------------------------------------------------


def test_run_answers_at_once_with_id_and_status(gateway: Gateway) -> None:
    reply = gateway.post("/v2/gw-echo/run", {"input": {"text": "a"}})
    assert reply.status == 200
    assert reply.body.keys() == {"id", "status"}
    assert reply.body["status"] == "IN_QUEUE"
    assert ended(gateway, "gw-echo", reply.body["id"])["status"] == "COMPLETED"


def test_runsync_answers_with_the_output_and_where_the_time_went(gateway: Gateway) -> None:
    said = gateway.post("/v2/gw-echo/runsync", {"input": {"text": "a", "times": 2}}).body
    assert said["status"] == "COMPLETED"
    assert said["output"] == {"text": "aa", "area": None, "rest": {}}
    assert isinstance(said["delayTime"], int)
    assert isinstance(said["executionTime"], int)
    assert said["workerId"].startswith("gw-echo-")


def test_runsync_answers_with_the_id_where_the_job_takes_longer(gateway: Gateway) -> None:
    said = gateway.post("/v2/gw-nobody/runsync?wait=1000", {"input": {"text": "a"}}).body
    assert said.keys() == {"id", "status"}
    assert said["status"] == "IN_QUEUE"
    gateway.post("/v2/gw-nobody/purge-queue")


@pytest.mark.parametrize("wait", ["999", "300001", "x"])
def test_runsync_waits_between_a_second_and_five_minutes(gateway: Gateway, wait: str) -> None:
    reply = gateway.post(f"/v2/gw-echo/runsync?wait={wait}", {"input": {"text": "a"}})
    assert (reply.status, reply.body["field"]) == (422, "wait")


def test_runsync_hears_of_the_end_by_push(gateway: Gateway, rig: Rig) -> None:
    """Given a job that is no work, expect its answer sooner than anything that asks from time to time could have it."""
    gateway.post("/v2/gw-echo/runsync", {"input": {"text": "warm"}})
    before = time.monotonic()
    for _ in range(20):
        assert gateway.post("/v2/gw-echo/runsync", {"input": {"text": "a"}}).status == 200
    assert time.monotonic() - before < 20 * 0.25


def test_status_has_the_fields_of_runsync_and_an_error_where_it_failed(gateway: Gateway) -> None:
    job = gateway.post("/v2/gw-fail/run", {"input": {"message": "bad luck"}}).body["id"]
    said = ended(gateway, "gw-fail", job)
    assert said["status"] == "FAILED"
    assert said["error"] == "ValueError: bad luck"
    assert "output" not in said
    assert said["id"] == job


def test_stream_gives_what_was_yielded(gateway: Gateway) -> None:
    job = gateway.post("/v2/gw-count/run", {"input": {"to": 3}}).body["id"]
    ended(gateway, "gw-count", job)
    said = gateway.get(f"/v2/gw-count/stream/{job}").body
    assert said == {"status": "COMPLETED", "stream": [{"output": 0}, {"output": 1}, {"output": 2}]}


def test_stream_drains(gateway: Gateway) -> None:
    """Given that all was read, expect an empty list, and never no list."""
    job = gateway.post("/v2/gw-count/run", {"input": {"to": 2}}).body["id"]
    ended(gateway, "gw-count", job)
    assert len(gateway.get(f"/v2/gw-count/stream/{job}").body["stream"]) == 2
    wait_until(lambda: gateway.get(f"/v2/gw-count/stream/{job}").body["stream"] == [])
    other = gateway.post("/v2/gw-echo/run", {"input": {"text": "a"}}).body["id"]
    assert gateway.get(f"/v2/gw-echo/stream/{other}").body["stream"] == []


def test_a_long_stream_is_had_in_parts(gateway: Gateway) -> None:
    """Given more values than may wait unread, expect all of them, each once, in order."""
    job = gateway.post("/v2/gw-count/run", {"input": {"to": 1000}}).body["id"]
    got: list[int] = []

    def done() -> bool:
        said = gateway.get(f"/v2/gw-count/stream/{job}").body
        got.extend(one["output"] for one in said["stream"])
        return bool(said["status"] == "COMPLETED" and not said["stream"])

    wait_until(done)
    assert got == list(range(1000))


def test_a_final_status_comes_with_all_that_is_left(gateway: Gateway) -> None:
    """Given a client that asks no more after a final status (2.0), expect that it has everything by then."""
    job = gateway.post("/v2/gw-count/run", {"input": {"to": 200}}).body["id"]
    ended(gateway, "gw-count", job)
    said = gateway.get(f"/v2/gw-count/stream/{job}").body
    assert (said["status"], len(said["stream"])) == ("COMPLETED", 200)


def test_what_was_yielded_comes_before_the_failure(gateway: Gateway) -> None:
    """Given a function that yields and raises, expect the values first, then FAILED with the reason."""
    job = gateway.post("/v2/gw-breaks/run", {"input": {}}).body["id"]
    ended(gateway, "gw-breaks", job)
    first, second = (gateway.get(f"/v2/gw-breaks/stream/{job}").body for _ in range(2))
    assert first == {"status": "IN_PROGRESS", "stream": [{"output": 1}]}
    assert second == {"status": "FAILED", "error": "ValueError: broken", "stream": []}


def test_server_sent_events(gateway: Gateway) -> None:
    job = gateway.post("/v2/gw-count/run", {"input": {"to": 3}}).body["id"]
    reply = gateway.get(f"/v2/gw-count/stream/{job}", Accept="text/event-stream")
    assert reply.headers["content-type"].startswith("text/event-stream")
    events = [
        dict(line.split(": ", 1) for line in event.splitlines())
        for event in reply.body.split("\n\n")
        if event
    ]
    assert [event["event"] for event in events] == ["chunk"] * 3 + ["end"]
    assert [json.loads(event["data"])["output"] for event in events[:3]] == [0, 1, 2]
    assert json.loads(events[-1]["data"])["status"] == "COMPLETED"


def test_runsync_of_a_generator_has_its_values(gateway: Gateway) -> None:
    said = gateway.post("/v2/gw-count/runsync", {"input": {"to": 300}}).body
    assert said["status"] == "COMPLETED"
    assert said["output"] == [{"output": number} for number in range(300)]


def test_cancel_of_what_waits(gateway: Gateway) -> None:
    job = gateway.post("/v2/gw-nobody/run", {"input": {"text": "a"}}).body["id"]
    reply = gateway.ask("POST", f"/v2/gw-nobody/cancel/{job}", b"", {"Content-Type": "application/json"})
    assert reply.body == {"id": job, "status": "CANCELLED"}
    assert gateway.status("gw-nobody", job)["status"] == "CANCELLED"


def test_cancel_of_what_runs(gateway: Gateway) -> None:
    job = gateway.post("/v2/gw-sleep/run", {"input": {"seconds": 60}}).body["id"]
    wait_until(lambda: gateway.status("gw-sleep", job)["status"] == "IN_PROGRESS")
    assert gateway.post(f"/v2/gw-sleep/cancel/{job}").body["status"] == "CANCELLED"
    assert ended(gateway, "gw-sleep", job)["status"] == "CANCELLED"


def test_cancel_of_what_completed_changes_nothing(gateway: Gateway) -> None:
    job = gateway.post("/v2/gw-echo/runsync", {"input": {"text": "a"}}).body["id"]
    assert gateway.post(f"/v2/gw-echo/cancel/{job}").body == {"id": job, "status": "COMPLETED"}


def test_retry_of_what_failed_has_the_same_id_and_input(gateway: Gateway) -> None:
    job = gateway.post("/v2/gw-fail/run", {"input": {"message": "again"}}).body["id"]
    ended(gateway, "gw-fail", job)
    assert gateway.post(f"/v2/gw-fail/retry/{job}").body == {"id": job, "status": "IN_QUEUE"}
    assert ended(gateway, "gw-fail", job)["error"] == "ValueError: again"


def test_retry_of_what_completed_is_refused(gateway: Gateway) -> None:
    job = gateway.post("/v2/gw-echo/runsync", {"input": {"text": "a"}}).body["id"]
    reply = gateway.post(f"/v2/gw-echo/retry/{job}")
    assert reply.status == 400
    assert "COMPLETED" in reply.body["error"]


def test_purge_queue(gateway: Gateway) -> None:
    gateway.post("/v2/gw-nobody/purge-queue")
    for _ in range(2):
        gateway.post("/v2/gw-nobody/run", {"input": {}})
    assert gateway.post("/v2/gw-nobody/purge-queue").body == {"removed": 2, "status": "completed"}


def test_health_has_every_count(gateway: Gateway) -> None:
    said = gateway.get("/v2/gw-echo/health").body
    assert said["jobs"].keys() == {"completed", "failed", "inProgress", "inQueue", "retried"}
    assert said["workers"].keys() == {"idle", "initializing", "ready", "running", "throttled", "unhealthy"}
    gateway.post("/v2/gw-echo/runsync", {"input": {"text": "a"}})
    after = gateway.get("/v2/gw-echo/health").body
    assert after["jobs"]["completed"] > said["jobs"]["completed"]
    assert wait_until(lambda: gateway.get("/v2/gw-echo/health").body["workers"]["ready"] == 1)


def test_policy_execution_timeout(gateway: Gateway) -> None:
    body = {"input": {"seconds": 60}, "policy": {"executionTimeout": 300}}
    assert gateway.post("/v2/gw-sleep/runsync", body).body["status"] == "TIMED_OUT"


def test_policy_ttl(gateway: Gateway, rig: Rig) -> None:
    job = gateway.post("/v2/gw-nobody/run", {"input": {}, "policy": {"ttl": 100}}).body["id"]
    assert 0 < float(rig.job_field(job, "fq_ttl_at")) - float(rig.job_field(job, "fq_enqueued")) <= 100
    gateway.post("/v2/gw-nobody/purge-queue")


def test_policy_low_priority(gateway: Gateway, rig: Rig) -> None:
    job = gateway.post("/v2/gw-nobody/run", {"input": {}, "policy": {"lowPriority": True}}).body["id"]
    assert rig.job_field(job, "fq_prio") == "-10"
    seen = rig.broker.run(rig.broker.transitions.observe("gw-nobody"))
    assert (seen.queued, seen.enqueued_ms) == (0, ())
    assert gateway.get("/v2/gw-nobody/health").body["jobs"]["inQueue"] == 1
    assert why(rig.broker, job).cause is Cause.UNHURRIED
    gateway.post("/v2/gw-nobody/run", {"input": {}})
    assert rig.broker.run(rig.broker.transitions.observe("gw-nobody")).queued == 1
    gateway.post("/v2/gw-nobody/purge-queue")


def test_a_low_priority_job_is_run_by_the_workers_that_there_are(gateway: Gateway) -> None:
    body = {"input": {"text": "a"}, "policy": {"lowPriority": True}}
    assert gateway.post("/v2/gw-echo/runsync", body).body["status"] == "COMPLETED"


@pytest.mark.parametrize(
    ("policy", "field"),
    [
        ({"executionTimeout": "x"}, "policy.executionTimeout"),
        ({"ttl": -1}, "policy.ttl"),
        ({"lowPriority": 1}, "policy.lowPriority"),
        ({"timeout": 1}, "policy.timeout"),
        ([], "policy"),
    ],
)
def test_a_policy_that_is_none_is_refused(gateway: Gateway, policy: Any, field: str) -> None:
    reply = gateway.post("/v2/gw-echo/run", {"input": {"text": "a"}, "policy": policy})
    assert (reply.status, reply.body["field"]) == (422, field)


def test_idempotency_and_priority_are_options_of_ours(gateway: Gateway) -> None:
    body = {"input": {"text": "a"}, "options": {"key": "one", "priority": 3}}
    first, again = (gateway.post("/v2/gw-echo/run", body).body["id"] for _ in range(2))
    assert first == again
    other = gateway.post("/v2/gw-echo/run", {**body, "input": {"text": "b"}})
    assert other.status == 409


# -- webhooks ----------------------------------------------------------------------------------------


class Listener:
    """Counts what it is told, and answers with these statuses in turn."""

    def __init__(self, *statuses: int) -> None:
        self.told: list[Any] = []
        answers = iter(statuses)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(handler) -> None:  # noqa: N805 — `self` is the listener
                length = int(handler.headers["content-length"])
                self.told.append(json.loads(handler.rfile.read(length)))
                handler.send_response(next(answers, 200))
                handler.end_headers()

            def log_message(handler, *args: Any) -> None:  # noqa: N805
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/done?x=1"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def test_a_webhook_is_told_the_outcome(gateway: Gateway) -> None:
    listener = Listener(200)
    try:
        job = gateway.post("/v2/gw-echo/run", {"input": {"text": "a"}, "webhook": listener.url}).body["id"]
        wait_until(lambda: listener.told)
        assert listener.told[0]["id"] == job
        assert listener.told[0]["status"] == "COMPLETED"
        assert listener.told[0]["output"]["text"] == "a"
    finally:
        listener.close()


def test_a_webhook_that_does_not_answer_200_is_tried_twice_again(gateway: Gateway) -> None:
    listener = Listener(500, 204, 404, 200)
    try:
        gateway.post("/v2/gw-echo/run", {"input": {"text": "a"}, "webhook": listener.url})
        wait_until(lambda: len(listener.told) == 3)
        gateway.post("/v2/gw-echo/runsync", {"input": {"text": "later"}})
        assert len(listener.told) == 3
    finally:
        listener.close()


def test_a_webhook_outlives_its_gateway(gateway: Gateway, rig: Rig) -> None:
    """Given a job whose gateway ends before it, expect that another gateway tells the webhook."""
    listener = Listener(200)
    first = Gateway(rig, Options(internal_webhooks=True))
    try:
        job = first.post("/v2/gw-nobody/run", {"input": {}, "webhook": listener.url}).body["id"]
    finally:
        first.close()
    second = Gateway(rig, Options(internal_webhooks=True))
    try:
        gateway.post(f"/v2/gw-nobody/cancel/{job}")
        wait_until(lambda: listener.told)
        assert (listener.told[0]["id"], listener.told[0]["status"]) == (job, "CANCELLED")
        wait_until(lambda: not rig.broker.execute("HLEN", rig.broker.keys.of("webhooks")))
    finally:
        second.close()
        listener.close()


@pytest.mark.parametrize("url", ["ftp://x/", "http://", "https://u:p@x/", 5, "http://x/\n", "x" * 3000])
def test_a_webhook_that_is_none_is_refused(gateway: Gateway, url: Any) -> None:
    reply = gateway.post("/v2/gw-echo/run", {"input": {"text": "a"}, "webhook": url})
    assert (reply.status, reply.body["field"]) == (422, "webhook")


# -- traps -------------------------------------------------------------------------------------------


def test_a_cancelled_job_is_failed_on_the_stream_route_alone(gateway: Gateway) -> None:
    job = gateway.post("/v2/gw-nobody/run", {"input": {}}).body["id"]
    gateway.post(f"/v2/gw-nobody/cancel/{job}")
    said = gateway.get(f"/v2/gw-nobody/stream/{job}").body
    assert (said["status"], said["stream"]) == ("FAILED", [])
    assert gateway.status("gw-nobody", job)["status"] == "CANCELLED"


@pytest.mark.parametrize("given", [{"input": {}}, {"__empty": True}, {}])
def test_no_input_arrives_in_several_forms(gateway: Gateway, given: Any) -> None:
    assert gateway.post("/v2/gw-fail/runsync", {"input": given}).body["error"] == "ValueError: no luck"


def test_cancel_and_purge_need_no_body(gateway: Gateway) -> None:
    job = gateway.post("/v2/gw-nobody/run", {"input": {}}).body["id"]
    empty = {"Content-Length": "0", "Content-Type": "application/json"}
    assert gateway.ask("POST", f"/v2/gw-nobody/cancel/{job}", None, empty).status == 200
    assert gateway.ask("POST", "/v2/gw-nobody/purge-queue", None, empty).status == 200


def test_a_request_may_name_itself(gateway: Gateway) -> None:
    job = gateway.post("/v2/gw-echo/runsync", {"input": {"text": "a"}}).body["id"]
    reply = gateway.ask("GET", f"/v2/gw-echo/status/{job}", None, {"X-Request-ID": job})
    assert reply.status == 200


@pytest.mark.parametrize("environment", ["production", "wire"])
def test_an_apps_endpoints_are_named_by_headers(gateway: Gateway, environment: str) -> None:
    """Given calls as client 2.0 makes them for an app, expect those of the endpoint that the headers name."""
    headers = {"X-Flash-App": "app", "X-Flash-Environment": environment, "X-Flash-Endpoint": "gw-echo"}
    said = gateway.ask("POST", "/v2/flash/runsync?wait=90000", {"input": {"text": "a"}}, headers).body
    assert said["output"]["text"] == "a"
    for method, verb in (("GET", "status"), ("GET", "stream"), ("POST", "cancel")):
        assert gateway.ask(method, f"/v2/flash/{verb}/{said['id']}", None, headers).status == 200
    assert gateway.ask("GET", "/v2/flash/health", None, headers).status == 200
    assert gateway.get("/v2/flash/health").status == 404


# -- what is wrong with a call -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({}, "input.text"),
        ({"text": 5}, "input.text"),
        ({"text": "a", "times": "x"}, "input.times"),
        ({"text": "a", "size": {"width": "w"}}, "input.size.width"),
        (5, "input"),
    ],
)
def test_an_input_that_does_not_fit_names_the_field(gateway: Gateway, given: Any, field: str) -> None:
    reply = gateway.post("/v2/gw-echo/run", {"input": given})
    assert (reply.status, reply.body["field"]) == (422, field), reply.body


def test_anything_else_than_an_object_is_the_one_argument(gateway: Gateway) -> None:
    assert gateway.post("/v2/gw-echo/runsync", {"input": "a"}).body["output"]["text"] == "a"


def test_an_input_that_is_missing_names_the_field(gateway: Gateway) -> None:
    reply = gateway.post("/v2/gw-echo/run", {"text": "a"})
    assert (reply.status, reply.body["field"]) == (422, "input")
    reply = gateway.post("/v2/gw-echo/run", {"input": {"text": "a"}, "webhoook": "x"})
    assert (reply.status, reply.body["field"]) == (422, "webhoook")


def test_what_is_not_there_is_404(gateway: Gateway) -> None:
    job = gateway.post("/v2/gw-echo/runsync", {"input": {"text": "a"}}).body["id"]
    gone = "gw-echo-00000000-0000-4000-8000-000000000000"
    assert gateway.post("/v2/gw-unknown/run", {"input": {}}).status == 404
    assert gateway.get(f"/v2/gw-echo/status/{gone}").status == 404
    assert gateway.get(f"/v2/gw-nobody/status/{job}").status == 404
    assert gateway.get("/v2/gw-echo/status/x").status == 404
    assert gateway.get("/nothing").status == 404


def test_a_full_queue_is_429(gateway: Gateway) -> None:
    gateway.post("/v2/gw-nobody/purge-queue")
    for _ in range(3):
        assert gateway.post("/v2/gw-nobody/run", {"input": {}}).status == 200
    reply = gateway.post("/v2/gw-nobody/run", {"input": {}})
    assert reply.status == 429
    assert int(reply.headers["retry-after"]) > 0
    gateway.post("/v2/gw-nobody/purge-queue")
