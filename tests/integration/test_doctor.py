"""`flashq doctor` on real brokers, well and ill: what it finds, what it says to do, and how it ends."""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from flashq import Endpoint
from flashq.cli import flashq
from flashq.errors import BrokerRefused, BrokerUnreachable
from flashq.store import acl
from flashq.store.broker import Broker
from flashq.store.keys import Keys
from flashq.store.line import pack
from tests.certificates import Authority
from tests.integration.command_line import CommandLine
from tests.integration.stack import Stack
from tests.rig import BrokerServer, Rig, free_port, halt, wait_until
from tests.sentinels import SentinelSet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(120)
UNWELL = 7


@Endpoint(name="examined", cpu="any", workers=(0, 1))
def examined(number: int) -> int:
    return 10 // number


def findings(doctor: CommandLine, *options: str, code: int = 0) -> dict[str, dict[str, Any]]:
    """What it found, by check."""
    import json

    rows = json.loads(doctor("doctor", "--json", *options, code=code).stdout)
    assert len({row["check"] for row in rows}) == len(rows)
    return {row["check"]: row for row in rows}


def states(found: dict[str, dict[str, Any]], *, without: str = "ok skipped") -> dict[str, str]:
    return {check: row["state"] for check, row in found.items() if row["state"] not in without.split()}


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[BrokerServer]:
    with closing(BrokerServer(getattr(request, "param", "valkey"), appendonly="always")) as made:
        yield made


@pytest.mark.requires("valkey")
def test_a_whole_deployment_is_well_and_an_ended_one_is_not(tmp_path: Path) -> None:
    # Given a broker, a host and an autoscaler, with one job done and one failed
    with closing(Rig(appendonly="always")) as rig:
        doctor = CommandLine(rig.server.url, tmp_path)
        with closing(Stack(rig)) as stack:
            assert examined.remote(2) == 5
            with pytest.raises(ZeroDivisionError):
                examined.remote(0)
            wait_until(stack.hosts)

            # Expect nothing to fail; the socket of the test lets anybody of this machine in
            found = findings(doctor)
            assert states(found) == {"password": "warn"}
            assert found["durability"]["found"].startswith("fsync:")
            assert "leads" in found["autoscaler"]["found"]
            assert found["dead letters"]["found"].startswith("examined (1)")
            assert found["functions"]["found"] == rig.broker.library.name

        # If host and autoscaler have left, expect that to be said, with what to do
        found = findings(doctor, code=UNWELL)
        assert states(found, without="ok skipped warn") == {"hosts": "fail", "autoscaler": "fail"}
        assert "`flashq host`" in found["hosts"]["advice"]

        # As a table, and as values
        said = doctor("doctor", code=UNWELL)
        assert said.stderr == "21 ok, 2 skipped, 1 warn, 2 fail\n"
        lines = said.stdout.splitlines()
        assert lines[0] == "check\tstate\tfound\tadvice"
        assert any(
            line.startswith("hosts\tfail\tnone: what is called waits\trun `flashq host`") for line in lines
        )


@pytest.mark.parametrize(
    "server", ["valkey", pytest.param("redis", marks=pytest.mark.requires("redis"))], indirect=True
)
@pytest.mark.requires("valkey")
def test_what_may_lose_jobs_is_found(server: BrokerServer, tmp_path: Path) -> None:
    # Given a broker that evicts keys, has hardly any memory left, and keeps nothing on disk
    with closing(Broker(server.url)) as broker:
        broker.execute("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        broker.execute("CONFIG", "SET", "maxmemory", "1000000")
        broker.execute("CONFIG", "SET", "appendonly", "no")

    # Expect each to be told; but not where lossy operation was asked for
    doctor = CommandLine(server.url, tmp_path)
    found = findings(doctor, code=UNWELL)
    assert {found[check]["state"] for check in ("eviction", "durability")} == {"fail"}
    assert found["memory"]["state"] == "warn"
    assert found["functions"]["state"] == "warn"
    doctor.environ["FLASHQ_DURABILITY"] = "memory"
    found = findings(doctor, code=UNWELL)  # nobody runs workers
    assert {found[check]["state"] for check in ("eviction", "durability")} == {"ok"}


@pytest.mark.requires("valkey")
def test_a_user_with_few_rights_is_told_what_is_unknown(server: BrokerServer, tmp_path: Path) -> None:
    # Given users, and a broker that lets nobody in without a password
    with closing(Broker(server.url)) as broker:
        for role in ("viewer", "admin"):
            user = acl.user(role, Keys("rq"), "secret")
            broker.execute("ACL", "SETUSER", user.name, "reset", *user.rules)
        broker.execute("CONFIG", "SET", "requirepass", "other")
    viewer = CommandLine(f"unix://flashq-viewer:secret@{server.folder}/s", tmp_path)
    admin = CommandLine(f"unix://flashq-admin:secret@{server.folder}/s", tmp_path)

    # Expect a viewer to be told that the functions are not there, who may load them, and not to be able to
    found = findings(viewer, code=UNWELL)
    assert found["functions"]["state"] == "fail"
    assert "`flashq doctor --load`" in found["functions"]["advice"]
    assert (found["password"]["found"], found["rights"]["state"]) == ("asked for", "ok")
    assert "may not read how often it is synced" in found["durability"]["found"]
    assert "may not load them" in viewer("doctor", "--load", code=1).output

    # Expect it to be let see all the rest
    assert states(found, without="ok skipped warn fail") == {"durability": "unknown"}

    # If the admin loads them, expect them there for everybody
    assert ": loaded" in admin("doctor", "--load", code=UNWELL).stderr
    assert ": there already" in admin("doctor", "--load", code=UNWELL).stderr
    assert findings(viewer, code=UNWELL)["functions"]["state"] == "ok"

    # A user who may ask nothing is told that
    with closing(Broker(f"unix://:other@{server.folder}/s")) as broker:
        broker.execute("ACL", "SETUSER", "nobody", "reset", "on", ">x", "+ping", "+fcall")
    nobody = CommandLine(f"unix://nobody:x@{server.folder}/s", tmp_path)
    unsaid = states(findings(nobody))
    unsayable = "version role disk durability eviction memory rights clock fleet endpoints waiting"
    assert unsaid == dict.fromkeys([*unsayable.split(), "stray workers"], "unknown")


@pytest.mark.requires("valkey")
def test_a_full_disk_and_a_broker_that_is_gone(server: BrokerServer, tmp_path: Path) -> None:
    doctor = CommandLine(server.url, tmp_path)
    with closing(Broker(server.url)) as broker:
        broker.execute("CONFIG", "SET", "appendfsync", "everysec")
        server.disk_holds(0)

        def refuses() -> bool:
            try:
                broker.execute("SET", "filler", "x" * 4096)
            except BrokerRefused:
                return True
            return False

        wait_until(refuses, what="a full disk")
    found = findings(doctor, code=UNWELL)
    assert found["disk"]["state"] == "fail"
    assert "append-only file failed" in found["disk"]["found"]

    # If it is gone, expect its findings to end there
    server.kill()
    found = findings(doctor, code=UNWELL)
    assert found["broker"]["state"] == "fail"
    assert list(found)[-1] == "broker"


@pytest.mark.requires("valkey")
def test_a_snapshot_that_failed(server: BrokerServer, tmp_path: Path) -> None:
    # Given a folder in the way of the file, so that it refuses writes (MISCONF)
    (server.folder / "dump.rdb" / "in-the-way").mkdir(parents=True)
    with closing(Broker(server.url)) as broker:
        broker.execute("CONFIG", "SET", "save", "3600 1")
        broker.execute("BGSAVE")
        wait_until(lambda: b"rdb_last_bgsave_status:err" in broker.execute("INFO", "persistence"))
        with pytest.raises(BrokerRefused, match="MISCONF"):
            broker.execute("SET", "a", "b")

    found = findings(CommandLine(server.url, tmp_path), code=UNWELL)

    assert found["disk"]["state"] == "fail"
    assert "snapshot (RDB) failed" in found["disk"]["found"]
    assert found["functions"]["state"] == "warn"


@pytest.mark.requires("valkey")
def test_a_replica_and_its_sentinels(tmp_path: Path) -> None:
    with closing(SentinelSet()) as servers:
        # Given the address of the sentinels, expect the primary and its replica to be found
        doctor = CommandLine(servers.url, tmp_path)
        doctor.environ |= {"FLASHQ_DURABILITY": "fsync+replica", "FLASHQ_ALLOW_PLAINTEXT": "1"}
        found = findings(doctor, code=UNWELL)
        assert found["role"]["found"] == "primary, 1 replica(s)"
        assert found["durability"]["found"].startswith("fsync+replica:")
        assert found["address"]["found"].startswith(
            "passwords, arguments and results would travel unencrypted"
        )
        assert "password" not in found

        # If the replica is named itself, expect that to fail
        doctor.environ["FLASHQ_REDIS_URL"] = f"redis://127.0.0.1:{servers.ports[1]}"
        found = findings(doctor, code=UNWELL)
        assert found["role"] == {
            "check": "role",
            "state": "fail",
            "found": "a read-only replica",
            "advice": "name the primary, or its sentinels, in FLASHQ_REDIS_URL",
        }


@pytest.mark.requires("redis")
def test_over_tls(tmp_path: Path) -> None:
    # Given a broker that wants to see a certificate, and one whose key others may read
    authority, port = Authority(tmp_path), free_port()
    file, key = authority.certificate("broker", "localhost")
    ours, our_key = authority.certificate("caller")
    our_key.chmod(0o644)
    tls = {"port": port, "cert-file": file, "key-file": key, "ca-cert-file": authority.file}
    arguments = [part for name, value in tls.items() for part in (f"--tls-{name}", str(value))]
    with closing(BrokerServer("redis", arguments=arguments)) as made:
        doctor = CommandLine(f"rediss://localhost:{port}", tmp_path)
        doctor.environ |= {"FLASHQ_TLS_CA": str(authority.file), "FLASHQ_TLS_CERT": str(ours)}
        doctor.environ["FLASHQ_TLS_KEY"] = str(our_key)

        # Expect the connection to be well, and the key not
        found = findings(doctor, code=UNWELL)
        assert found["address"]["found"].startswith("TLS")
        assert found["latency"]["state"] == "ok"
        assert found["secret files"]["found"] == f"others may use {our_key} (644)"

        # Without the authority, expect to be told which setting is wrong
        del doctor.environ["FLASHQ_TLS_CA"]
        found = findings(doctor, code=UNWELL)
        assert "FLASHQ_TLS_CA names the file" in found["broker"]["found"]

        # With a password that is wrong
        with closing(Broker(made.url)) as broker:
            broker.execute("CONFIG", "SET", "requirepass", "other")
        doctor.environ["FLASHQ_TLS_CA"] = str(authority.file)
        doctor.environ["FLASHQ_REDIS_URL"] = f"rediss://:wrong@localhost:{port}"
        found = findings(doctor, code=UNWELL)
        assert "refused" in found["broker"]["found"]
        assert "wrong" not in found["broker"]["found"].replace("WRONGPASS", "")
        doctor.environ["FLASHQ_REDIS_URL"] = f"rediss://:other@localhost:{port}"
        assert findings(doctor, code=UNWELL)["password"]["found"] == "asked for"


@pytest.mark.requires("valkey")
def test_a_broker_that_answers_nothing_is_given_up(server: BrokerServer, tmp_path: Path) -> None:
    # Given one that lets nobody in any more, and answers no question on a connection that it had accepted
    with (
        closing(Broker(server.url, reply_timeout_s=0.1)) as broker,
        closing(broker.connect()) as line,
    ):
        halt(server.pid)
        line.send(pack("PING"))
        with pytest.raises(BrokerUnreachable, match=r"no answer within 0\.1 s"):
            line.read()

    begun = time.monotonic()
    found = findings(CommandLine(server.url, tmp_path), code=UNWELL)

    assert time.monotonic() - begun < 15
    assert found["broker"]["state"] == "fail"
    assert list(found)[-1] == "broker"


@pytest.mark.requires("valkey")
def test_what_others_wrote_does_not_stop_it(server: BrokerServer, tmp_path: Path) -> None:
    # Given records that are none, and a list of hosts that is no list of any
    with closing(Broker(server.url)) as broker:
        of = broker.keys.of
        broker.execute("SADD", of("endpoints"), "junk", "\x1b[2J", b"\xff")
        broker.execute("HSET", of("endpoint", "junk"), "revision", "r", "spec", "[1]", "condition", "7")
        broker.execute("HSET", of("endpoint", "\x1b[2J"), "revision", "r", "spec", '{"environment": 5}')
        broker.execute("RPUSH", of("queue", "junk"), "no job", b"\xff")
        broker.execute("HSET", of("leader"), "holder", "\x1b[2J", "until", "soon")
        broker.execute("ZADD", of("hosts"), "+inf", "box", "-inf", b"\xfe", 5, "third")
        broker.execute("HSET", of("host", "box"), "gpus", '[1, {"name": "\\u001b[2J"}]', "version", "\x1b[2J")
        broker.execute("HSET", of("host", "box"), "keys", ",,\x1b[2J", "pythons", "\x1b[2J")
        broker.execute("SET", of("host", "third"), "no hash")
        broker.execute("SADD", of("rq_workers"), "x", of("worker", "y"))
        broker.execute("SET", of("worker", "y"), "no hash")
        doctor = CommandLine(server.url, tmp_path)

        # Expect each to be judged for what it is, and nothing of it to reach a terminal
        found = findings(doctor, code=UNWELL)
        assert found["endpoints"]["found"].startswith("2 registered")
        assert found["autoscaler"]["found"] == "none; \x1b[2J was the last"
        assert found["hosts"]["found"].startswith("box, 1 × \x1b[2J; silent: third, ")
        assert {found[check]["state"] for check in ("versions", "python")} == {"warn"}
        assert found["key spread"]["state"] == "fail"
        assert "\x1b" not in doctor("doctor", code=UNWELL).stdout

        # If one list cannot be read, expect that to be unknown, and the rest to be told
        broker.execute("SET", of("hosts"), "no list")
        found = findings(doctor, code=0)
        assert found["fleet"]["state"] == "unknown"
        assert "WRONGTYPE" in found["fleet"]["found"]
        assert found["endpoints"]["state"] == "ok"


def test_without_a_broker_it_looks_at_this_machine(tmp_path: Path) -> None:
    home = tmp_path / "home"

    def doctor(*, code: int = 0) -> str:
        result = CliRunner().invoke(
            flashq, ["doctor"], env={"FLASHQ_HOME": str(home), "FLASHQ_REDIS_URL": ""}
        )
        assert result.exit_code == code, (result.output, result.exception)
        return result.stdout

    # Expect it to change nothing
    assert "the first call makes one" in doctor()
    assert not home.exists()

    # A key that others may read
    home.mkdir()
    (home / "secret.key").write_text("00" * 32)
    (home / "secret.key").chmod(0o640)
    said = doctor(code=UNWELL)
    assert f"secret files\tfail\tothers may use {home}/secret.key (640)\tchmod 600 them" in said
    assert "signing key\tfail\tothers than its owner may use" in said
    (home / "secret.key").chmod(0o600)
    assert f"signs, from {home}/secret.key" in doctor()

    # A key that is none
    (home / "secret.key").write_text("short")
    assert f"signing key\tfail\t{home}/secret.key: line 1" in doctor(code=UNWELL)

    # Something else in the way of FLASHQ_HOME
    home = tmp_path / "home" / "secret.key" / "below"
    assert "cannot be written" in doctor(code=UNWELL)
