"""With nothing configured: scripts start, share and leave a private stack; `flashq up`, `down` and `status` keep one.

Everything is real here: the broker, the host agent, the autoscaler, workers that run the script's functions.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from flashq.cli import flashq
from flashq.embedded import look
from tests.integration.embedded_rig import EmbeddedRig
from tests.rig import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.requires("valkey"), pytest.mark.timeout(120)]

FUNCTIONS = """
import os, sys, time
from pathlib import Path
from flashq import Endpoint

@Endpoint(name="double", cpu="any", workers=(0, 2), idle_timeout=30)
def double(x):
    return 2 * x

@Endpoint(name="slow", cpu="any", workers=(0, 2), idle_timeout=30)
def slow(folder, seconds):
    Path(folder, "pid").write_text(str(os.getpid()))
    Path(folder, "began").touch()
    time.sleep(seconds)
    with Path(folder, "ended").open("a") as file:
        file.write("x")
    return "done"

folder = sys.argv[1]
"""


class Machine(EmbeddedRig):
    """A user's machine: a home, scripts with endpoints, and the command line."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = self._folder
        self.environ = {n: v for n, v in os.environ.items() if not n.startswith(("FLASHQ_", "RQ_"))}
        self.environ["FLASHQ_HOME"] = str(self.home)
        self.environ["MARK_OF_THE_TEST"] = str(self.home)  # user code does not see FLASHQ_HOME
        self._running: list[subprocess.Popen[str]] = []

    def start(self, *command: str, **environ: str) -> subprocess.Popen[str]:
        """A program in the background; its output in `<folder>/<n>.out` and `.err`."""
        number = len(self._running)
        with (
            (self.folder / f"{number}.out").open("w") as out,
            (self.folder / f"{number}.err").open("w") as err,
        ):
            process = subprocess.Popen(
                [sys.executable, *command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                text=True,
                env=self.environ | environ,
                cwd=self.folder,
                start_new_session=True,
            )
        self._running.append(process)
        return process

    def output(self, process: subprocess.Popen[str], stream: str = "out") -> str:
        return (self.folder / f"{self._running.index(process)}.{stream}").read_text()

    def run_program(self, body: str) -> subprocess.Popen[str]:
        """A user's script in the background."""
        file = self.folder / f"program{len(self._running)}.py"
        file.write_text(FUNCTIONS + textwrap.dedent(body))
        return self.start(str(file), str(self.folder))

    def finish(self, process: subprocess.Popen[str], *, code: int = 0, within_s: float = 60.0) -> str:
        """Its output, once it has ended."""
        ended = process.wait(within_s)
        assert ended == code, self.output(process, "err")
        return self.output(process)

    def flashq(self, *args: str, code: int = 0, **environ: str) -> str:
        """Run a command of the command line; its output."""
        return self.finish(self.start("-m", "flashq", *args, **environ), code=code)

    def status(self, *, code: int = 0) -> dict[str, Any]:
        (report,) = json.loads(self.flashq("status", "--json", code=code))
        assert isinstance(report, dict)
        return report

    def errors_of_last(self) -> str:
        return self.output(self._running[-1], "err")

    def close(self) -> None:
        for process in self._running:
            if process.poll() is None:
                process.kill()
                process.wait()
        if self.processes():
            self.flashq("down", "--now")
        super().close()


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A user's machine with nothing configured."""
    made = Machine()
    try:
        yield made
    finally:
        made.close()


def free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port


# -- scripts -----------------------------------------------------------------------------------------


def test_a_script_with_nothing_configured_just_works_and_leaves_nothing(machine: Machine) -> None:
    script = machine.run_program("print(double.remote(21))")

    assert machine.finish(script) == "42\n"

    assert machine.output(script, "err").splitlines()[:1] == [
        f"flashq: started a private broker in {machine.home}; it ends with this script. `flashq up` keeps one."
    ]
    machine.await_nothing_left()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=lambda how: how.name)
def test_a_script_ended_in_the_middle_of_a_job_leaves_nothing(machine: Machine, how: signal.Signals) -> None:
    script = machine.run_program("slow.remote(folder, 60)")
    wait_until((machine.folder / "began").exists, 30)

    runs_it = int((machine.folder / "pid").read_text())
    assert runs_it in machine.processes()

    script.send_signal(how)
    script.wait(10)

    machine.await_nothing_left()
    if how is signal.SIGINT:  # it cancelled its job, and waited for that
        assert "unfinished" not in machine.output(script, "err")


def test_a_script_whose_keeper_is_killed_gets_its_result_all_the_same(machine: Machine) -> None:
    script = machine.run_program("print(slow.remote(folder, 2))")
    wait_until((machine.folder / "began").exists, 30)
    ours = set(machine.processes()) - {script.pid}

    os.kill(machine.status()["pid"], signal.SIGKILL)

    wait_until(lambda: not ours & set(machine.processes()), 3)
    assert machine.finish(script) == "done\n"
    assert (machine.folder / "ended").read_text() == "x"
    machine.await_nothing_left()


def test_two_scripts_at_once_use_one_stack_and_do_not_disturb_each_other(machine: Machine) -> None:
    first = machine.run_program("print(sum(double.map(range(20))))")
    second = machine.run_program("slow.remote(folder, 1.5); print(double.remote(1))")

    assert machine.finish(first) == "380\n"
    assert machine.finish(second) == "2\n"

    said = machine.output(first, "err") + machine.output(second, "err")
    assert said.count("started a private broker") == 1
    machine.await_nothing_left()


def test_what_a_script_left_is_said_at_the_next_start_and_run_when_asked_for(machine: Machine) -> None:
    leaves = machine.run_program("slow.spawn(folder, 0.1); slow.spawn(folder, 0.1); double.spawn(1)")
    machine.finish(leaves)
    kept = r"flashq: (\d) unfinished jobs? (is|are) kept in .*: `flashq up --resume` runs (it|them)"
    assert re.search(kept, machine.output(leaves, "err"))
    machine.await_nothing_left()
    (machine.folder / "ended").unlink(missing_ok=True)

    nexts = machine.run_program("print(double.remote(4))")
    assert machine.finish(nexts) == "8\n"
    left = int(re.findall(r"(\d) unfinished jobs? of an earlier run", machine.output(nexts, "err"))[0])
    machine.await_nothing_left()

    machine.flashq("up", "--no-gateway", "--detach", "--resume")

    wait_until(lambda: len(json.loads(machine.flashq("jobs", "--json", "--status", "COMPLETED"))) >= left, 60)
    assert machine.status()["held"] == 0
    assert (machine.folder / "ended").exists()
    machine.flashq("down")


# -- up, down, status --------------------------------------------------------------------------------


def test_up_detach_serves_scripts_until_down(machine: Machine) -> None:
    assert "`flashq down` ends it" in machine.flashq("up", "--no-gateway", "--detach")
    assert [host["state"] for host in json.loads(machine.flashq("hosts", "--json"))] == ["ready"]

    script = machine.run_program("print(double.remote(21))")
    assert machine.finish(script) == "42\n"
    assert "private broker" not in machine.output(script, "err")
    report = machine.status()
    assert report["broker"] == f"unix://{machine.home}/run/broker.sock"
    assert report["gateway"] is None
    assert [host["state"] for host in report["hosts"]] == ["ready"]
    assert [(one["state"], one["epoch"]) for one in report["autoscalers"]] == [("leads", 1)]
    assert report["version"]
    assert report["running"]
    assert report["source"] == "flashq up"
    assert report["problem"] is None

    assert machine.flashq("down").startswith(f"down in {machine.home}")
    machine.await_nothing_left()
    assert machine.status(code=3)["running"] is False


def test_a_broker_that_dies_under_up_is_started_again_and_no_call_is_lost(machine: Machine) -> None:
    """Given a stack that is kept, if its broker is killed while a job runs and others wait, expect all of them done by
    the same stack, and `status` to say what happened."""
    machine.flashq("up", "--no-gateway", "--detach")
    pid = machine.status()["pid"]
    script = machine.run_program(
        """
        jobs = [slow.spawn(folder, 0.5) for _ in range(6)]
        print([job.result() for job in jobs])
        """
    )
    wait_until((machine.folder / "began").exists, 30)
    broker = look(machine.settings)
    assert broker is not None
    os.kill(broker["processes"]["broker"]["pid"], signal.SIGKILL)

    assert machine.finish(script) == f"{['done'] * 6}\n"
    report = machine.status()
    assert (report["pid"], report["source"]) == (pid, "flashq up")
    assert re.fullmatch(
        r"the private broker ended \(signal SIGKILL; log: .*/broker\.log\), and was started again at [\d:]{8}",
        report["problem"],
    )
    machine.flashq("down")
    assert machine.status(code=3)["problem"] is None


def test_up_in_the_foreground_ends_with_ctrl_c(machine: Machine) -> None:
    up = machine.start("-m", "flashq", "up")
    wait_until(lambda: "Ctrl-C ends it" in machine.output(up), 30)
    script = machine.run_program("print(double.remote(2))")
    assert machine.finish(script) == "4\n"

    up.send_signal(signal.SIGINT)

    assert machine.finish(up).splitlines()[-1] == f"down in {machine.home}"
    machine.await_nothing_left()


def test_nothing_is_left_where_up_in_the_foreground_is_killed(machine: Machine) -> None:
    up = machine.start("-m", "flashq", "up")
    wait_until(lambda: "Ctrl-C ends it" in machine.output(up), 30)

    up.kill()
    up.wait()

    machine.await_nothing_left()


def test_up_twice(machine: Machine) -> None:
    machine.flashq("up", "--no-gateway", "--detach")
    pid = machine.status()["pid"]

    assert (
        machine.flashq("up", "--no-gateway", "--detach")
        == f"it is up already in {machine.home} (process {pid})\n"
    )
    machine.flashq("up", code=1)

    assert machine.errors_of_last() == f"flashq: it is up already (process {pid}); `flashq down` ends it\n"
    machine.flashq("down", "--now")


def test_up_keeps_what_a_script_started(machine: Machine) -> None:
    script = machine.run_program("slow.remote(folder, 3)")
    wait_until((machine.folder / "began").exists, 30)
    pid = machine.status()["pid"]

    machine.flashq("up", "--no-gateway", "--detach")

    machine.finish(script)
    assert machine.status()["pid"] == pid
    machine.flashq("down")


def test_down_with_nothing_up(machine: Machine) -> None:
    machine.flashq("down")

    assert machine.errors_of_last() == f"nothing is up in {machine.home}\n"
    assert machine.processes() == {}


def test_down_lets_running_jobs_end(machine: Machine) -> None:
    machine.flashq("up", "--no-gateway", "--detach")
    script = machine.run_program("print(slow.remote(folder, 2))")
    wait_until((machine.folder / "began").exists, 30)

    machine.flashq("down")

    assert (machine.folder / "ended").read_text() == "x"
    script.kill()


def test_a_script_that_waits_while_its_stack_is_taken_down_gets_its_result(machine: Machine) -> None:
    machine.flashq("up", "--no-gateway", "--detach")
    script = machine.run_program("print(slow.remote(folder, 2))")
    wait_until((machine.folder / "began").exists, 30)

    machine.flashq("down", "--now")

    assert machine.finish(script) == "done\n"
    machine.await_nothing_left()


@pytest.mark.parametrize("command", ["up", "down"])
def test_where_a_broker_is_configured_there_is_nothing_to_bring_up_or_down(
    machine: Machine, command: str
) -> None:
    machine.flashq(command, code=1, FLASHQ_REDIS_URL="redis://:secret@127.0.0.1:1")

    said = machine.errors_of_last()
    assert said.startswith("flashq: FLASHQ_REDIS_URL names a broker, redis://:***@127.0.0.1:1")
    assert len(said.splitlines()) == 1


def test_status_of_a_configured_broker(machine: Machine) -> None:
    machine.flashq("up", "--no-gateway", "--detach")
    url = machine.status()["broker"]

    (report,) = json.loads(machine.flashq("status", "--json", FLASHQ_REDIS_URL=url))
    assert (report["broker"], report["running"], report["source"]) == (url, True, "FLASHQ_REDIS_URL")

    unreachable = "redis://:secret@127.0.0.1:1"
    (report,) = json.loads(machine.flashq("status", "--json", code=3, FLASHQ_REDIS_URL=unreachable))
    assert (report["broker"], report["running"]) == ("redis://:***@127.0.0.1:1", False)
    assert "secret" not in report["problem"]
    machine.flashq("down", "--now")


# -- a second machine --------------------------------------------------------------------------------


def test_a_second_machine_joins_with_the_printed_line(machine: Machine, tmp_path: Path) -> None:
    port = free_port("127.0.0.2")
    printed = machine.flashq("up", "--no-gateway", "--detach", "--listen", f"127.0.0.2:{port}").splitlines()[
        -1
    ]
    match = re.fullmatch(rf"  FLASHQ_JOIN=(\S+) flashq (host --join redis://127\.0\.0\.2:{port})", printed)
    assert match is not None
    token, command = match[1], match[2].split()

    second = machine.start("-m", "flashq", *command, FLASHQ_HOME=str(tmp_path / "second"), FLASHQ_JOIN=token)

    wait_until(lambda: len(machine.status()["hosts"]) == 2, 30)
    assert machine.status()["listen"] == f"127.0.0.2:{port}"
    for pid, shown in machine.processes().items():
        assert token not in shown, pid
    second.send_signal(signal.SIGTERM)
    machine.finish(second)
    again = machine.start("-m", "flashq", *command, FLASHQ_HOME=str(tmp_path / "second"))  # the token is kept
    wait_until(lambda: len(machine.status()["hosts"]) == 2, 30)
    again.send_signal(signal.SIGTERM)
    machine.finish(again)
    machine.flashq("down")


def test_a_broker_that_listens_wants_its_password(machine: Machine) -> None:
    port = free_port("127.0.0.1")
    machine.flashq("up", "--no-gateway", "--detach", "--listen", f"127.0.0.1:{port}")

    with socket.create_connection(("127.0.0.1", port)) as stranger:
        stranger.sendall(b"PING\r\n")
        assert stranger.recv(100).startswith(b"-NOAUTH")
    script = machine.run_program("print(double.remote(3))")
    assert machine.finish(script) == "6\n"
    password = (machine.home / "broker.password").read_text().strip()
    for pid, shown in machine.processes().items():
        assert password not in shown, pid
    machine.flashq("down")


def test_beyond_this_machine_plaintext_must_be_allowed_by_name(machine: Machine) -> None:
    machine.flashq("up", "--no-gateway", "--detach", "--listen", "0.0.0.0", code=1)
    assert "--allow-plaintext" in machine.errors_of_last()
    assert machine.processes() == {}

    port = free_port("0.0.0.0")
    printed = machine.flashq(
        "up", "--no-gateway", "--detach", "--listen", f"0.0.0.0:{port}", "--allow-plaintext"
    )

    assert re.search(rf"flashq host --join redis://(?!0\.0\.0\.0)\S+:{port}\n", printed)
    machine.flashq("down")


def test_a_port_in_use_is_said(machine: Machine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        machine.flashq("up", "--no-gateway", "--detach", "--listen", f"127.0.0.1:{port}", code=1)

    assert f"the broker cannot listen on 127.0.0.1 port {port}" in machine.errors_of_last()
    machine.await_nothing_left()


def test_a_stack_that_does_not_listen_is_not_made_to(machine: Machine) -> None:
    machine.flashq("up", "--no-gateway", "--detach")

    machine.flashq("up", "--no-gateway", "--detach", "--listen", "127.0.0.1:6399", code=1)

    assert "does not listen there: `flashq down` first" in machine.errors_of_last()
    assert machine.status()["running"]
    machine.flashq("down", "--now")


@pytest.mark.parametrize("address", ["", ":1", "h:0", "h:99999", "h:x", "[::1"])
def test_an_address_to_listen_on_that_is_none(address: str) -> None:
    result = CliRunner().invoke(flashq, ["up", "--listen", address])

    assert result.exit_code == 2
    assert "is not ADDR or ADDR:PORT" in result.output


def test_up_has_a_gateway(machine: Machine) -> None:
    """Given `flashq up`, expect the address of its gateway in `flashq status`, and endpoints of scripts behind it."""
    machine.flashq("up", "--detach")
    machine.finish(machine.run_program("print(double.remote(4))"))
    address = wait_until(lambda: machine.status()["gateway"], 30)
    request = urllib.request.Request(
        f"{address}/v2/double/runsync",
        json.dumps({"input": {"x": 21}}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        assert json.load(answer)["output"] == 42
    machine.flashq("down")
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{address}/healthz", timeout=5)
