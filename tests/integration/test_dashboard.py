"""The dashboard: what its page is made of, what it is told, and what it takes to act (tests/engines: in a browser)."""

from __future__ import annotations

import re
import time
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import pytest

from flashq import Endpoint
from flashq.gateway.snapshots import EVERY_S
from flashq.store import api_keys
from tests.integration.command_line import CommandLine
from tests.integration.gateway_rig import Gateway, gateway
from tests.rig import rig, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig import Rig

pytestmark = pytest.mark.requires("valkey")


@Endpoint(name="board", cpu="any")
def board(x: float) -> float:
    print("<script>alert(1)</script>", flush=True)
    if x < 0:
        raise ValueError("<b>below</b> zero")
    time.sleep(x)
    return x


@Endpoint(name="board-idle", cpu="any")
def idle(x: int) -> int:
    return x


@pytest.fixture(scope="module")
def theatre() -> Iterator[tuple[Rig, Gateway]]:
    with rig(lease_s=10.0) as made, gateway(made) as opened:
        made.ready_worker(board)
        made.register(idle)
        yield made, opened


@pytest.fixture
def keyless(theatre: tuple[Rig, Gateway]) -> Iterator[None]:
    """What a test makes of keys is gone after it."""
    yield
    made, opened = theatre
    for key in api_keys.listed(made.broker):
        api_keys.revoke(made.broker, key.id)
    wait_until(lambda: opened.get("/-/view/now").status == 200, 10, "no key to be needed")


def view(opened: Gateway, path: str, **headers: str) -> Any:
    found = opened.get(f"/-/view/{path}", **headers)
    assert found.status == 200, found
    return found.body


def test_the_page_and_its_parts_are_there_and_allow_nothing_else(theatre: tuple[Rig, Gateway]) -> None:
    _, opened = theatre
    page = opened.get("/")
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    for part in re.findall(r'(?:src|href)="(/[^"]+)"', page.body):
        found = opened.get(part)
        assert found.status == 200
        assert found.headers["content-security-policy"].startswith("default-src 'none'")
        assert found.headers["x-content-type-options"] == "nosniff"
    assert "<script>" not in page.body
    assert "style=" not in page.body
    assert opened.get("/-/index.html").status == 404
    assert opened.get("/-/..%2fapp.py").status in (401, 404)  # a key is asked for first, where there is any
    static = files("flashq.gateway").joinpath("static")
    script = "".join(part.read_text("utf-8") for part in static.iterdir() if part.name.endswith(".js"))
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", script)
    assert not re.search(r"https?://(?!www\.w3\.org)", script)


def test_what_there_is_and_was(theatre: tuple[Rig, Gateway]) -> None:
    _, opened = theatre
    board.remote(0)
    time.sleep(EVERY_S)
    told = view(opened, "now")
    rows = {row["endpoint"]: row for row in told["endpoints"]}
    assert (rows["board"]["idle"], rows["board"]["queued"], rows["board-idle"]["idle"]) == (1, 0, 0)
    assert [row["state"] for row in told["workers"]] == ["idle"]
    assert told["signed_in"] is False
    assert told["history"][-1]["of"]["board"] == [0, 0, 0, 1, 0, 0, 0, 0]
    assert view(opened, f"now?since={told['history'][-1]['at']}")["history"] == []


def test_however_many_look_the_broker_is_asked_once_a_second(theatre: tuple[Rig, Gateway]) -> None:
    _, opened = theatre
    time.sleep(EVERY_S)
    assert len({view(opened, "now")["at"] for _ in range(20)}) <= 2


def test_jobs_with_why_they_wait_and_all_about_one(theatre: tuple[Rig, Gateway]) -> None:
    _, opened = theatre
    failed = board.spawn(-1)
    with pytest.raises(ValueError, match="below"):
        failed.result(30)
    waits = idle.spawn(1)
    rows = {row["id"]: row for row in view(opened, "jobs")}
    assert rows[failed.id]["status"] == "FAILED"
    assert rows[waits.id]["status"] == "IN_QUEUE"
    assert rows[waits.id]["why"]["cause"]
    listed = view(opened, "jobs?endpoint=board&status=FAILED")
    assert failed.id in [row["id"] for row in listed]
    assert {row["status"] for row in listed} == {"FAILED"}
    told = view(opened, f"jobs/{failed.id}")
    assert told["log"] == ["<script>alert(1)</script>"]
    assert "<b>below</b> zero" in told["error"]
    assert told["timing"]["total_s"] >= 0
    assert opened.get("/-/view/jobs/board-nothing").status == 404
    assert opened.get("/-/view/jobs?limit=100000").status == 422
    waits.cancel().result(10)


@pytest.mark.usefixtures("keyless")
def test_acting_needs_a_key_and_looking_its_scope(theatre: tuple[Rig, Gateway], tmp_path: Any) -> None:
    made, opened = theatre
    job = board.spawn(30)
    wait_until(lambda: made.job_field(job.id, "fq_state") == "running", what="the job to run")
    assert opened.post(f"/-/act/cancel/{job.id}").status == 403  # nobody has signed in: there is no key
    cli = CommandLine(made.server.url, tmp_path)
    whole = cli("apikeys", "make", "whole").stdout.split()[-1]
    other = cli("apikeys", "make", "other", "--endpoint", "board-idle").stdout.split()[-1]
    wait_until(lambda: opened.get("/-/view/now").status == 401, 10, "a key to be needed")
    assert opened.get("/").status == 200  # the page, to sign in
    narrow = {"Authorization": f"Bearer {other}"}
    told = view(opened, "now", **narrow)
    assert ([row["endpoint"] for row in told["endpoints"]], told["workers"], told["hosts"]) == (
        ["board-idle"],
        [],
        [],
    )
    assert all(set(entry["of"]) <= {"board-idle"} for entry in told["history"])
    assert opened.get("/-/view/jobs", **narrow).status == 403
    assert opened.get(f"/-/view/jobs/{job.id}", **narrow).status == 403
    assert opened.ask("POST", f"/-/act/cancel/{job.id}", None, narrow).status == 403
    assert opened.ask("POST", "/-/act/purge/board", None, narrow).status == 403
    full = {"Authorization": f"Bearer {whole}"}
    assert view(opened, "now", **full)["signed_in"] is True
    foreign = {**full, "Origin": "http://elsewhere.example"}
    assert opened.ask("POST", f"/-/act/cancel/{job.id}", None, foreign).status == 403
    assert opened.ask("POST", f"/-/act/cancel/{job.id}", None, full).status == 200
    wait_until(lambda: made.job_field(job.id, "fq_state") == "cancelled", what="the job to be cancelled")
    assert opened.ask("POST", "/-/act/purge/board", None, full).body["said"] == "0 cancelled"
    failed = board.spawn(-1)
    with pytest.raises(ValueError, match="below"):
        failed.result(30)
    assert opened.ask("POST", f"/-/act/retry/{failed.id}", None, full).body["said"] == "ok"
