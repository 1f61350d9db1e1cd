"""The dashboard, looked at and clicked through in a real browser.

apt-get install --no-install-recommends chromium
pip install playwright
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flashq import Endpoint
from flashq.store import api_keys
from tests.integration.command_line import CommandLine
from tests.integration.dashboard_world import HOSTILE, world
from tests.integration.gateway_rig import Gateway, gateway
from tests.rig import rig, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig import Rig

pytestmark = [pytest.mark.engines, pytest.mark.requires("valkey"), pytest.mark.timeout(180)]
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
SHOTS = os.environ.get("DASHBOARD_SHOTS")
"""A folder to put pictures into, for people."""


@Endpoint(name="seen", cpu="any")
def seen(x: float) -> float:
    print("<img src=x onerror=document.title='taken'>", flush=True)
    if x < 0:
        raise ValueError("<script>document.title='taken'</script>")
    time.sleep(x)
    return x


@pytest.fixture(scope="module")
def theatre() -> Iterator[tuple[Rig, Gateway]]:
    with rig(lease_s=10.0) as made, gateway(made) as opened:
        made.ready_worker(seen)
        yield made, opened


@pytest.fixture
def page(theatre: tuple[Rig, Gateway]) -> Iterator[Any]:
    driver = pytest.importorskip("playwright.sync_api")
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("no chromium on this machine")
    with driver.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=list(FLAGS))
        made = browser.new_page(viewport={"width": 1280, "height": 900})
        made.problems = []
        made.on("pageerror", lambda error: made.problems.append(str(error)))
        made.on("console", lambda said: made.problems.append(said.text) if said.type == "error" else None)
        made.goto(theatre[1].url)
        yield made
        browser.close()


def shoot(page: Any, name: str) -> None:
    if SHOTS:
        page.screenshot(path=str(Path(SHOTS, f"{name}.png")), full_page=True)


def opened_at(page: Any, theatre: tuple[Rig, Gateway], where: str) -> Any:
    page.goto(f"{theatre[1].url}/#/{where}")
    return page.locator("main")


def row_of(page: Any, name: str) -> Any:
    return page.locator("tr", has=page.get_by_role("link", name=name, exact=True))


def test_it_shows_what_there_is_and_a_key_acts(
    theatre: tuple[Rig, Gateway], page: Any, tmp_path: Path
) -> None:
    made, _ = theatre
    failed = seen.spawn(-1)
    with pytest.raises(ValueError, match="taken"):
        failed.result(30)
    seen.remote(0.2)
    running = seen.spawn(60)
    waits = [seen.spawn(60) for _ in range(3)]

    # Endpoints with depth and workers, now and over time
    row = row_of(page, "seen")
    wait_until(lambda: row.locator("td").nth(1).inner_text() == "3", 20, "what waits to be shown")
    row.get_by_text("running of 1").wait_for()
    page.get_by_label("workers over time").locator(".fill-running").wait_for()
    shoot(page, "overview")

    # One of them, its jobs with why they wait
    row.get_by_role("link").click()
    waiting = row_of(page, waits[0].id)
    waiting.get_by_text("1 of at most 1 worker busy; none before it").wait_for()
    assert "in queue" in waiting.inner_text()
    shoot(page, "endpoint")

    # One job: where its time went, its lines as text, and its error
    page.get_by_role("link", name="All its jobs").click()
    page.get_by_label("Status").select_option("FAILED")
    page.get_by_role("link", name=failed.id).click()
    page.get_by_label("Output").get_by_text("<img src=x").wait_for()
    page.locator("pre.error").get_by_text("<script>").wait_for()
    assert page.get_by_text("execution").count() >= 1
    assert page.get_by_role("button", name="Retry").count() == 0  # nobody has signed in
    shoot(page, "job")

    # Without a key on record there is nothing to sign in with
    page.get_by_role("button", name="Sign in").click()
    page.get_by_label("API key").fill("fqk_x_y")
    page.locator("#enter").click()
    page.get_by_text("This gateway has no API keys").wait_for()
    page.locator("#leave").click()

    # With one it asks for it; signed in, it acts
    key = CommandLine(made.server.url, tmp_path)("apikeys", "make", "page").stdout.split()[-1]
    door = page.locator("dialog#door")
    door.wait_for()
    door.get_by_label("API key").fill(key[:-1])
    page.locator("#enter").click()
    page.get_by_text("this API key is not known").first.wait_for()
    shoot(page, "door")
    door.get_by_label("API key").fill(key)
    page.locator("#enter").click()
    page.get_by_role("button", name="Sign out page").wait_for()
    page.problems.clear()  # a browser notes each 401
    page.get_by_role("button", name="Retry").wait_for()
    opened_at(page, theatre, f"job/{running.id}")
    page.get_by_role("button", name="Cancel").click()
    assert made.job_field(running.id, "fq_state") == "running"  # it asks once more
    page.get_by_role("button", name="Really cancel?").click()
    wait_until(lambda: made.job_field(running.id, "fq_state") == "cancelled", what="the job to be cancelled")
    opened_at(page, theatre, "endpoint/seen")
    page.get_by_role("button", name="Purge queue").click()
    page.get_by_role("button", name="Cancel all").click()
    wait_until(
        lambda: made.job_field(waits[-1].id, "fq_state") == "cancelled", what="what waits to be cancelled"
    )
    page.get_by_role("button", name="Sign out page").click()
    door.wait_for()
    page.locator("#leave").click()
    page.get_by_text("Sign in to look").wait_for()
    page.wait_for_timeout(1500)  # what is to be shown is that it does not come back by itself
    assert not door.is_visible()

    # Nothing of what anybody wrote was taken for more than text
    page.problems = [one for one in page.problems if "401" not in one]
    assert page.title() == "flashq"
    assert page.problems == []
    for job in waits:
        job.cancel()
    for one in api_keys.listed(made.broker):
        api_keys.revoke(made.broker, one.id)


def test_a_hundred_endpoints_a_thousand_jobs_and_hostile_names(
    theatre: tuple[Rig, Gateway], page: Any
) -> None:
    made, _ = theatre
    shown = world(made.broker, endpoints=100, jobs=1000)
    page.emulate_media(color_scheme="dark")
    wait_until(lambda: page.locator("tbody tr").count() >= 103, 20, "all endpoints to be shown")
    shoot(page, "many")
    page.get_by_label("Filter endpoints by name").fill("hostile")
    row_of(page, "dash-hostile").get_by_text(HOSTILE).wait_for()
    assert page.locator("tbody tr").count() == 1

    opened_at(page, theatre, "jobs?status=IN_QUEUE&limit=1000")
    wait_until(lambda: page.locator("tbody tr").count() == 1000, 20, "all jobs to be shown")
    page.get_by_role("link", name=shown.hostile, exact=True).wait_for()
    shoot(page, "jobs")
    page.get_by_role("link", name=shown.hostile, exact=True).click()
    page.get_by_role("heading", name=shown.hostile).wait_for()
    page.locator("dd").get_by_text(HOSTILE).wait_for()  # the call, as it describes itself

    opened_at(page, theatre, f"job/{shown.running}")
    page.get_by_label("Output").get_by_text(HOSTILE).wait_for()
    opened_at(page, theatre, f"job/{shown.cold}")
    page.locator(".legend").get_by_text("setup 2.4 s").wait_for()
    shoot(page, "cold")
    opened_at(page, theatre, "hosts")
    page.get_by_text(HOSTILE).first.wait_for()
    page.get_by_text("9.0 GiB / 24.0 GiB").first.wait_for()
    shoot(page, "hosts")

    assert page.title() == "flashq"
    assert page.locator("main script, main img").count() == 0
    assert page.problems == []


def test_a_tab_that_is_not_seen_asks_for_nothing(theatre: tuple[Rig, Gateway], page: Any) -> None:
    page.get_by_text("live", exact=True).wait_for()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    wait_until(lambda: page.wait_for_timeout(50) or asked, what="the next look")
    page.evaluate(
        "Object.defineProperty(document, 'hidden', { value: true });"
        " document.dispatchEvent(new Event('visibilitychange'))"
    )
    page.wait_for_timeout(1500)  # one that is under way ends
    asked.clear()
    page.wait_for_timeout(2500)  # what is to be shown is that nothing happens
    assert asked == []
