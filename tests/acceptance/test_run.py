"""`flashq run`: a project served while it is written, from a terminal."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from flashq.dev.aliases import Aliases
from flashq.dev.project import LiveEndpoint
from tests.rig import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.requires("valkey"), pytest.mark.timeout(120)]

WORKER = '''\
from flashq import Endpoint


@Endpoint(name="shout", cpu="any")
def shout(text: str, times: int = 1) -> str:
    """Says it louder."""
    print("asked to shout", flush=True)
    return text.upper() * times
'''
API = """\
import time

from flashq import Endpoint

api = Endpoint(name="pets", cpu="any")


@api.get("/pets/{number}")
def pet(number: int, kind: str = "cat") -> dict:
    "One of them."
    return {"number": number, "kind": kind}


@api.post("/pets")
def add(pet: dict) -> dict:
    "One more."
    return {"added": pet}


@api.get("/slow")
def slow(seconds: float) -> str:
    time.sleep(seconds)
    return "as it was"


@Endpoint(name="other", cpu="any")
def other(n: int) -> int:
    return n + 1
"""


class Running:
    """`flashq run` in a folder."""

    def __init__(self, folder: Path, home: Path, *words: str) -> None:
        self.out = home / "out"
        environ = {name: value for name, value in os.environ.items() if not name.startswith("FLASHQ_")}
        environ |= {"FLASHQ_HOME": str(home), "COLUMNS": "150", "PYTHONUNBUFFERED": "1"}
        with self.out.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "flashq", "run", *words],
                cwd=folder,
                env=environ,
                stdout=out,
                stderr=out,
            )
        self.environ = environ

    def told(self) -> str:
        return self.out.read_text("utf-8", "replace")

    def until(self, text: str, times: int = 1, within_s: float = 60.0) -> str:
        def there() -> bool:
            assert self.process.poll() is None or text in self.told(), self.told()
            return self.told().count(text) >= times

        try:
            wait_until(there, within_s, text)
        except AssertionError:
            raise AssertionError(self.told()) from None
        return self.told()

    @property
    def port(self) -> int:
        line = next(line for line in self.told().splitlines() if line.startswith("serving at "))
        return int(line.split(" ")[2].rpartition(":")[2])

    def ask(self, method: str, path: str, body: Any = None, timeout_s: float = 60.0) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            raw = None if body is None else json.dumps(body).encode()
            connection.request(method, path, raw, {"Content-Type": "application/json"} if raw else {})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"null")
        finally:
            connection.close()

    def cli(self, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "flashq", *words],
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.stdout + done.stderr

    def end(self) -> str:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        self.process.wait(40)
        return self.told()


@contextmanager
def running(tmp_path: Path, files: dict[str, str], *words: str) -> Iterator[Running]:
    folder, home = tmp_path / "project", tmp_path / "h"
    home.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    made = Running(folder, home, *words)
    try:
        yield made
    finally:
        if made.process.poll() is None:
            made.end()
        made.cli("down")


def test_a_project_is_served_and_loaded_again_when_it_is_saved(tmp_path: Path) -> None:
    with running(tmp_path, {"worker.py": WORKER, "web/api.py": API, "notes.py": "1 +"}) as made:
        made.until("serving at ")
        told = made.told()
        assert "live-shout" in told
        assert "POST /worker/runsync" in told
        assert "Says it louder." in told
        abouts = [" ".join(line.split()[1:]) for line in told.splitlines() if line.startswith("live-pets")]
        assert abouts == [
            "GET /web/api/pets/{number} One of them.",
            "POST /web/api/pets One more.",
            "GET /web/api/slow",
        ]
        assert made.port >= 8888

        # Functions at their files' addresses, and at Runpod's
        status, job = made.ask("POST", "/worker/runsync", {"input": {"text": "hi", "times": 2}})
        assert (status, job["output"]) == (200, "HIHI")
        assert made.ask("POST", "/v2/shout/runsync", {"input": {"text": "a"}})[1]["output"] == "A"
        assert made.ask("POST", "/web/api/other/runsync", {"input": {"n": 1}})[1]["output"] == 2
        status, refused = made.ask("POST", "/worker/runsync", {"input": {"text": 7}})
        assert (status, refused["field"]) == (422, "input.text")
        # Routes
        assert made.ask("GET", "/web/api/pets/7?kind=dog") == (200, {"number": 7, "kind": "dog"})
        assert made.ask("POST", "/web/api/pets", {"name": "Rex"})[1] == {"added": {"name": "Rex"}}
        assert made.ask("GET", "/pets/pets/7")[1]["number"] == 7
        assert made.ask("GET", "/nothing/at/all")[0] == 404
        # What jobs print is shown
        made.until("| asked to shout", 2)
        # The explorer knows them
        explorer = made.ask("GET", "/openapi.json")[1]["paths"]
        assert {"/worker/runsync", "/web/api/other/run", "/web/api/pets/{number}"} <= set(explorer)
        schema = explorer["/worker/runsync"]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert schema["properties"]["input"]["properties"]["text"] == {"type": "string"}
        names = [each["name"] for each in explorer["/web/api/pets/{number}"]["get"]["parameters"]]
        assert names == ["number", "kind"]

        # A saved file is what runs from then on; a job that runs goes on as it was
        slow = subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:{made.port}/web/api/slow?seconds=4').read().decode())",
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        wait_until(
            lambda: "in progress" in made.cli("jobs", "--endpoint", "live-pets").lower().replace("_", " "), 30
        )
        project = tmp_path / "project"
        (project / "worker.py").write_text(WORKER.replace("text.upper()", "text.lower()"))
        assert made.until("reloaded in ").rstrip().endswith(" s: live-shout")
        assert made.ask("POST", "/worker/runsync", {"input": {"text": "HI"}})[1]["output"] == "hi"
        (project / "web/api.py").write_text(API.replace("as it was", "as it is"))
        made.until("reloaded in ", 2)
        assert slow.communicate(timeout=60)[0].strip() == '"as it was"'
        assert made.ask("GET", "/web/api/slow?seconds=0")[1] == "as it is"

        # What is broken does not take away what was good
        (project / "worker.py").write_text("from flashq import Endpoint\ndef broken(:\n")
        made.until("worker.py")
        made.until("SyntaxError")
        assert made.ask("POST", "/worker/runsync", {"input": {"text": "HI"}})[1]["output"] == "hi"

        # An endpoint that is no more is taken away
        (project / "worker.py").unlink()
        made.until("reloaded in ", 3)
        wait_until(lambda: "live-shout" not in made.cli("endpoints"), 30, "it to be taken away")
        assert made.ask("POST", "/worker/runsync", {"input": {"text": "HI"}})[0] in (404, 405)

        # Nothing of it is left in the end
        up = subprocess.Popen(
            [sys.executable, "-m", "flashq", "up"],
            env=made.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            assert up.stdout is not None
            assert b"up in " in up.stdout.readline()
            assert "live-" in made.cli("endpoints")
            made.end()
            assert made.process.returncode in (0, 130)
            assert "live-" not in made.cli("endpoints")
        finally:
            up.send_signal(signal.SIGINT)
            up.communicate(timeout=60)


def test_a_file_alone_at_a_port_of_ones_choice_provisioned(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        taken.listen()
        with running(tmp_path, {"worker.py": WORKER}, "worker.py", "--port", str(port)) as refused:
            assert refused.process.wait(60) == 1
            assert "Address already in use" in refused.told()
    with running(
        tmp_path / "b",
        {"worker.py": WORKER, "web/api.py": API},
        "worker.py",
        "--port",
        str(port),
        "--auto-provision",
        "--no-reload",
    ) as made:
        made.until("serving at ")
        assert made.port == port
        assert "live-pets" not in made.told()
        wait_until(lambda: "idle" in made.cli("workers"), 30, "a worker that nobody called for")


FLASH = """
from runpod_flash import DataCenter, Endpoint, GpuType

@Endpoint(name="flash.gpu", gpu=GpuType.NVIDIA_H200, datacenter=DataCenter.EU_RO_1)
async def hello(data: dict) -> dict:
    "Says hello."
    from words import polite
    return {"said": polite(data["name"])}

api = Endpoint(name="flash-api", cpu="cpu5c-8-16")

@api.get("/health")
def health() -> dict:
    return {"status": "ok"}

@api.post("/greet")
async def greet(data: dict) -> dict:
    return await hello(data)
"""


def test_a_project_that_is_written_for_flash_is_served_as_flash_does(tmp_path: Path) -> None:
    # Given a file of Flash's users: a function and routes
    files = {
        "workers/gpu.py": FLASH,
        "words.py": "def polite(name): return f'Dear {name}'\n",
        ".env": "GREETING=Hi\n",
    }
    with running(tmp_path, files, "--compat") as made:
        made.until("serving at ")

        # Expect both where `flash dev` has them, a route of one's own before the job API's
        body = {"input": {"data": {"name": "Ann"}}}
        status, job = made.ask("POST", "/workers/gpu/runsync", body)
        assert (status, job["status"], job["output"]) == (200, "COMPLETED", {"said": "Dear Ann"})
        assert made.ask("POST", "/workers/gpu/hello/runsync", body)[1]["output"] == {"said": "Dear Ann"}
        assert made.ask("GET", "/workers/gpu/health") == (200, {"status": "ok"})
        asked = made.ask("POST", "/workers/gpu/greet", {"data": {"name": "Bob"}})
        assert asked == (200, {"said": "Dear Bob"})

        # If it is saved, expect what is not as it says to have been said once, and what its file .env sets
        told = made.told()
        assert ["set GREETING as" in told, told.count("are preferred"), told.count("are the cloud's")] == [
            True,
            1,
            1,
        ]
        (tmp_path / "project/words.py").write_text("def polite(name): return f'Hi {name}'\n")
        assert made.until("reloaded in ").count("are preferred") == 1


def test_what_cannot_be_served_is_refused(tmp_path: Path) -> None:
    with running(tmp_path, {"a.txt": ""}) as empty:
        empty.until("has no Python files")
    with running(tmp_path / "c", {"gpu.py": "from runpod_flash import Endpoint\n"}) as flashs:
        flashs.until("No module named 'runpod_flash' (flashq run --compat serves what is written for it)")
    with running(tmp_path / "b", {"worker.py": WORKER}, "--host", "0.0.0.0") as beyond:
        assert beyond.process.wait(60) == 2
        assert "one's own machine" in beyond.told()


def test_a_project_that_is_broken_at_first_or_calls_while_it_is_imported(tmp_path: Path) -> None:
    """Given files that cannot be imported yet, expect that to be said, and a save to serve them."""
    with running(tmp_path, {"worker.py": "from flashq import Endpoint\ndef broken(:\n"}) as made:
        made.until("nothing is served yet")
        assert "served last" not in made.told()
        file = tmp_path / "project/worker.py"
        file.write_text(f"{WORKER}\nprint('imported')\nshout.remote('at once')\n")
        told = made.until("it calls an endpoint while it is imported")
        assert "worker.py:11" in told
        file.write_text(f"{WORKER}\nprint('imported')\n")
        assert made.until("reloaded in ").rstrip().endswith(": live-shout")
        assert "\nimported\n" in made.told()
        assert made.ask("POST", "/worker/runsync", {"input": {"text": "a"}})[1]["output"] == "A"


def test_two_at_once(tmp_path: Path) -> None:
    """Given the same project served twice, expect the end of one to take nothing away from the other."""
    with running(tmp_path, {"worker.py": WORKER}) as made:
        made.until("serving at ")
        other_out = tmp_path / "other"
        with other_out.open("wb") as out:
            other = subprocess.Popen(
                [sys.executable, "-m", "flashq", "run"],
                cwd=tmp_path / "project",
                env=made.environ,
                stdout=out,
                stderr=out,
            )
        wait_until(lambda: "serving at " in other_out.read_text(), 60, "the other")
        other.send_signal(signal.SIGINT)
        other.wait(40)
        assert made.ask("POST", "/worker/runsync", {"input": {"text": "a"}})[1]["output"] == "A"


def test_ctrl_c_while_files_are_imported(tmp_path: Path) -> None:
    """Given an import that takes a minute, expect the end at once, and nothing of it to go on."""
    slow = (
        "import flashq, os, pathlib, time\npathlib.Path('pid').write_text(str(os.getpid()))\ntime.sleep(60)\n"
    )
    with running(tmp_path, {"worker.py": slow}) as made:
        pid = tmp_path / "project/pid"
        wait_until(lambda: pid.exists() and pid.read_text() != "", 60, "the import")
        began = time.monotonic()
        made.end()
        assert time.monotonic() - began < 20
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid.read_text()), 0)


LIVE = (
    LiveEndpoint("gpu.py", "a", "live-a", ""),
    LiveEndpoint("two.py", "b", "live-b", ""),
    LiveEndpoint("two.py", "c", "live-c", ""),
    LiveEndpoint("app/web.py", "api", "live-web", ""),
    LiveEndpoint("app/web.py", "job", "live-job", ""),
)


@pytest.mark.parametrize(
    ("path", "address"),
    [
        ("/gpu/runsync", "/v2/live-a/runsync"),
        ("/gpu/a/run", "/v2/live-a/run"),
        ("/gpu/status/live-a-7", "/v2/live-a/status/live-a-7"),
        ("/two/runsync", "/two/runsync"),
        ("/two/c/runsync", "/v2/live-c/runsync"),
        ("/app/web/x/y", "/live-web/x/y"),
        ("/app/web/job/runsync", "/v2/live-job/runsync"),
        ("/app/web/runsync", "/v2/live-job/runsync"),
        ("/app/web/health", "/live-web/health"),
        ("/gpu/health", "/v2/live-a/health"),
        ("/v2/a/health", "/v2/live-a/health"),
        ("/v2/live-a/health", "/v2/live-a/health"),
        ("/v2/elsewhere/run", "/v2/elsewhere/run"),
        ("/web/x", "/live-web/x"),
        ("/docs", "/docs"),
        ("/", "/"),
    ],
)
def test_addresses(path: str, address: str) -> None:
    aliases = Aliases(LIVE, {"live-web": ("GET /x/{y}", "GET /health"), "live-a": ("",)})
    assert aliases.address(path) == address


def test_time_of_a_reload(tmp_path: Path) -> None:
    """Given a save, expect what it says to be served within a second or so (docs: what was measured)."""
    with running(tmp_path, {"worker.py": WORKER}) as made:
        made.until("serving at ")
        began = time.monotonic()
        (tmp_path / "project/worker.py").write_text(WORKER.replace("upper", "title"))
        made.until("reloaded in ")
        assert time.monotonic() - began < 10  # a machine may be busy
