"""Scripts join one private stack per home, and nothing of it outlives them."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import signal
import socket
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flashq import embedded
from flashq.doctor.examine import examine
from flashq.doctor.finding import State
from flashq.embedded.places import SOCKET_PATH_LIMIT
from flashq.embedded.server import find_server
from flashq.errors import BrokerError, BrokerRefused, ConfigurationError, SettingsError
from flashq.settings import Settings
from tests.integration.embedded_rig import STAND_IN, STAND_INS, EmbeddedRig
from tests.rig import halt, wait_until
from tests.servers import find_server as find_test_server

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.requires("valkey")


@pytest.fixture
def rig() -> Iterator[EmbeddedRig]:
    """A home of its own."""
    made = EmbeddedRig()
    try:
        yield made
    finally:
        made.close()


# -- starting and joining ----------------------------------------------------------------------------


def test_a_first_script_starts_a_stack_and_says_so_in_one_line(rig: EmbeddedRig) -> None:
    script = rig.script().wait_joined()

    with contextlib.closing(rig.broker(script.joined["url"])) as broker:
        assert broker.execute("PING") == b"PONG"
        assert broker.execute("CONFIG", "GET", "appendonly") == [b"appendonly", b"yes"]
    assert script.joined["started"]
    assert script.stderr == (
        f"flashq: started a private broker in {rig.home}; it ends with this script. `flashq up` keeps one.\n"
    )
    assert len(rig.processes()) == 4  # keeper, broker and two beside it


def test_only_the_user_can_reach_the_broker_and_read_what_is_kept(rig: EmbeddedRig) -> None:
    script = rig.script().wait_joined()

    for folder in (rig.home, rig.home / "run", rig.home / "broker"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    sockets = [file for file in (rig.home / "run").iterdir() if file.is_socket()]
    assert {file.name for file in sockets} == {"broker.sock", "control.sock"}
    assert stat.S_IMODE((rig.home / "run/broker.sock").stat().st_mode) == 0o700
    assert stat.S_IMODE((rig.home / "secret.key").stat().st_mode) == 0o600
    assert script.joined["url"] == f"unix://{rig.home}/run/broker.sock"


def test_scripts_that_begin_at_once_share_one_stack(rig: EmbeddedRig) -> None:
    scripts = [rig.script() for _ in range(4)]
    for script in scripts:
        script.wait_joined()

    assert len({script.joined["keeper"] for script in scripts}) == 1
    assert [script.joined["started"] for script in scripts].count(True) == 1
    assert sum(len(script.stderr.splitlines()) for script in scripts) == 1

    starter = next(script for script in scripts if script.joined["started"])
    others = [script for script in scripts if script is not starter]
    starter.end()
    assert all(script.ask("alive") == {"alive": True} for script in others)
    with contextlib.closing(rig.broker(others[0].joined["url"])) as broker:
        assert broker.execute("PING") == b"PONG"
    for script in others:
        script.end()
    rig.await_nothing_left()


def test_what_runs_beside_the_broker_is_told_where_it_is_and_which_key_to_use(rig: EmbeddedRig) -> None:
    tells = ["/bin/sh", "-c", 'env >"$FLASHQ_HOME/$0"; exec cat "/dev/fd/$2"']
    commands = {"host": [*tells, "host.env"], "autoscaler": [*tells, "autoscaler.env"]}

    script = rig.script(rig.plan(commands=commands, namespace="default", lease_s=3.5)).wait_joined()

    for name in ("host.env", "autoscaler.env"):
        file = rig.home / name
        wait_until(lambda file=file: file.exists() and "RQ_KEY_PREFIX" in file.read_text())  # type: ignore[misc]
        told = dict(line.split("=", 1) for line in file.read_text().splitlines() if line.startswith("FLASHQ"))
        assert told == {
            "FLASHQ_HOME": str(rig.home),
            "FLASHQ_REDIS_URL": script.joined["url"],
            "FLASHQ_SECRET_KEY_FILE": str(rig.home / "secret.key"),
            "FLASHQ_NAMESPACE": "default",
            "FLASHQ_LEASE_S": "3.5",
            "FLASHQ_PAYLOAD_LIMIT": str(64 * 2**20),
            "FLASHQ_ENVIRONMENTS_DAYS": "30.0",
            "FLASHQ_ENVIRONMENTS_GIB": "50.0",
            "FLASHQ_LABELS": "",
        }


def test_a_program_of_another_namespace_is_refused(rig: EmbeddedRig) -> None:
    rig.script().wait_joined()

    with pytest.raises(ConfigurationError, match=r"namespace 'default'.*'other'.*FLASHQ_HOME"):
        embedded.join(Settings(home=rig.home, namespace="other"), plan=rig.plan())


def test_find_and_look_start_nothing(rig: EmbeddedRig) -> None:
    assert embedded.find(rig.settings) is None
    assert embedded.look(rig.settings) is None
    assert rig.processes() == {}

    script = rig.script().wait_joined()

    assert embedded.find(rig.settings) == script.joined["url"]
    script.end()
    rig.await_nothing_left()


# -- ending ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [None, signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=str)
def test_nothing_is_left_when_the_last_script_ends(rig: EmbeddedRig, how: signal.Signals | None) -> None:
    script = rig.script().wait_joined()

    script.end(how)

    rig.await_nothing_left()
    assert {file.name for file in (rig.home / "run").iterdir()} <= {
        "join.lock",
        "keeper.lock",
        "secret.key.lock",
    }


def test_nothing_is_left_where_processes_will_not_end(rig: EmbeddedRig) -> None:
    deaf = ["/bin/sh", "-c", "trap '' TERM INT HUP; while :; do sleep 0.2; done", "deaf"]
    script = rig.script(rig.plan(commands={"host": deaf, "autoscaler": deaf})).wait_joined()

    script.end()

    rig.await_nothing_left()


def test_a_script_killed_while_it_starts_a_stack_leaves_nothing(rig: EmbeddedRig) -> None:
    slow = ["/bin/sh", "-c", "exec sleep 30", "slow"]
    script = rig.script(rig.plan(server=slow))
    wait_until(lambda: "sleep 30" in rig.processes().values())

    script.end(signal.SIGKILL)

    rig.await_nothing_left()


@pytest.mark.parametrize("parent_death_signal", [True, False], ids=["kernel", "guard"])
def test_everything_goes_with_a_killed_keeper_and_the_next_join_starts_afresh(
    rig: EmbeddedRig, parent_death_signal: bool
) -> None:
    script = rig.script(rig.plan(parent_death_signal=parent_death_signal)).wait_joined()
    with contextlib.closing(rig.broker(script.joined["url"])) as broker:
        broker.execute("SET", "kept", "yes")

    os.kill(script.joined["keeper"], signal.SIGKILL)

    rig.await_nothing_left()
    assert script.ask("alive") == {"alive": False}
    assert (rig.home / "run/control.sock").exists()  # stale, as are broker.sock and keeper.json
    again = script.ask("join")
    assert again["started"]
    assert again["keeper"] != script.joined["keeper"]
    with contextlib.closing(rig.broker(again["url"])) as broker:
        assert broker.execute("GET", "kept") == b"yes"


def test_a_broker_that_outlived_its_keeper_is_waited_for(rig: EmbeddedRig) -> None:
    """Two brokers must never write the same files."""
    # given a broker that neither kernel nor guard killed with its keeper
    first = rig.join(parent_death_signal=False)
    broker = first.status["processes"]["broker"]["pid"]
    for guard in [pid for pid, command in rig.processes().items() if "flashq-guard" in command]:
        os.kill(guard, signal.SIGKILL)
    os.kill(first.status["pid"], signal.SIGKILL)
    wait_until(lambda: set(rig.processes()) == {broker})

    second = rig.script()
    lock = rig.home / "run/keeper.lock"
    wait_until(lambda: any(has_open(pid, lock) for pid in rig.processes() if pid != broker))
    (keeper,) = wait_until(lambda: len(found := set(rig.processes()) - {broker}) == 1 and found)
    assert embedded.find(rig.settings) is None
    wait_until(lambda: second.stderr == "flashq: waiting: an earlier broker of this home ends\n")

    os.kill(broker, signal.SIGKILL)
    assert second.wait_joined().joined["keeper"] == keeper


def has_open(pid: int, file: Path) -> bool:
    """Whether a process has a file open."""
    with contextlib.suppress(OSError):
        return any(os.path.realpath(link) == str(file) for link in Path(f"/proc/{pid}/fd").iterdir())
    return False


def test_a_script_that_joins_while_the_stack_ends_gets_the_next_one(rig: EmbeddedRig) -> None:
    deaf = ["/bin/sh", "-c", "trap '' TERM; while :; do sleep 0.1; done", "deaf"]
    plan = rig.plan(commands={"host": deaf})  # its end takes until it is killed
    first = rig.script(plan).wait_joined()
    first.end()

    second = rig.script(plan).wait_joined()
    third = rig.script(plan).wait_joined()

    assert second.joined["keeper"] != first.joined["keeper"]
    assert third.joined["keeper"] == second.joined["keeper"]
    with contextlib.closing(rig.broker(second.joined["url"])) as broker:
        assert broker.execute("PING") == b"PONG"


def test_many_come_and_go_and_each_finds_a_broker(rig: EmbeddedRig) -> None:
    def come_and_go(_: int) -> None:
        for _ in range(5):
            membership = embedded.join(rig.settings, plan=rig.plan())
            with contextlib.closing(rig.broker(membership.url)) as broker:
                assert broker.execute("PING") == b"PONG"
            membership.leave()

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(come_and_go, range(4))) == [None] * 4

    rig.await_nothing_left()


def test_a_forked_child_does_not_keep_the_stack_alive(rig: EmbeddedRig) -> None:
    script = rig.script().wait_joined()
    child = script.ask("fork")["child"]
    try:
        script.end(signal.SIGKILL)

        wait_until(lambda: set(rig.processes()) == {child})
    finally:
        os.kill(child, signal.SIGKILL)


def test_unfinished_jobs_are_said_at_the_end(rig: EmbeddedRig) -> None:
    first, second = rig.script().wait_joined(), rig.script().wait_joined()

    first.ask("leave 2")
    second.ask("leave 1")

    assert "flashq: 2 unfinished jobs will go on without this script" in first.stderr
    assert f"flashq: 1 unfinished job is kept in {rig.home}: `flashq up --resume` runs it" in second.stderr


# -- trouble -----------------------------------------------------------------------------------------


def test_a_process_that_dies_is_started_again(rig: EmbeddedRig) -> None:
    dies = ["/bin/sh", "-c", 'echo >>"$FLASHQ_HOME/starts"; echo no luck; exit 7', "dies"]

    membership = rig.join(commands={"host": dies, "autoscaler": STAND_IN})

    starts = rig.home / "starts"
    wait_until(lambda: starts.exists() and starts.read_text().count("\n") >= 3)
    status = embedded.look(rig.settings)
    assert status is not None
    assert status["processes"]["host"]["failing"]
    assert status["processes"]["host"]["last_end"] == "exit code 7"
    assert not status["processes"]["autoscaler"]["failing"]
    assert membership.alive
    told = {finding.check: finding for finding in examine(rig.settings)}["private stack"]
    assert (told.state, told.found) == (State.FAIL, "keeps ending: host (exit code 7)")


def test_a_broker_that_dies_ends_the_stack_with_the_reason(rig: EmbeddedRig) -> None:
    membership = rig.join()
    os.kill(membership.status["processes"]["broker"]["pid"], signal.SIGKILL)

    with pytest.raises(BrokerError, match=r"the private broker ended \(signal SIGKILL\)"):
        membership.await_end()

    rig.await_nothing_left()
    assert not membership.alive


def test_why_a_stack_that_was_kept_has_ended_is_said_to_the_next_who_comes(
    rig: EmbeddedRig, capfd: pytest.CaptureFixture[str]
) -> None:
    """Given a stack that `flashq up` keeps, if its broker dies and cannot be started again, expect the reason to be
    there for whoever looks, and said by the next start, once."""
    membership = rig.join(up=True)
    membership.keep()
    broker = membership.status["processes"]["broker"]["pid"]
    membership.leave()
    for file in (rig.home / "broker/appendonlydir").iterdir():
        file.write_bytes(b"*3\r\nnonsense")
    os.kill(broker, signal.SIGKILL)
    rig.await_nothing_left()

    said = embedded.last_problem(rig.settings)
    assert "what `flashq up` kept running ended at 20" in said
    assert "the private broker ended (exit code 1)" in said

    shutil.rmtree(rig.home / "broker")
    capfd.readouterr()
    rig.join().leave()
    assert f"flashq: {said}\n" in capfd.readouterr().err
    rig.await_nothing_left()
    assert embedded.last_problem(rig.settings) == ""


def test_a_broker_that_dies_again_and_again_is_given_up(rig: EmbeddedRig) -> None:
    membership = rig.join(up=True)
    pids = set()

    def killed() -> bool:
        status = embedded.look(rig.settings)
        if status is not None and status["phase"] == "ready":
            pids.add(pid := status["processes"]["broker"]["pid"])
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not membership.alive

    wait_until(killed, 30, "the stack ends")

    assert len(pids) == 5
    rig.await_nothing_left()
    assert "the private broker ended (signal SIGKILL)" in embedded.last_problem(rig.settings)


def test_a_broker_that_cannot_start_says_why(rig: EmbeddedRig) -> None:
    full = 'echo "Can\'t open the append-only file: No space left on device"; exit 1'

    with pytest.raises(BrokerError, match=r"exit code 1.*No space left on device.*broker\.log"):
        rig.join(server=["/bin/sh", "-c", full])

    rig.await_nothing_left()


def test_a_broker_with_a_broken_file_says_so(rig: EmbeddedRig) -> None:
    rig.join().leave()
    rig.await_nothing_left()
    for file in (rig.home / "broker/appendonlydir").iterdir():
        file.write_bytes(b"*3\r\nnonsense")

    with pytest.raises(BrokerError, match=r"the private broker ended \(exit code 1\).*(format|AOF|append)"):
        rig.join()


def test_a_missing_program_is_named(rig: EmbeddedRig) -> None:
    with pytest.raises(BrokerError, match="/nowhere/valkey-server does not run: No such file"):
        rig.join(server=["/nowhere/valkey-server"])


def test_a_full_disk_refuses_writes_and_the_broker_recovers_by_itself(rig: EmbeddedRig) -> None:
    """As far as a test can fill one: no file of the broker's may grow beyond 64 KiB for a while."""
    small = ["/bin/sh", "-c", 'trap "" XFSZ; ulimit -S -f 128; exec "$@"', "small", str(find_server())]
    membership = rig.join(server=small)
    with contextlib.closing(rig.broker(membership.url)) as broker:
        said: list[str] = []

        def write() -> bool:
            try:
                broker.execute("SET", os.urandom(4).hex(), "x" * 4096)
            except BrokerRefused as refusal:
                said.append(str(refusal))
                return False
            return True

        wait_until(lambda: not write())
        assert "it cannot write to its disk" in said[0]
        assert membership.alive

        pid = membership.status["processes"]["broker"]["pid"]
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        wait_until(write)


FULL = """
import resource, sys
from flashq import embedded
from flashq.errors import FlashqError
from flashq.settings import Settings

settings = Settings.load()
if sys.argv[2:] == ["with a key"]:
    embedded.secrets(settings)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
try:
    embedded.join(settings, plan=embedded.Plan.load(sys.argv[1]))
except FlashqError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], r"SettingsError cannot write .*/secret\.key: File too large"),
        (["with a key"], r"BrokerError no private broker: .*/keeper\.json: File too large"),
    ],
)
def test_a_disk_without_any_room_is_said(rig: EmbeddedRig, arguments: list[str], complaint: str) -> None:
    script = rig.script(program=FULL, arguments=arguments)

    said, _ = script.process.communicate(timeout=20)

    assert re.fullmatch(complaint, said.strip())
    rig.await_nothing_left()


@pytest.mark.requires("redis")
def test_an_older_server_serves_as_well(rig: EmbeddedRig) -> None:
    redis = find_test_server("redis")
    membership = rig.join(server=[str(redis)], listen=("127.0.0.1", port := free_port()))

    with contextlib.closing(rig.broker(membership.url)) as broker:
        assert b"redis_version:7" in broker.execute("INFO", "server")
    with socket.create_connection(("127.0.0.1", port)) as stranger:
        stranger.sendall(b"PING\r\n")
        assert stranger.recv(100).startswith(b"-NOAUTH")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.parametrize("home", ["/proc/flashq", "/dev/null/flashq"])
def test_a_home_that_cannot_be_written_is_named(home: str) -> None:
    with pytest.raises(SettingsError, match=rf"cannot keep state in {home} .*set FLASHQ_HOME"):
        embedded.join(Settings(home=Path(home)))


def test_a_home_with_a_very_long_path(rig: EmbeddedRig) -> None:
    deep = rig.home / ("d" * 120) / "é e" / ("x" * 60)
    settings = Settings(home=deep)

    membership = embedded.join(settings, plan=embedded.Plan.of(settings, commands=STAND_INS))
    try:
        path = Path(membership.url.removeprefix("unix://"))
        assert len(os.fsencode(path)) <= SOCKET_PATH_LIMIT
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        with contextlib.closing(rig.broker(membership.url)) as broker:
            assert broker.execute("PING") == b"PONG"
        assert (deep / "broker/appendonlydir").is_dir()
    finally:
        membership.leave()
    rig.await_nothing_left()
    assert not path.parent.exists()


def test_a_home_with_an_odd_name() -> None:
    rig = EmbeddedRig(Path('o\'dd "home" 100%25 é@:#?'))
    try:
        membership = rig.join()
        with contextlib.closing(rig.broker(membership.url)) as broker:
            assert broker.execute("PING") == b"PONG"
            assert broker.execute("CONFIG", "GET", "dir") == [b"dir", os.fsencode(rig.home / "broker")]
    finally:
        rig.close()


def test_a_stack_that_does_not_answer_is_an_error(rig: EmbeddedRig) -> None:
    """One stopped in its tracks, say."""
    keeper = rig.join().status["pid"]
    halt(keeper)
    try:
        with pytest.raises(BrokerError, match="says nothing"):
            embedded.look(rig.settings, patience_s=0.3)
    finally:
        os.kill(keeper, signal.SIGCONT)


def test_strangers_on_the_control_socket_harm_nobody(rig: EmbeddedRig) -> None:
    membership = rig.join()
    path = str(rig.home / "run/control.sock")
    for noise in (b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b"x" * 200_000, b'{"ask":"nonsense"}\n', b""):
        with socket.socket(socket.AF_UNIX) as stranger, contextlib.suppress(OSError):
            stranger.connect(path)
            stranger.sendall(noise)
            stranger.settimeout(0.2)
            stranger.recv(4096)

    assert membership.alive
    assert embedded.look(rig.settings) is not None
