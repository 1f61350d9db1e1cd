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
from tests.integration.command_line import CommandLine
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

    # Endpoints with depth and workers, jobs with why they wait
    card = page.locator("article[data-endpoint=seen]")
    wait_until(lambda: "3\nwaiting" in card.locator(".numbers").inner_text(), 20, "what waits to be shown")
    card.get_by_text("1 running").wait_for()
    page.locator("svg.chart").first.wait_for()  # it has been looked at for a while
    row = page.locator(f"tr[data-job={waits[0].id}]")
    row.wait_for()
    assert "IN_QUEUE" in row.inner_text()
    shoot(page, "overview")

    # One job: where its time went, its lines as text, and its error
    page.locator("#in").select_option("FAILED")
    page.locator(f"tr[data-job={failed.id}]").click()
    dialog = page.locator("dialog#job")
    dialog.get_by_text("<img src=x").wait_for()
    assert "<script>" in dialog.inner_text()
    assert dialog.locator(".bar span").count() >= 1
    assert dialog.get_by_role("button", name="Retry").count() == 0  # nobody has signed in
    shoot(page, "job")
    dialog.get_by_role("button", name="Close").click()

    # Signed in, it acts
    key = CommandLine(made.server.url, tmp_path)("apikeys", "make", "page").stdout.split()[-1]
    page.get_by_text("Sign in to look").wait_for()
    page.problems.clear()  # a browser notes each 401
    page.locator("#key").fill(key)
    page.locator("#sign-in button").click()
    page.locator("#in").select_option("")
    page.locator(f"tr[data-job={running.id}]").click()
    dialog.get_by_role("button", name="Cancel").click()
    wait_until(lambda: made.job_field(running.id, "fq_state") == "cancelled", what="the job to be cancelled")
    dialog.get_by_role("button", name="Close").click()
    page.on("dialog", lambda question: question.accept())
    card.get_by_role("button", name="Purge").click()
    wait_until(
        lambda: made.job_field(waits[-1].id, "fq_state") == "cancelled", what="what waits to be cancelled"
    )

    # Nothing of what anybody wrote was taken for more than text
    assert page.title() == "flashq"
    assert page.problems == []
    page.emulate_media(color_scheme="dark")
    shoot(page, "dark")
    for job in waits:
        job.cancel()
