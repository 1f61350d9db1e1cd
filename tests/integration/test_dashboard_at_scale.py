"""The dashboard with 100 endpoints and 1,000 jobs, some of them hostile: what it says, and how seldom it asks."""

from __future__ import annotations

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import flashq.gateway
from flashq.gateway import dashboard_routes, dashboard_view
from flashq.gateway.app import Options
from flashq.store import api_keys
from flashq.store.queries_why import why, why_all
from tests.integration.dashboard_world import HOSTILE, World, world
from tests.integration.gateway_rig import Gateway
from tests.rig import Rig, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.requires("valkey")]
ENDPOINTS, JOBS = 100, 1000
STATIC = Path(flashq.gateway.__file__).parent / "static"


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.close()


@pytest.fixture(scope="module")
def seen(rig: Rig) -> World:
    return world(rig.broker, endpoints=ENDPOINTS, jobs=JOBS)


@pytest.fixture(scope="module")
def gateway(rig: Rig, seen: World) -> Iterator[Gateway]:
    made = Gateway(rig, Options(keys_fresh_s=0.05))
    yield made
    made.close()


def asked(gateway: Gateway, what: str, **headers: str) -> Any:
    reply = gateway.get(f"/-/view/{what}", **headers)
    assert reply.status == 200, reply.body
    return reply.body


def test_what_there_is_now(gateway: Gateway, seen: World) -> None:
    found = asked(gateway, "now")
    rows = {row["endpoint"]: row for row in found["endpoints"]}
    assert len(rows) == ENDPOINTS + 3
    assert sum(row["queued"] for name, row in rows.items() if name[5:].isdecimal()) == JOBS
    assert rows["dash-embed"]["in_progress"] == 1
    assert rows["dash-embed"]["running"] == 1
    assert rows["dash-paused"]["reason"] == "paused"
    assert HOSTILE in rows["dash-hostile"]["reason"]
    assert [worker["job"] for worker in found["workers"]] == [seen.running]
    assert [host["gpus"][0]["used_bytes"] for host in found["hosts"]] == [9 << 30] * 2
    assert (found["signed_in"], found["key"], found["whole"]) == (False, None, True)


def test_a_thousand_jobs_say_why_they_wait(gateway: Gateway, seen: World) -> None:
    begun = time.monotonic()
    rows = asked(gateway, "jobs?status=IN_QUEUE&limit=1000")
    assert time.monotonic() - begun < 10
    assert len(rows) == 1000
    found = {row["id"]: row for row in rows}
    assert found[seen.waiting]["why"]["cause"] == "paused"
    assert found[seen.hostile]["why"]["detail"] == HOSTILE
    (failed,) = asked(gateway, "jobs?status=FAILED")
    assert (failed["id"], failed["why"]["cause"]) == (seen.failed, "exception")
    assert asked(gateway, "jobs?endpoint=dash-paused")[0]["id"] == seen.waiting
    for wrong in ("jobs?limit=1001", "jobs?limit=0", "jobs?status=LOST"):
        assert gateway.get(f"/-/view/{wrong}").status == 422


def test_why_of_many_is_why_of_each(rig: Rig, seen: World) -> None:
    later = seen.made.job("dash-paused", delay_ms=3_600_000)
    jobs = [seen.running, seen.waiting, seen.failed, seen.cold, seen.hostile, later]
    many = why_all(rig.broker, [*jobs, "dash-embed-gone"])
    assert list(many) == jobs
    assert {job: found.cause for job, found in many.items()} == {
        job: why(rig.broker, job).cause for job in jobs
    }


def test_a_job_with_its_output(gateway: Gateway, seen: World) -> None:
    running = asked(gateway, f"jobs/{seen.running}")
    assert running["log"] == ["loading", HOSTILE, "done"]
    assert (running["status"], running["why"]["cause"]) == ("IN_PROGRESS", "running")
    assert asked(gateway, f"jobs/{seen.failed}")["error"] == f"ValueError: {HOSTILE}"
    assert asked(gateway, f"jobs/{seen.cold}")["timing"]["startup"]["setup"] == 2.41
    assert gateway.get("/-/view/jobs/dash-embed-gone").status == 404


def test_an_endpoints_past(gateway: Gateway, seen: World) -> None:
    found = asked(gateway, "endpoints/dash-embed")
    assert [one["job"] for one in found["cold_starts"]] == [seen.cold]
    assert sum(found["cold_starts"][0]["startup"].values()) == pytest.approx(4.867)
    assert found["events"][-1]["what"] == "endpoint-created"
    assert gateway.get("/-/view/endpoint/nobody").status == 404


def test_viewers_share_what_is_asked_and_none_asks_alone(gateway: Gateway) -> None:
    """Given 20 viewers at once, expect one look; and none at all while nobody is there."""
    asked(gateway, "now")
    feed = _feed(gateway)
    known = asked(gateway, "now")["history"]
    wait_until(lambda: asked(gateway, "now")["history"][-1]["at"] > known[-1]["at"])
    before, begun = feed.questions, time.monotonic()
    with ThreadPoolExecutor(20) as viewers:
        at = set(viewers.map(lambda _: asked(gateway, "now")["at"], range(60)))
    looks = feed.questions - before
    assert looks in (len(at) - 1, len(at))  # the first may have come before
    assert looks <= 2 + (time.monotonic() - begun)  # one a second
    before = feed.questions
    time.sleep(1.2)  # what is to be shown is that nothing happens
    assert feed.questions == before


def _feed(gateway: Gateway) -> Any:
    return gateway.app.state.gateway.snapshots


def test_the_policy_is_strict_on_all_of_it(gateway: Gateway) -> None:
    for path in ("/", "/-/app.js", "/-/view/now"):
        policy = gateway.get(path).headers["content-security-policy"]
        rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
        assert rules["default-src"] == "'none'"
        assert rules["script-src"] == "'self'"
        assert rules["frame-ancestors"] == "'none'"
        assert rules["require-trusted-types-for"] == "'script'"
        assert "unsafe" not in policy
    assert {file.name for file in STATIC.iterdir()} == {*dashboard_routes._FILES, "index.html"}
    imported = {
        name for file in STATIC.glob("*.js") for name in re.findall(r'from "\./(\w+\.js)"', file.read_text())
    }
    for name in imported:
        assert gateway.get(f"/-/{name}").headers["content-type"].startswith("text/javascript")


def test_the_files_have_no_way_for_data_to_become_code() -> None:
    for file in STATIC.iterdir():
        text = file.read_text()
        for way in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "Function(",
            " onclick=",
        ):
            assert way not in text, (file.name, way)
        assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=", text), file.name
        addresses = set(re.findall(r"https?://[^\"' )]+", text)) - {"http://www.w3.org/2000/svg"}
        assert not addresses, file.name


@pytest.mark.parametrize(
    "path",
    [
        "/-/../app.py",
        "/-/%2e%2e%2fapp.py",
        "/-/",
        "/-/no",
        "/-/view/x",
    ],
)
def test_nothing_else_is_served(gateway: Gateway, path: str) -> None:
    assert gateway.get(path).status == 404


def test_pages_of_others_may_link_to_it_and_ask_it_nothing(gateway: Gateway) -> None:
    foreign = {"Sec-Fetch-Site": "cross-site"}
    assert gateway.get("/", **foreign).status == 200
    assert gateway.get("/-/view/now", **foreign).status == 403
    assert gateway.ask("POST", "/", headers=foreign).status in (403, 405)


def test_a_key_sees_what_it_is_for(gateway: Gateway, rig: Rig, seen: World) -> None:
    some, _ = api_keys.make(rig.broker, "some", ("dash-embed",))
    every, _ = api_keys.make(rig.broker, "all")
    try:
        wait_until(lambda: gateway.get("/-/view/now").status == 401)
        assert gateway.get("/").status == 200
        mine, all_of_them = {"Authorization": f"Bearer {some}"}, {"Authorization": f"Bearer {every}"}
        found = asked(gateway, "now", **mine)
        assert [row["endpoint"] for row in found["endpoints"]] == ["dash-embed"]
        assert (found["hosts"], found["autoscalers"], found["whole"]) == ([], [], False)
        assert (found["signed_in"], found["key"]) == (True, "some")
        assert all(set(entry["of"]) <= {"dash-embed"} for entry in found["history"])
        assert asked(gateway, "jobs?endpoint=dash-embed", **mine)
        for path, status in (
            ("jobs", 403),
            ("jobs?endpoint=dash-paused", 403),
            ("endpoints/dash-paused", 403),
            (f"jobs/{seen.waiting}", 403),
        ):
            assert gateway.get(f"/-/view/{path}", **mine).status == status, path
            assert gateway.get(f"/-/view/{path}").status == 401, path
            assert gateway.get(f"/-/view/{path}", **all_of_them).status == 200, path
    finally:
        api_keys.revoke(rig.broker, api_keys.id_of(some))
        api_keys.revoke(rig.broker, api_keys.id_of(every))
        wait_until(lambda: gateway.get("/-/view/now").status == 200)


def test_numbers_that_json_has_not_are_none() -> None:
    found = dashboard_view.plain({"a": [float("nan"), float("inf"), 1.5], "b": ("x",)})
    assert json.loads(json.dumps(found, allow_nan=False)) == {"a": [None, None, 1.5], "b": ["x"]}
