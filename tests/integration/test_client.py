"""The client when the broker misbehaves: silent, away for long, lying, back empty."""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest

from flashq import Endpoint
from flashq.errors import BrokerStateLost, BrokerUnreachable, RemoteError
from flashq.store import mux, stream
from tests.rig import halt, rig, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from flashq.job import EndpointJob

pytestmark = pytest.mark.requires("valkey")


@Endpoint(name="echo", cpu="any", workers=(0, 1))
def echo(value: Any) -> Any:
    if value == "exit":
        raise SystemExit(3)
    return value


@Endpoint(name="lingers", cpu="any", workers=(0, 1))
def lingers() -> None:
    threading.Event().wait(60)


def test_one_key_used_twice_in_a_program_completes_both_jobs() -> None:
    with rig() as made:
        first = echo.with_options(key="k").spawn(1)
        second = echo.with_options(key="k").spawn(1)
        made.worker(echo)
        assert (first.result(20), second.result(20)) == (1, 1)
        assert first.id == second.id


def test_a_lying_message_is_passed_over_and_the_next_outcome_still_comes() -> None:
    with rig() as made:
        made.worker(echo)
        assert echo.spawn(1).result(20) == 1
        for lie in (b"x", b"\xff\n\n\n\n\n", b"echo-1\nno-state\n0\n\n1\n"):
            made.broker.execute("PUBLISH", made.client.channel, lie)
        assert echo.spawn(2).result(20) == 2


def test_a_callback_that_raises_harms_only_its_own_command(caplog: pytest.LogCaptureFixture) -> None:
    with rig() as made:

        def fail(*_: object) -> None:
            raise RuntimeError("a mistake of ours")

        made.client._transport.send(made.client.transitions.epoch(), fail)
        made.worker(echo)
        assert echo.spawn(1).result(20) == 1
    assert "a mistake of ours" in caplog.text


def test_a_broker_away_for_longer_than_the_patience_is_told_to_those_who_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with rig() as made:
        made.client._transport._patience_s = 0.5  # type: ignore[attr-defined]
        job: EndpointJob[int] = echo.spawn(1)
        made.server.kill()
        with pytest.raises(BrokerUnreachable):
            job.result(20)
        made.server.start()
        made.worker(echo)
        assert echo.spawn(2).result(20) == 2


def test_a_broker_that_says_nothing_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "REPLY_TIMEOUT_S", 0.5)
    monkeypatch.setattr(mux, "_FIRST_PATIENCE_S", 0.5)
    with rig() as made:
        made.client._transport._patience_s = 0.5  # type: ignore[attr-defined]
        made.client._transport._tick_s = 0.2  # type: ignore[attr-defined]
        echo.spawn(0)
        assert made.server._process is not None
        halt(made.server.pid)
        try:
            with pytest.raises(BrokerUnreachable):
                echo(1).result(30)
        finally:
            made.server._process.send_signal(signal.SIGCONT)


def test_a_broker_back_without_its_data_is_told_apart_from_a_deleted_job() -> None:
    with rig() as made:
        job = echo.spawn(1)
        made.server.kill()
        made.server.wipe()
        made.server.start()
        with pytest.raises(BrokerStateLost):
            job.result(20)
        made.worker(echo)
        assert echo.spawn(2).result(20) == 2


def test_a_remote_system_exit_does_not_end_the_caller() -> None:
    with rig() as made:
        made.worker(echo)
        with pytest.raises(RemoteError, match="SystemExit"):
            echo.spawn("exit").result(20)


def test_one_hundred_threads_share_one_connection() -> None:
    with rig() as made:
        made.worker(echo)
        got: list[int] = []
        threads = [threading.Thread(target=lambda n=n: got.append(echo.remote(n))) for n in range(100)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert sorted(got) == list(range(100))
        clients = made.broker.execute("CLIENT", "LIST").decode()
        ours = [line for line in clients.splitlines() if "cmd=fcall" in line or "cmd=subscribe" in line]
        assert len(ours) < 12


def test_calls_not_accepted_when_the_program_ends_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    with contextlib.suppress(BrokerUnreachable), rig() as made:
        echo.spawn(0)
        made.server.kill()
        wait_until(lambda: made.client._transport._stream.line is None, what="the loss is noticed")  # type: ignore[attr-defined]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("flashq.client._CLOSE_S", 0.2)
            echo(1)
            made.client.close()
    assert "not accepted" in caplog.text


def test_what_was_cancelled_is_given_a_moment_to_end_as_the_program_ends() -> None:
    # Given a job that runs for as long as it is let
    with rig() as made:
        made.worker(lingers)
        job = lingers.spawn()
        wait_until(lambda: made.job_field(job.id, "fq_state") == "running", what="it runs")

        # If it is cancelled, and the program ends at once, expect that to have waited for the job's end
        job.cancel()
        made.client.close()
        assert made.job_field(job.id, "fq_state") == "cancelled"


def test_a_helper_defined_anew_is_used_from_then_on() -> None:
    """As in a notebook: the cell of a helper is run again, and the endpoint's is not."""
    cells: dict[str, Any] = {"__name__": "__main__"}
    exec("def helper(): return 'old'\ndef main(): return helper()", cells)
    main = Endpoint(name="renewed", cpu="any", workers=(0, 1))(cells["main"])
    with rig() as made:
        made.worker(main)
        assert main.spawn().result(20) == "old"
        exec("def helper(): return 'new'", cells)
        assert main.spawn().result(20) == "new"


def test_a_module_beside_the_program_travels_whoever_imports_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a module beside the program, imported by one function itself and for another by its program
    (tmp_path / "helpers_here.py").write_text("def double(x): return 2 * x\n")
    monkeypatch.syspath_prepend(tmp_path)
    cells: dict[str, Any] = {"__name__": "__main__"}
    exec("def late():\n    import helpers_here\n    return helpers_here.double(2)", cells)
    exec("def main(): return helpers_here.double(3)", cells)
    with rig() as made:
        # If they are called, expect both to find it on their workers
        late = Endpoint(name="late", cpu="any")(cells["late"])
        made.worker(late)
        assert late.spawn().result(20) == 4
        exec("import helpers_here", cells)
        main = Endpoint(name="beside", cpu="any")(cells["main"])
        made.worker(main)
        assert main.spawn().result(20) == 6
