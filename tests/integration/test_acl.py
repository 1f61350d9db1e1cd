"""The broker's users that `flashq keys acl` prints: each does all that its role does, and nothing that it does not."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

import flashq
from flashq import Endpoint, Retries
from flashq.cli import flashq as flashq_command
from flashq.errors import BrokerRefused, FlashqError, JobCancelled
from flashq.gateway.app import Options
from flashq.store import acl, api_keys, gateways
from flashq.store.broker import Broker, load
from flashq.store.keys import Keys
from tests.integration.command_line import CommandLine
from tests.integration.gateway_rig import gateway
from tests.integration.stack import Stack
from tests.rig import BrokerServer, Rig, wait_until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from flashq.store.command import Command

SERVERS = ["valkey", pytest.param("redis", marks=pytest.mark.requires("redis"))]
ROLES = tuple(acl.ROLES)
OPTIONAL = {"client|setinfo", "client", "config|get"}
"""What is asked of any broker, and does without an answer: redis-py's name and version; `appendfsync`."""


@Endpoint(name="acl", cpu="any", idle_timeout=5)
def double(n: int) -> int:
    print("doubling", n)
    if n < 0:
        raise ValueError("negative")
    return 2 * n


_APP = """
from flashq import Endpoint

@Endpoint(name="acl-app", cpu="any")
def triple(n: int) -> int:
    return 3 * n
"""


class Users:
    """A server whose users are those of `flashq keys acl`; its default user is the test's own."""

    def __init__(self, server: str, folder: Path, *options: str) -> None:
        self.server = BrokerServer(server)
        self.folder = folder
        self._own = Broker(self.server.socket_url)
        self.make(*options)

    def make(self, *options: str) -> None:
        """Make users as a person does: the commands that are printed, sent to the broker."""
        command = ("keys", "acl", "--passwords", str(self.folder), "--commands", *options)
        printed = CliRunner().invoke(flashq_command, command)
        assert printed.exit_code == 0, printed.output
        for line in printed.stdout.splitlines():
            assert self._own.execute(*line.split(" ")) in (b"OK", "OK")

    def url(self, user: str) -> str:
        password = (self.folder / user).read_text().strip()
        return f"unix://{user}:{password}@{self.server.folder}/s"

    def broker(self, user: str) -> Broker:
        """A connection as one of them."""
        return Broker(self.url(user), patience_s=0)

    def load(self) -> None:
        """Load the functions, as the admin does once."""
        with closing(self.broker("flashq-admin")) as broker, closing(broker.connect()) as line:
            load(line, broker.library)

    def denied(self) -> list[dict[str, str]]:
        """What the broker refused anybody, by its own record; not what may be refused."""
        found = []
        for entry in self._own.execute("ACL", "LOG"):
            words = [part.decode() if isinstance(part, bytes) else str(part) for part in entry]
            found.append(dict(zip(words[::2], words[1::2], strict=True)))
        return [entry for entry in found if entry["object"] not in OPTIONAL]

    def close(self) -> None:
        self._own.close()
        self.server.close()


class Deployment(Stack):
    """Host agent and autoscaler, each as its own user."""

    def __init__(self, rig: Rig, users: Users) -> None:
        self._users = users
        super().__init__(rig)

    def start(self, command: str, *further: str, **options: Any) -> subprocess.Popen[bytes]:
        return super().start(command, *further, **{**options, "url": self._users.url(f"flashq-{command}")})


@pytest.fixture(params=SERVERS)
def users(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Users]:
    with closing(Users(request.param, tmp_path / "passwords")) as made:
        yield made


def test_every_role_does_all_that_it_does(users: Users, tmp_path: Path) -> None:
    """Given a user per role, if each does its work, expect that the broker refused nobody anything."""
    users.load()
    users.server.url = users.url("flashq-client")
    with closing(Rig(users.server)) as rig, closing(Deployment(rig, users)) as stack:
        wait_until(stack.hosts, what="a host on record")

        # a client calls, waits, cancels, looks after what failed
        assert double.remote(4) == 8
        assert list(double.map(range(20), progress=False)) == [2 * n for n in range(20)]
        once = double.with_options(key="one")
        assert once.spawn(1).id == once.spawn(1).id
        later = double.with_options(delay_s=60).spawn(3)
        later.cancel().result(10)
        with pytest.raises(JobCancelled):
            later.result(10)
        failed = double.with_options(retries=Retries(1, delay_s=0.01, jitter=False)).spawn(-1)
        with pytest.raises(ValueError, match="negative"):
            failed.result(30)
        again = failed.requeue().result(10)
        with pytest.raises(ValueError, match="negative"):
            again.result(30)
        assert flashq.fetch_job(again.id).status().result(10) == "FAILED"
        double.queue.pause()
        held = double.spawn(5)
        double.queue.resume()
        assert held.result(30) == 10
        wait_until(lambda: "doubling 5" in "".join(held.logs()), what="its output")

        # so does the command line, as a client and as one who only looks
        client = CommandLine(users.url("flashq-client"), rig.home)
        assert client("call", "acl", "21").stdout.strip() == "42"
        viewer = CommandLine(users.url("flashq-viewer"), rig.home)
        for command in ("endpoints", "queues", "jobs", "workers", "hosts"):
            assert viewer.rows(command), command
        viewer("job", again.id)
        viewer("logs", held.id)
        viewer("status")
        assert "negative" in viewer("jobs", "--dead").stdout

        # a worker that is started by hand has a user of its own, and so may one that serves one endpoint
        users.make("worker", "--endpoint", "acl")
        for user in ("flashq-worker", "flashq-worker-acl"):
            worker = rig.worker(double, url=users.url(user))
            wait_until(lambda w=worker: rig.worker_field(w.id, "fq_state") == "idle", what=f"{user} idle")  # type: ignore[misc]
            assert double.remote(6) == 12
            worker.process.terminate()
            assert worker.wait() == 0

        # a standby takes over, and idle workers go
        second = stack.start("autoscaler", name="second")
        stack.autoscaler.terminate()
        assert stack.autoscaler.wait(20) == 0
        wait_until(lambda: not stack.workers(double), 30, "idle workers ended")
        assert double.remote(7) == 14
        second.terminate()
        assert second.wait(20) == 0

        # an app is deployed, its host prepares it, and a worker runs it
        (tmp_path / "acl-project").mkdir()
        (tmp_path / "acl-project" / "app.py").write_text(_APP)
        deployer = CommandLine(users.url("flashq-deployer"), tmp_path / "deployer")
        deployer("deploy", str(tmp_path / "acl-project"))
        worker = rig.worker("acl-app", url=users.url("flashq-worker"), home=tmp_path / "by-hand")
        assert Endpoint(id="acl-app").remote(4) == 12
        worker.process.terminate()
        assert worker.wait() == 0
        assert [row["app"] for row in viewer.rows("app", "list")] == ["acl-project"]
        deployer("endpoints", "acl-app", "--rollback", code=4)
        deployer("undeploy", "acl-project")

        client("purge", "acl", "--failed")
        client("undeploy", "acl")
        admin = CommandLine(users.url("flashq-admin"), tmp_path / "admin")
        admin("keys", "list")
        assert users.denied() == []


FORBIDDEN: list[tuple[str, ...]] = [
    ("EVAL", "return 1", "0"),
    ("SCRIPT", "LOAD", "return 1"),
    ("FUNCTION", "FLUSH"),
    ("FUNCTION", "DUMP"),
    ("CONFIG", "GET", "dir"),
    ("CONFIG", "SET", "dir", "/tmp"),
    ("KEYS", "*"),
    ("SCAN", "0"),
    ("FLUSHALL",),
    ("FLUSHDB",),
    ("ACL", "LIST"),
    ("ACL", "SETUSER", "me", "+@all"),
    ("MONITOR",),
    ("SHUTDOWN", "NOSAVE"),
    ("CLIENT", "LIST"),
    ("REPLICAOF", "NO", "ONE"),
    ("MODULE", "LIST"),
    ("SAVE",),
    ("DUMP", "rq:fq:endpoints"),
    ("GET", "another:key"),
    ("SET", "another:key", "x"),
]
LOAD_FUNCTION = (
    "FUNCTION",
    "LOAD",
    "#!lua name=evil\nredis.register_function('evil', function() return 1 end)",
)

NOT_THEIRS: list[tuple[str, tuple[str, ...]]] = [
    ("viewer", ("HSET", "rq:job:acl-1", "status", "queued")),
    ("viewer", ("DEL", "rq:queue:acl")),
    ("viewer", ("LPUSH", "rq:fq:bell:acl-1", "drain")),
    ("viewer", ("GET", "rq:fq:revision:acl:0")),
    ("client", ("RPUSH", "rq:fq:commands:host", "x")),
    ("client", ("HSET", "rq:fq:leader", "holder", "me")),
    ("client", ("ZADD", "rq:fq:hosts", "1", "me")),
    ("worker", ("HGETALL", "rq:job:acl-1")),
    ("worker", ("SUBSCRIBE", "rq:fq:push:somebody")),
    ("worker", ("ZADD", "rq:fq:standbys", "1", "me")),
    ("worker", ("HSET", "rq:fq:leader", "holder", "me")),
    ("worker", ("SMEMBERS", "rq:fq:endpoints")),
    ("host", ("SUBSCRIBE", "rq:fq:push:somebody")),
    ("host", ("ZADD", "rq:fq:standbys", "1", "me")),
    ("host", ("HSET", "rq:fq:leader", "holder", "me")),
    ("autoscaler", ("GET", "rq:fq:revision:acl:0")),
    ("autoscaler", ("XREAD", "STREAMS", "rq:fq:logs:acl-1", "0")),
    ("autoscaler", ("SUBSCRIBE", "rq:fq:push:somebody")),
    ("gateway", ("RPUSH", "rq:fq:commands:host", "x")),
    ("client", ("SET", "rq:fq:artifact:0:0", "x")),
    ("worker", ("SET", "rq:fq:artifact:0:0", "x")),
    ("viewer", ("GET", "rq:fq:artifact:0:0")),
    ("deployer", ("HSET", "rq:fq:leader", "holder", "me")),
]


def refused(broker: Broker, command: Sequence[str]) -> bool:
    try:
        broker.execute(*command)
    except BrokerRefused as error:
        return "NOPERM" in str(error)
    return False


@pytest.mark.parametrize("role", ROLES)
def test_no_role_runs_code_or_looks_elsewhere(role: str, users: Users) -> None:
    """Given a user of each role, if it runs code on the broker, looks around, stops or changes it, expect refusals."""
    with closing(users.broker(f"flashq-{role}")) as broker:
        assert [command for command in FORBIDDEN if not refused(broker, command)] == []
        assert refused(broker, LOAD_FUNCTION) == (role != "admin")


def test_no_role_does_the_work_of_another(users: Users) -> None:
    """Given a user of each role, if it does directly what others do, expect a refusal."""
    for role, command in NOT_THEIRS:
        with closing(users.broker(f"flashq-{role}")) as broker:
            assert refused(broker, command), (role, command)


def test_a_script_of_another_role_is_refused_and_changes_nothing(users: Users) -> None:
    """Given the functions, if a role calls those of others, expect the keys that it lacks to stop it."""
    users.load()
    transitions = Broker(users.server.socket_url).transitions
    lead = transitions.lead("me", lease_ms=1000, fields={}, take_over=True)
    beat = transitions.host_beat("me", lease_ms=1000, fields={"hostname": "me"})
    pause = transitions.pause("acl")
    calls: list[tuple[Command[Any], str]] = [
        *((lead, role) for role in ("client", "worker", "host", "gateway", "viewer")),
        *((beat, role) for role in ("client", "worker", "gateway", "viewer")),
        (pause, "viewer"),
    ]
    for command, role in calls:
        refusal = pytest.raises(FlashqError, match=r"(?i)perm|can't access")
        with closing(users.broker(f"flashq-{role}")) as broker, refusal:
            broker.run(command)
    with closing(Broker(users.server.socket_url)) as own:
        assert not own.execute("EXISTS", "rq:fq:leader", "rq:fq:hosts", "rq:fq:host:me", "rq:fq:standbys")


def test_a_user_of_one_endpoint_is_kept_to_it(users: Users) -> None:
    """Given users of endpoint `embed`, if they touch `embed-large`, or another prefix, expect refusals."""
    users.make("client", "worker", "--endpoint", "embed")
    mine, other = (f"{name}-{'0' * 36}" for name in ("embed", "embed-large"))
    for role in ("client", "worker"):
        with closing(users.broker(f"flashq-{role}-embed")) as broker:
            assert not refused(broker, ("HGET", f"rq:job:{mine}", "status"))
            for command in [
                ("HGET", f"rq:job:{other}", "status"),
                ("HGET", "rq:fq:endpoint:embed-large", "revision"),
                ("HGET", f"other:job:{mine}", "status"),
            ]:
                assert refused(broker, command), (role, command)


def test_a_missing_library_is_said_to_who_may_not_load_it(users: Users) -> None:
    """Given a broker without flashq's functions, if a client calls, expect an error that says who loads them."""
    users.server.url = users.url("flashq-client")
    with closing(Rig(users.server)):
        with pytest.raises(BrokerRefused, match="flashq doctor --load"):
            double.spawn(1)
        users.load()
        assert double.spawn(1).id


def test_every_key_and_script_is_somebodys() -> None:
    """Given the tables of keys and scripts, expect each script to have a role, and rules in which each key occurs."""
    from flashq.store.keys import NAMES
    from flashq.store.scripts import script_names

    working = {name for role, terms in acl.ROLES.items() if role != "admin" for name in terms.scripts}
    operators = {"claim", "rekey", "key_uses", "hold", "unhold", "restart", "host_drain"}
    assert set(script_names()) - working == operators
    admin = " ".join(acl.user("admin", Keys("rq"), "x" * 16).rules)
    assert [name for name, key in NAMES.items() if f"rq:{key}" not in admin] == []


def test_passwords_are_kept_private_and_only_hashes_are_printed(tmp_path: Path) -> None:
    """Given no passwords, if users are made twice, expect the same lines, hashes in them, and files for their owner."""
    folder = tmp_path / "passwords"
    arguments = ("keys", "acl", "--passwords", str(folder))
    first, again = (CliRunner().invoke(flashq_command, arguments) for _ in range(2))
    assert first.exit_code == 0
    assert first.stdout == again.stdout
    files = {file.name: file.read_text().strip() for file in folder.iterdir()}
    assert sorted(files) == sorted(f"flashq-{role}" for role in ROLES)
    assert all(file.stat().st_mode & 0o077 == 0 for file in folder.iterdir())
    assert not any(password in first.stdout for password in files.values())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "say where passwords are"),
        (("--password-stdin",), "for one ROLE"),
        (("host", "--endpoint", "acl", "--passwords", "p"), "not of one endpoint"),
        (("worker", "--endpoint", "a b", "--passwords", "p"), "no name of an endpoint"),
        (("nobody", "--passwords", "p"), "nobody"),
        (("viewer", "--password-stdin"), "at least 16 characters"),
    ],
)
def test_wrong_usage_is_said(
    arguments: tuple[str, ...], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given options that make no sense, expect an error that names what is wrong."""
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(flashq_command, ("keys", "acl", *arguments), input="short\n")
    assert result.exit_code in (1, 2)
    assert words in result.output + str(result.exception)


def test_the_gateway_does_all_that_it_does(users: Users) -> None:
    """Given the gateway's own user, if everything is asked of it, expect that the broker refused it nothing."""
    users.load()
    users.server.url = users.url("flashq-client")
    with closing(Rig(users.server)) as rig:
        rig.worker(double, url=users.url("flashq-worker"))
        rig.settings = replace(rig.settings, redis_url=users.url("flashq-gateway"))
        with gateway(rig, Options(address="http://127.0.0.1:1")) as made:
            job = made.post("/v2/acl/runsync", {"input": {"n": 4}, "options": {"key": "one"}}).body
            assert job["output"] == 8
            failed = made.post("/v2/acl/runsync", {"input": {"n": -1}}).body["id"]
            assert made.post(f"/v2/acl/retry/{failed}").status == 200
            assert made.post(f"/v2/acl/cancel/{failed}").status == 200
            assert made.get(f"/v2/acl/stream/{failed}").status == 200
            assert made.get("/v2/acl/health").status == 200
            assert made.post("/v2/acl/purge-queue").status == 200
            assert made.get("/metrics").status == 200
            waiting = made.post("/v2/acl/run", {"input": {"n": 1}, "policy": {"lowPriority": True}}).body[
                "id"
            ]
            for path in ("now", "jobs", f"jobs/{failed}", f"jobs/{waiting}", "endpoints/acl"):
                assert made.get(f"/-/view/{path}").status == 200, path
            assert made.get("/readyz").status == 200
            assert "/v2/acl/run" in made.get("/openapi.json").body["paths"]
            with closing(users.broker("flashq-viewer")) as viewer:
                assert gateways.listed(viewer) == ["http://127.0.0.1:1"]
            with closing(users.broker("flashq-admin")) as admin:
                key, record = api_keys.make(admin, "of the admin")
                wait_until(lambda: made.get("/v2/acl/health").status == 401)
                assert made.get("/v2/acl/health", Authorization=key).status == 200
                assert api_keys.listed(admin)
                assert api_keys.revoke(admin, record.id)
            with closing(users.broker("flashq-viewer")) as viewer, pytest.raises(BrokerRefused):
                api_keys.listed(viewer)
        assert [entry for entry in users.denied() if "viewer" not in entry["username"]] == []
