"""Images that serve HTTP by themselves, by a stand-in for the engine (tests/engines has a real one)."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from flashq import Endpoint
from flashq.errors import EndpointFailed, HttpError, JobCancelled, SpecError, UnsupportedCall, WorkerCrashed
from flashq_worker.containers.server import judged, published
from tests.integration.engine_stand_in import StandIn
from tests.integration.executor_rig import is_running, until
from tests.rig import rig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig import Rig

pytestmark = pytest.mark.requires("valkey")
IMAGE = "registry.example/server:1"
SERVER = """
import http.server, json, os, threading, time

together = threading.Barrier(20)

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    asked = 0
    def answer(self, status, body, kind="application/json"):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        if self.path == "/ping":  # the first two times it is not ready yet
            Handler.asked += 1
            return self.answer(204 if Handler.asked < 3 else 200, b"")
        if self.path == "/together":  # answered when twenty are here
            together.wait(20)
            return self.answer(200, b"1")
        if self.path == "/slow":
            time.sleep(60)
        if self.path == "/text":
            return self.answer(200, "grün".encode(), "text/plain; charset=utf-8")
        if self.path == "/bytes":
            return self.answer(200, bytes(range(256)), "application/octet-stream")
        if self.path == "/end":
            os.abort()
        if self.path == "/pieces":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for n in range(3):
                self.wfile.write(b"6\\r\\npiece%d\\r\\n" % n)
            self.wfile.write(b"0\\r\\n\\r\\n")
            return
        self.answer(404, b'{"detail": "no such thing"}')
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        told = {"path": self.path, "type": self.headers["Content-Type"], "asked": Handler.asked,
                "said": body.decode("latin-1"), "of": self.headers.get("X-Of"), "secret": os.environ.get("SECRET"),
                "port": os.environ.get("PORT"), "pid": os.getpid()}
        self.answer(200, json.dumps(told).encode())
    def log_message(self, *args):
        print("asked for", self.path, flush=True)

http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["LISTEN"])), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    made = StandIn(tmp_path_factory.mktemp("engine") / "bin")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", made.variables["PATH"])
        made.serves(SERVER)
        yield made
    made.close()


@pytest.fixture
def serving(engine: StandIn) -> Iterator[StandIn]:
    yield engine
    engine.answers({})
    engine.serves(SERVER)


@pytest.fixture(scope="module")
def shared(engine: StandIn) -> Iterator[Rig]:
    with rig(lease_s=10.0) as made:
        yield made


def ready(shared: Rig, name: str, **parameters: Any) -> tuple[Endpoint, Any]:
    endpoint = Endpoint(name=name, cpu="any", image=IMAGE, max_deliveries=1, **parameters)
    return endpoint, shared.ready_worker(endpoint.__flashq_function__, cpus=1.0, memory_bytes=2**32)


def test_requests_reach_the_server_and_answers_come_back(shared: Rig, engine: StandIn) -> None:
    llm, worker = ready(shared, "served", env={"PORT": "8000", "SECRET": "canary-served"})
    told = llm.post("/v1/x?a=1", {"n": 1}, params={"b": "ü", "c": [True, 2]}, headers={"X-Of": "me"}).result(
        30
    )
    assert told["path"] == "/v1/x?a=1&b=%C3%BC&c=true&c=2"
    assert (told["type"], told["said"], told["of"]) == ("application/json", '{"n": 1}', "me")
    assert told["asked"] == 3  # it was waited for
    assert (told["secret"], told["port"]) == ("canary-served", "8000")
    assert llm.post("/raw", b"\xff\x00").result(30)["said"] == "ÿ\x00"
    shorter = llm.post("/raw", b"all of it", headers={"Content-Length": "3"})
    assert shorter.result(30)["said"] == "all of it"  # the rest would be another request
    assert llm.get("/text").result(30) == "grün"
    assert llm.get("/bytes").result(30) == bytes(range(256))
    assert b"".join(llm.get("/pieces").stream()) == b"piece0piece1piece2"
    with pytest.raises(HttpError, match=r"GET /nothing: 404: .*no such thing") as refused:
        llm.get("/nothing").result(30)
    assert (refused.value.status, json.loads(refused.value.body)) == (404, {"detail": "no such thing"})
    with pytest.raises(HttpError, match="404"):
        list(llm.get("/nothing").stream())
    answer = llm.get("/nothing").spawn().result(30)
    assert (answer["status"], answer["headers"]["content-type"]) == (404, "application/json")
    (run,) = [words for words in engine.told("run") if f"flashq-{worker.id}" in words]
    assert {"--publish=127.0.0.1::8000", "--cpus=1", f"--memory={2**32}", "--env=SECRET"} <= set(run)
    assert run[-1] == IMAGE
    assert "canary-served" not in json.dumps(engine.told("run"))
    # by its name, as another program has it
    assert Endpoint(id="served").get("/text").result(30) == "grün"


def test_a_slow_request_is_cancelled_and_the_server_stays(shared: Rig, engine: StandIn) -> None:
    llm, _ = ready(shared, "served-slowly", max_concurrency=2)
    pid = llm.post("/").result(30)["pid"]
    job = llm.get("/slow").spawn()
    until(lambda: shared.job_field(job.id, "fq_state") == "running")
    job.cancel().result(10)
    with pytest.raises(JobCancelled):
        job.result(30)
    assert llm.post("/").result(30)["pid"] == pid


def test_as_many_requests_as_it_says_are_with_the_server_at_once(shared: Rig, engine: StandIn) -> None:
    llm, _ = ready(shared, "served-wide", max_concurrency=20)
    jobs = [llm.get("/together").spawn() for _ in range(20)]
    assert {job.result(30)["status"] for job in jobs} == {200}


def test_a_server_that_ends_takes_its_request_along_and_another_begins(shared: Rig, engine: StandIn) -> None:
    llm, worker = ready(shared, "served-once")
    pid = llm.post("/").result(30)["pid"]
    with pytest.raises(WorkerCrashed):
        llm.get("/end").result(30)
    assert llm.post("/").result(30)["pid"] != pid
    begun = [words for words in engine.told("run") if f"flashq-{worker.id}" in words]
    assert len(begun) == 2


def test_no_server_outlives_its_supervisor(shared: Rig, engine: StandIn) -> None:
    llm, worker = ready(shared, "served-orphan")
    pid = llm.post("/").result(30)["pid"]
    runners = psutil.Process(worker.process.pid).children(recursive=True)
    worker.signal(signal.SIGKILL)
    until(lambda: not [each for each in (pid, *(one.pid for one in runners)) if is_running(each)])


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import sys; print('no such model', flush=True); sys.exit(3)", r"ended with code 3"),
        ("raise SystemExit(0)", "ended with code 0"),
    ],
)
def test_a_server_that_does_not_come_up_fails_its_jobs_with_its_last_words(
    shared: Rig, serving: StandIn, code: str, says: str
) -> None:
    serving.serves(code)
    llm = Endpoint(name=f"served-never-{len(says)}", cpu="any", image=IMAGE)
    job = llm.get("/").spawn()
    for _ in range(2):
        shared.worker(llm.__flashq_function__.name, cpus=1.0).process.wait(30)
    with pytest.raises(EndpointFailed, match=says) as failed:
        job.result(30)
    assert "no such model" in str(failed.value) or "0" in says


def test_what_means_nothing_to_such_an_image_is_refused() -> None:
    with pytest.raises(SpecError, match="nothing is installed"):
        Endpoint(name="served-a", image=IMAGE, dependencies=["numpy"]).get("/").spawn()
    with pytest.raises(SpecError, match="gathers requests itself"):
        Endpoint(name="served-b", image=IMAGE, batch=(2, 5)).get("/").spawn()
    with pytest.raises(SpecError, match="PORT='http' is no port"):
        Endpoint(name="served-c", image=IMAGE, env={"PORT": "http"}).get("/").spawn()
    with pytest.raises(SpecError, match="needs one"):
        Endpoint(image=IMAGE).get("/").spawn()
    with pytest.raises(UnsupportedCall, match="runs on workers alone"):
        Endpoint(name="served-d", image=IMAGE).__flashq_function__.local()


@pytest.mark.parametrize(
    ("said", "at"),
    [
        ("127.0.0.1:49153\n", "127.0.0.1:49153"),
        ("80/tcp -> 0.0.0.0:49154\n80/tcp -> [::]:49154\n", "127.0.0.1:49154"),
        ("", ""),
        ("Error: no such container\n", ""),
        ("127.0.0.1:0", ""),
    ],
)
def test_what_engines_say_of_ports(said: str, at: str) -> None:
    assert published(said) == at


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (125, 75, "was begun"),
        (127, 78, "start command"),
        (126, 78, "start command"),
        (1, 78, "ended with code 1"),
        (137, -9, "was killed"),
    ],
)
def test_how_servers_end(status: int, code: int, says: str) -> None:
    found = judged(status, IMAGE)
    assert found[0] == code
    assert says in found[1]
