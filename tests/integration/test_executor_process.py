"""The executor as a real process: outcomes of every kind, interrupts, and its end in every way."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import pickle
import random
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

import pytest

from flashq_worker import executor
from flashq_worker.executor import watchdog
from flashq_worker.executor.frames import FrameType
from flashq_worker.executor_process import ExecutorProcess
from flashq_worker.inject import inject_folder
from flashq_worker.output_tail import OutputTail
from tests.integration.executor_rig import PYTHON, Rig, is_running, until

EXECUTOR_FOLDER = str(Path(executor.__file__).parent)


def sleep(seconds: float) -> None:
    """Sleep in slices, as user code that waits for something does."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(0.01)


# -- outcomes ----------------------------------------------------------------------------------------


def test_a_value_comes_back() -> None:
    """Given a loaded function, if it is called, expect its value and what READY says."""
    with Rig() as rig:
        ready = rig.load(lambda a, *, b: {"sum": a + b})

        assert ready.type is FrameType.READY
        assert ready.meta["pid"] == rig.process.pid
        assert ready.meta["python"].startswith(PYTHON)
        assert ready.meta["boot_ms"] > 0
        assert ready.meta["import_ms"] >= 0
        assert ready.meta["setup_ms"] >= 0
        frame = rig.call(1, b=2)
        assert frame.meta == {
            "job": "e-1",
            "fence": 1,
            "status": "ok",
            "encoding": "pickle",
            "execution_ms": frame.meta["execution_ms"],
        }
        assert pickle.loads(frame.blob) == {"sum": 3}


def test_jobs_run_in_order_and_share_state() -> None:
    """Given several jobs sent at once, expect them one after the other in one process."""
    seen: list[int] = []

    def remember(number: int) -> list[int]:
        seen.append(number)
        return seen

    with Rig() as rig:
        rig.load(remember)
        jobs = [rig.submit(number) for number in range(100)]
        assert pickle.loads(rig.outcome(jobs[-1]).blob) == list(range(100))


def test_an_exception_comes_back_with_its_traceback() -> None:
    """Given a function that raises from another exception, expect both, and no frame of the executor's."""

    def inner() -> NoReturn:
        raise KeyError("the cause")

    def outer() -> None:
        try:
            inner()
        except KeyError as error:
            raise ValueError("the effect") from error

    with Rig() as rig:
        rig.load(outer)
        frame = rig.call()

        assert frame.meta["status"] == "error"
        error = frame.meta["error"]
        assert (error["kind"], error["type"], error["message"]) == ("exception", "ValueError", "the effect")
        assert "KeyError: 'the cause'" in error["traceback"]
        assert "direct cause of the following exception" in error["traceback"]
        assert "in outer" in error["traceback"]
        assert "in inner" in error["traceback"]
        assert EXECUTOR_FOLDER not in error["traceback"]
        raised = pickle.loads(frame.blob)
        assert (type(raised), raised.args) == (ValueError, ("the effect",))


def test_the_context_of_an_exception_is_shown() -> None:
    """Given an exception raised while another was handled, expect both in the traceback."""

    def fail() -> None:
        try:
            raise KeyError("first")
        except KeyError:
            raise ValueError("second")  # noqa: B904 - the implicit context is what is tested

    with Rig() as rig:
        rig.load(fail)
        shown = rig.call().meta["error"]["traceback"]
        assert "KeyError: 'first'" in shown
        assert "During handling of the above exception" in shown


class ReduceRaises(Exception):
    """Cannot be pickled."""

    def __reduce__(self) -> NoReturn:
        raise SystemExit("from __reduce__")


class TwoArguments(Exception):
    """Can be pickled, but not unpickled: its args hold one of the two."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what}: {why}")


class NoText(Exception):
    """Has a __str__ that raises."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("kind", "args", "message"),
    [
        (ReduceRaises, ("reason",), "reason"),
        (TwoArguments, ("a", "b"), "a: b"),
    ],
)
def test_an_exception_that_does_not_travel_comes_as_text(
    kind: type[Exception], args: tuple[str, ...], message: str
) -> None:
    """Given an exception that cannot be pickled or unpickled, expect its text and a living executor."""

    def fail(fine: bool) -> bool:
        if not fine:
            raise kind(*args)
        return fine

    with Rig() as rig:
        rig.load(fail)
        frame = rig.call(False)
        assert frame.meta["error"]["kind"] == "exception"
        assert frame.meta["error"]["type"].endswith(kind.__qualname__)
        assert frame.meta["error"]["message"] == message
        assert frame.blob == b""
        assert rig.value(True)


def test_an_exception_without_text() -> None:
    """Given an exception whose __str__ raises, expect an outcome that says so."""

    def fail() -> None:
        raise NoText

    with Rig() as rig:
        rig.load(fail)
        assert "whose text cannot be had" in rig.call().meta["error"]["message"]


def test_an_unpicklable_result() -> None:
    """Given a result that cannot be pickled, expect an "unserializable" error that names its type."""
    with Rig() as rig:
        rig.load(threading.Lock)
        error = rig.call().meta["error"]
        assert error["kind"] == "unserializable"
        assert "lock" in error["message"]
        assert "cannot be pickled" in error["message"]
        assert rig.call().meta["error"]["kind"] == "unserializable"


def test_a_result_whose_reduce_exits() -> None:
    """Given a result whose __reduce__ calls sys.exit, expect an "unserializable" error."""

    class Result:
        def __reduce__(self) -> NoReturn:
            sys.exit(7)

    with Rig() as rig:
        rig.load(lambda: Result())
        assert rig.call().meta["error"]["kind"] == "unserializable"


def test_a_very_deep_result() -> None:
    """Given a result nested too deeply to pickle, expect an "unserializable" error and a living executor."""

    def nest(depth: int) -> list[Any]:
        value: list[Any] = []
        for _ in range(depth):
            value = [value]
        return value

    with Rig() as rig:
        rig.load(nest)
        assert rig.call(200_000).meta["error"]["kind"] == "unserializable"
        assert rig.value(2) == [[[]]]


def test_endless_recursion() -> None:
    """Given a function that calls itself without end, expect RecursionError with a bounded traceback."""

    def forever() -> Any:
        return forever()

    with Rig() as rig:
        rig.load(forever)
        error = rig.call().meta["error"]
        assert error["type"] == "RecursionError"
        assert len(error["traceback"]) < 70_000


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_base_exceptions_end_the_job_only(kind: type[BaseException]) -> None:
    """Given a job that raises SystemExit or KeyboardInterrupt, expect an error and a living executor."""

    def leave(fine: bool) -> bool:
        if not fine:
            raise kind("bye")
        return fine

    with Rig() as rig:
        rig.load(leave)
        frame = rig.call(False)
        assert frame.meta["error"]["type"] == kind.__name__
        assert isinstance(pickle.loads(frame.blob), kind)
        assert rig.value(True)


def test_arguments_that_cannot_be_unpickled() -> None:
    """Given a payload that does not unpickle, expect an error of that job."""
    with Rig() as rig:
        rig.load(lambda: 1)
        frame = rig.outcome(rig.submit_payload(b"no pickle", "pickle"))
        assert frame.meta["error"]["type"] == "_pickle.UnpicklingError"
        assert rig.value() == 1


def test_a_long_message_is_cut() -> None:
    """Given an exception with megabytes of text, expect its two ends; and what is no UTF-8 escaped."""

    def fail() -> None:
        raise ValueError("a" * 5_000_000 + "\ud800 the end")

    with Rig() as rig:
        rig.load(fail)
        message = rig.call().meta["error"]["message"]
        assert message.startswith("aaaa")
        assert message.endswith("\\ud800 the end")
        assert "characters left out" in message
        assert len(message) < 70_000


@pytest.mark.parametrize(
    ("payload", "value"),
    [
        ('{"input": {"a": 1, "b": 2}}', [[], {"a": 1, "b": 2}]),
        ('{"input": [1, 2]}', [[[1, 2]], {}]),
        ('{"input": null}', [[None], {}]),
        ('{"args": [1, "é"]}', [[1, "é"], {}]),
        ('{"args": [], "kwargs": {"k": true}}', [[], {"k": True}]),
    ],
)
def test_json_jobs(payload: str, value: Any) -> None:
    """Given a job submitted as JSON, expect its value as JSON."""
    with Rig() as rig:
        rig.load(lambda *args, **kwargs: [args, kwargs])
        frame = rig.outcome(rig.submit_payload(payload.encode(), "json"))
        assert frame.meta["encoding"] == "json"
        assert json.loads(frame.blob) == value


@pytest.mark.parametrize("payload", ["{}", "[]", "3", '{"args": {}}', '{"input": 1, "args": []}', '{"x": 1}'])
def test_json_that_is_no_call(payload: str) -> None:
    """Given JSON of another shape, expect an error that says which shapes there are; never a pickle."""
    with Rig() as rig:
        rig.load(lambda: 1)
        frame = rig.outcome(rig.submit_payload(payload.encode(), "json"))
        assert frame.meta["error"]["type"] == "TypeError"
        assert '"input"' in frame.meta["error"]["message"]
        assert frame.blob == b""


@pytest.mark.parametrize("expression", ["object()", "float('nan')", "{(1, 2): 3}", "'\\ud800'"])
def test_a_value_that_is_not_json(expression: str) -> None:
    """Given a JSON job whose value has no JSON form, expect an "unserializable" error."""
    with Rig() as rig:
        rig.load(lambda text: eval(text))
        payload = json.dumps({"args": [expression]}).encode()
        error = rig.outcome(rig.submit_payload(payload, "json")).meta["error"]
        assert error["kind"] == "unserializable"
        assert "written as JSON" in error["message"]


def test_large_payloads_both_ways() -> None:
    """Given 32 MB in and out, with more jobs waiting behind, expect them back unchanged."""
    data = random.Random(1).randbytes(32 << 20)
    with Rig() as rig:
        rig.load(lambda data: data)
        jobs = [rig.submit(data), rig.submit(data[: 8 << 20]), rig.submit(b"small")]
        assert [pickle.loads(rig.outcome(job).blob) for job in jobs] == [data, data[: 8 << 20], b"small"]


def test_sending_never_waits_for_a_busy_executor() -> None:
    """Given a job that runs and payloads larger than a socket holds, expect `run` to return at once."""
    with Rig() as rig:
        rig.load(lambda data: len(data) if isinstance(data, bytes) else sleep(data))
        first = rig.submit(0.3)
        second = rig.submit(bytes(16 << 20))
        assert not rig.frames
        assert rig.process.writers() == [rig.process.fileno()]
        assert rig.outcome(first).meta["status"] == "ok"
        assert pickle.loads(rig.outcome(second).blob) == 16 << 20
        assert rig.process.writers() == []


# -- loading -----------------------------------------------------------------------------------------


class LoadsBadly:
    """Raises when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (int, ("no number",))


@pytest.mark.parametrize(
    ("function", "python", "kind", "message"),
    [
        (LoadsBadly(), PYTHON, "ValueError", "invalid literal for int"),
        ("no function", PYTHON, "TypeError", "is no function"),
        (len, "2.7", "PythonMismatch", f"pickled by Python 2.7; this is Python {PYTHON}"),
    ],
)
def test_a_function_that_does_not_load(function: Any, python: str, kind: str, message: str) -> None:
    """Given code that cannot be loaded here, expect FAILED with the reason, then the executor's exit."""
    with Rig() as rig:
        failed = rig.load(function, python=python)
        assert failed.type is FrameType.FAILED
        assert failed.meta["type"].endswith(kind)
        assert message in failed.meta["message"]
        assert EXECUTOR_FOLDER not in failed.meta["traceback"]
        assert rig.until_closed() == "exited with code 1"


def test_stop_lets_what_came_before_finish() -> None:
    """Given queued jobs and STOP, expect all outcomes and exit status 0."""
    with Rig() as rig:
        rig.load(lambda number: number)
        jobs = [rig.submit(number) for number in range(20)]
        rig.process.stop()
        assert [pickle.loads(rig.outcome(job).blob) for job in jobs] == list(range(20))
        assert rig.until_closed() == "exited with code 0"


def test_stop_before_load() -> None:
    """Given an executor that never got a function, if it is told to stop, expect exit status 0."""
    with Rig() as rig:
        rig.process.stop()
        assert rig.until_closed() == "exited with code 0"


# -- what the executor sees --------------------------------------------------------------------------


def test_its_environment_has_nothing_of_flashq() -> None:
    """Given a supervisor with secrets in its environment, expect user code to see the rest only."""
    env = {
        "FLASHQ_SECRET_KEY": "canary",
        "FLASHQ_REDIS_URL": "redis://canary",
        "REDIS_URL": "canary",
        "RQ_KEY_PREFIX": "canary",
        "PATH": "/usr/bin:/bin",
        "UV_INDEX": "kept",
    }

    def look() -> tuple[dict[str, str], str, list[str]]:
        return dict(os.environ), Path("/proc/self/cmdline").read_text(), sys.argv

    with Rig(env=env) as rig:
        rig.load(look)
        seen, command_line, argv = rig.value()
        assert {name: seen[name] for name in ("PATH", "UV_INDEX")} == {
            "PATH": "/usr/bin:/bin",
            "UV_INDEX": "kept",
        }
        assert "canary" not in "".join(seen.values()) + command_line
        assert not any(name.startswith(("FLASHQ_", "RQ_", "REDIS_")) for name in seen)
        assert argv == [""]


def test_its_descriptors_are_its_own() -> None:
    """Given a supervisor with inheritable descriptors, expect the executor to hold its own only."""

    def look() -> list[str]:
        opened = []
        for fd in Path("/proc/self/fd").iterdir():
            try:
                opened.append(f"{fd.name} {fd.readlink()}")
            except FileNotFoundError:  # the descriptor of this very listing
                continue
        return sorted(opened)

    with Path(__file__).open() as ours, Rig() as other:
        os.set_inheritable(ours.fileno(), True)
        other.load(look)
        with Rig() as rig:
            rig.load(look)
            seen = rig.value()

    kinds = sorted(line.split(" ", 1)[1].split(":")[0] for line in seen)
    assert kinds == sorted(["/dev/null", "pipe", "pipe", "pipe", "pipe", "socket"])


def test_a_main_module_of_its_own(tmp_path: Path) -> None:
    """Given user code that looks for its main program, expect an empty one, not flashq's."""

    def look() -> tuple[list[str], str]:
        main = sys.modules["__main__"]
        return [name for name in vars(main) if not name.startswith("__")], str(Path.cwd())

    with Rig() as rig:
        rig.load(look)
        names, _ = rig.value()
        assert names == []


def test_an_interpreter_without_flashq(tmp_path: Path) -> None:
    """Given an environment of its own, with an inject folder, expect the executor to run in it."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)

    def look() -> tuple[str, list[str]]:
        import importlib.util

        absent = [name for name in ("redis", "rq", "pydantic", "pytest") if importlib.util.find_spec(name)]
        return sys.prefix, absent

    with Rig(python=tmp_path / "venv" / "bin" / "python", inject=inject_folder(tmp_path)) as rig:
        rig.load(look)
        assert rig.value() == (str(tmp_path / "venv"), [])


# -- output ------------------------------------------------------------------------------------------


def test_output_comes_before_the_outcome() -> None:
    """Given a job that prints without ending the line, expect the text by the time of its outcome."""

    def speak() -> None:
        sys.stdout.write("out ")
        sys.stderr.write("err ")
        os.write(1, b"raw ")

    with Rig() as rig:
        rig.load(speak)
        rig.call()
        rig.until(lambda: "raw" in rig.process.tail.text())
        assert sorted(rig.process.tail.text().split()) == ["err", "out", "raw"]


def test_megabytes_of_output_are_read_and_bounded() -> None:
    """Given a job that prints 8 MB, expect it to finish, and the last 64 KiB to be kept."""

    def speak() -> None:
        for number in range(80_000):
            print(f"{number:099}")
        print("the last line")

    with Rig() as rig:
        rig.load(speak)
        assert rig.call().meta["status"] == "ok"
        rig.until(lambda: rig.process.tail.text().endswith("the last line\n"))
        assert len(rig.process.tail.text()) == 64 * 1024


def test_output_streams_that_user_code_broke() -> None:
    """Given a job that closes or removes its streams, expect outcomes all the same."""

    def silence() -> None:
        sys.stdout.close()
        sys.stderr = None

    with Rig() as rig:
        rig.load(silence)
        assert rig.call().meta["status"] == "ok"
        assert rig.call().meta["status"] == "ok"


def test_the_tail_keeps_the_last_bytes() -> None:
    """Given more output than the limit, cut inside a character, expect the last of it as text."""
    tail = OutputTail(limit=5)
    for part in (b"abcdef", "€€".encode()):
        tail.append(part)
    assert tail.text() == "\ufffd\ufffd€"
    tail.clear()
    assert tail.text() == ""


# -- interrupting ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reason", "status"), [("cancel", "cancelled"), ("timeout", "timeout")])
def test_a_running_job_is_interrupted(reason: Any, status: str) -> None:
    """Given a job that never returns, if it is cancelled, expect its outcome, and the next job to run."""

    def run(seconds: float) -> str:
        print("running")
        sleep(seconds)
        return "done"

    with Rig() as rig:
        rig.load(run)
        job = rig.submit(1e6)
        rig.until(lambda: "running" in rig.process.tail.text())
        rig.process.cancel(job, 1, reason)
        frame = rig.outcome(job)
        assert frame.meta["status"] == status
        assert "error" not in frame.meta
        assert frame.blob == b""
        assert rig.value(0) == "done"


def test_a_job_in_a_blocking_call_is_interrupted() -> None:
    """Given a job in one long system call, expect the signal to end that call."""
    with Rig() as rig:
        rig.load(time.sleep)
        job = rig.submit(1e6)
        rig.process.cancel(job, 1, "cancel")
        assert rig.outcome(job).meta["status"] == "cancelled"


def test_a_cancel_right_behind_its_job_is_never_lost() -> None:
    """Given CANCEL at any moment around a job's begin, expect every such job to end as cancelled."""
    with Rig() as rig:
        rig.load(time.sleep)
        chance = random.Random(7)
        for _ in range(150):
            job = rig.submit(1e6)
            pause = time.perf_counter() + chance.uniform(0, 0.0003)
            while time.perf_counter() < pause:
                pass
            rig.process.cancel(job, 1, "cancel")
            assert rig.outcome(job).meta["status"] == "cancelled"


def test_a_signal_without_effect_is_repeated() -> None:
    """Given CANCEL whose signal came too early to end a system call, expect the watchdog to repeat it."""
    with Rig() as rig:
        rig.load(time.sleep)
        job = rig.submit(1e6)
        rig.process._send(FrameType.CANCEL, {"job": job, "fence": 1, "reason": "cancel"})
        rig.process._pulse_with(watchdog.POKE)
        assert rig.outcome(job).meta["status"] == "cancelled"
        assert rig.value(0) is None


def test_a_late_cancel_does_not_hit_the_next_job() -> None:
    """Given CANCEL around the end of a job, expect the job that follows to be left alone, every time."""

    def spin(seconds: float) -> str:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            pass
        return "whole"

    with Rig() as rig:
        rig.load(spin)
        chance = random.Random(7)
        for _ in range(150):
            first, second = rig.submit(0.0001), rig.submit(0.0005)
            pause = time.perf_counter() + chance.uniform(0, 0.0006)
            while time.perf_counter() < pause:
                pass
            rig.process.cancel(first, 1, "cancel")
            assert rig.outcome(first).meta["status"] in ("ok", "cancelled")
            frame = rig.outcome(second)
            assert frame.meta["status"] == "ok"
            assert pickle.loads(frame.blob) == "whole"


def test_a_job_not_yet_begun_is_dropped(tmp_path: Path) -> None:
    """Given a job queued behind another, if it is cancelled, expect it never to run."""

    def run(seconds: float, touch: str | None) -> None:
        if touch:
            Path(touch).touch()
        sleep(seconds)

    with Rig() as rig:
        rig.load(run)
        first = rig.submit(1e6, str(tmp_path / "first"))
        second = rig.submit(0, str(tmp_path / "second"))
        third = rig.submit(0, str(tmp_path / "third"))
        rig.until((tmp_path / "first").exists)
        rig.process.cancel(second, 1, "cancel")
        rig.process.cancel(first, 1, "timeout")
        assert [rig.outcome(job).meta["status"] for job in (first, second, third)] == [
            "timeout",
            "cancelled",
            "ok",
        ]
        assert (tmp_path / "third").exists()
        assert not (tmp_path / "second").exists()


def test_a_cancel_behind_a_large_payload_arrives() -> None:
    """Given a payload that fills the socket behind a running job, expect its CANCEL to come through."""

    def run(seconds: float, data: bytes) -> int:
        sleep(seconds)
        return len(data)

    with Rig() as rig:
        rig.load(run)
        first, second = rig.submit(1e6, b""), rig.submit(0, bytes(8 << 20))
        rig.process.cancel(first, 1, "cancel")
        assert rig.outcome(first).meta["status"] == "cancelled"
        assert pickle.loads(rig.outcome(second).blob) == 8 << 20


def test_a_cancel_before_ready_is_kept() -> None:
    """Given LOAD, RUN and CANCEL sent before the executor is up, expect only the job to end by it."""
    with Rig() as rig:
        rig.process.load(
            pickle.dumps(time.sleep), mode="sync", concurrency=1, endpoint="e", revision="r", python=PYTHON
        )
        job = rig.submit(1e6)
        rig.process.cancel(job, 1, "cancel")
        assert rig.outcome(job).meta["status"] == "cancelled"
        assert rig.value(0) is None


def test_cancelling_what_is_not_there() -> None:
    """Given CANCEL of a job that is over, and of one that never was, expect nothing to happen."""
    with Rig() as rig:
        rig.load(lambda: 1)
        job = rig.submit()
        rig.outcome(job)
        rig.process.cancel(job, 1, "cancel")
        rig.process.cancel("e-999", 1, "timeout")
        assert rig.value() == 1


def test_a_swallowed_interrupt_still_decides() -> None:
    """Given a job that catches the interrupt and returns a value, expect "cancelled" all the same."""

    def stubborn() -> str:
        try:
            print("running")
            sleep(1e6)
        except BaseException:  # noqa: BLE001 - as user code does
            return "I go on"
        return "done"

    with Rig() as rig:
        rig.load(stubborn)
        job = rig.submit()
        rig.until(lambda: "running" in rig.process.tail.text())
        rig.process.cancel(job, 1, "cancel")
        assert rig.outcome(job).meta["status"] == "cancelled"


def test_a_job_that_resists_is_killed() -> None:
    """Given a job that swallows the interrupt and goes on, expect no outcome until the executor is killed."""

    def resist() -> None:
        while True:
            try:
                print("running")
                sleep(1e6)
            except BaseException:  # noqa: BLE001 - as user code does
                print("swallowed")

    with Rig() as rig:
        rig.load(resist)
        job = rig.submit()
        rig.until(lambda: "running" in rig.process.tail.text())
        rig.process.cancel(job, 1, "timeout")
        rig.until(lambda: "swallowed\nrunning" in rig.process.tail.text())
        assert rig.frames == []
        assert rig.process.alive
        assert rig.process.kill()
        assert rig.process.exit_description() == "killed by SIGKILL"


def test_a_job_that_holds_the_interpreter_lock_is_killed() -> None:
    """Given a C call that never lets go of the GIL, expect that cancel has no effect and that kill has."""

    def hold() -> None:
        lock = ctypes.PyDLL(None).pthread_mutex_lock
        mutex = ctypes.create_string_buffer(64)
        lock(mutex)
        while True:
            try:
                print("holding")
                lock(mutex)  # waits for ever, and no signal ends it
            except BaseException:  # noqa: BLE001 - the signal came just before
                print("swallowed")

    with Rig() as rig:
        rig.load(hold)
        job = rig.submit()
        rig.until(lambda: "holding" in rig.process.tail.text())
        rig.process.cancel(job, 1, "cancel")
        with pytest.raises(AssertionError, match="no such frame"):
            rig.outcome(job, within_s=0.5)
        started = time.monotonic()
        assert rig.process.kill()
        assert time.monotonic() - started < 5


# -- coroutines --------------------------------------------------------------------------------------


def test_coroutines_run_side_by_side() -> None:
    """Given `concurrency` jobs that wait for each other, expect all of them to end; a further one waits."""
    state: dict[str, asyncio.Barrier] = {}

    async def meet(parties: int) -> int:
        if not parties:
            return -1
        barrier = state.setdefault("barrier", asyncio.Barrier(parties))
        return await barrier.wait()

    with Rig() as rig:
        assert rig.load(meet, mode="async", concurrency=3).type is FrameType.READY
        first = [rig.submit(3), rig.submit(3)]
        for _ in range(5):
            rig.turn()
        assert rig.frames == []
        first.append(rig.submit(3))
        last = rig.submit(0)
        assert {pickle.loads(rig.outcome(job).blob) for job in first} == {0, 1, 2}
        assert pickle.loads(rig.outcome(last).blob) == -1


def test_no_more_coroutines_than_allowed() -> None:
    """Given more jobs than `concurrency`, expect the others to wait their turn."""
    state = {"now": 0, "most": 0}

    async def count() -> int:
        state["now"] += 1
        state["most"] = max(state["most"], state["now"])
        await asyncio.sleep(0.01)
        state["now"] -= 1
        return state["most"]

    with Rig() as rig:
        rig.load(count, mode="async", concurrency=4)
        jobs = [rig.submit() for _ in range(20)]
        assert [pickle.loads(rig.outcome(job).blob) for job in jobs][-1] == 4


def test_coroutines_are_cancelled_one_by_one() -> None:
    """Given running and waiting coroutines, expect a CANCEL to end the one it names."""

    async def wait(seconds: float) -> str:
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            return "swallowed"
        return "done"

    with Rig() as rig:
        rig.load(wait, mode="async", concurrency=2)
        endless, finite, waiting = rig.submit(1e6), rig.submit(0.5), rig.submit(1e6)
        rig.process.cancel(waiting, 1, "cancel")
        assert rig.outcome(waiting).meta["status"] == "cancelled"
        rig.process.cancel(endless, 1, "timeout")
        assert rig.outcome(endless).meta["status"] == "timeout"
        assert rig.outcome(finite).meta["status"] == "ok"
        rig.process.cancel(finite, 1, "cancel")
        assert rig.value(0) == "done"


def test_errors_of_coroutines() -> None:
    """Given coroutines that raise, exit or cancel themselves, expect errors, and a loop that goes on."""

    async def misbehave(how: str) -> str:
        if how == "raise":
            raise ValueError(how)
        if how == "exit":
            sys.exit(3)
        if how == "cancel":
            raise asyncio.CancelledError
        if how == "exit in a task of its own":
            await asyncio.create_task(misbehave("exit"))
        return how

    with Rig() as rig:
        rig.load(misbehave, mode="async", concurrency=2)
        types = {
            how: rig.call(how).meta["error"]["type"]
            for how in ("raise", "exit", "cancel", "exit in a task of its own")
        }
        assert types == {
            "raise": "ValueError",
            "exit": "SystemExit",
            "cancel": "asyncio.exceptions.CancelledError",
            "exit in a task of its own": "SystemExit",
        }
        assert rig.value("fine") == "fine"
        rig.process.stop()
        assert rig.until_closed() == "exited with code 0"


def test_coroutines_with_large_results_and_stop() -> None:
    """Given large results under way when STOP comes, expect all of them, then exit status 0."""

    async def grow(size: int) -> bytes:
        return bytes(size)

    with Rig() as rig:
        rig.load(grow, mode="async", concurrency=8)
        jobs = [rig.submit(4 << 20) for _ in range(4)]
        rig.process.stop()
        assert [len(pickle.loads(rig.outcome(job).blob)) for job in jobs] == [4 << 20] * 4
        assert rig.until_closed() == "exited with code 0"


# -- crashes, children, lost supervisors -------------------------------------------------------------


def crash_by_signal() -> None:
    """Read from address 0."""
    ctypes.string_at(0)


def leave_at_once() -> None:
    """Leave without cleaning up, some output behind."""
    print("last words")
    os._exit(3)


@pytest.mark.parametrize(
    ("crash", "how", "said"),
    [
        (crash_by_signal, "killed by SIGSEGV", "Segmentation fault"),
        (leave_at_once, "exited with code 3", "last words"),
    ],
)
def test_a_crash_is_described(crash: Any, how: str, said: str) -> None:
    """Given a job that ends its process, expect how it ended and the last it said; and kill works after."""

    def run() -> None:
        crash()

    with Rig() as rig:
        rig.load(run)
        rig.submit()
        assert rig.until_closed() == how
        assert rig.process.kill()
        assert rig.process.kill()
        assert said in rig.process.tail.text()
        assert rig.process.exit_description() == how
        assert rig.process.readers() == rig.process.writers() == []


def test_outcomes_before_a_crash_are_received() -> None:
    """Given jobs that ended before the one that crashed, expect their outcomes."""

    def run(crash: bool) -> str:
        if crash:
            os._exit(1)
        return "fine"

    with Rig() as rig:
        rig.load(run)
        jobs = [rig.submit(False) for _ in range(10)]
        rig.submit(True)
        rig.submit(False)
        rig.until(lambda: rig.process.closed)
        assert [frame.meta["job"] for frame in rig.frames] == jobs


def test_sending_to_a_dead_executor_is_harmless() -> None:
    """Given an executor that is gone, expect run, cancel, keepalive and stop to do nothing."""
    with Rig() as rig:
        rig.load(lambda: os._exit(0))
        rig.submit()
        rig.until_closed()
        rig.submit(bytes(4 << 20))
        rig.process.cancel("e-1", 1, "cancel")
        rig.process.keepalive()
        rig.process.stop()
        assert rig.process.writers() == []
        assert rig.process.frames() == []


def test_a_child_left_behind_is_killed_with_the_executor() -> None:
    """Given a job that forks a child which outlives it, expect kill to take the child too."""

    def leave_child() -> int:
        pid = os.fork()
        if not pid:
            time.sleep(1_000)
            os._exit(0)
        return pid

    with Rig() as rig:
        rig.load(leave_child)
        child = rig.value()
        assert is_running(child)
        assert rig.process.kill()
        until(lambda: not is_running(child))


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_child_that_returns_from_the_job_answers_nothing(mode: Any) -> None:
    """Given a job whose forked child returns as well, expect one outcome, and the executor to go on."""

    def fork_and_return() -> int:
        return os.fork()

    async def fork_and_return_async() -> int:
        return os.fork()

    with Rig() as rig:
        rig.load(fork_and_return if mode == "sync" else fork_and_return_async, mode=mode)
        children = [rig.value() for _ in range(3)]
        assert all(children)
        until(lambda: not any(map(is_running, children)))
        assert rig.frames == []
        assert rig.process.alive


def test_kill_right_after_start() -> None:
    """Given an executor that has not begun, expect kill to end it; twice is once."""
    rig = Rig()
    assert rig.process.alive
    assert rig.process.exit_description() == "is still running"
    assert rig.process.kill()
    assert rig.process.wait(0)
    assert rig.process.exit_description() == "killed by SIGKILL"
    assert rig.process.kill()


def test_an_interpreter_that_is_not_there() -> None:
    """Given a path that is no interpreter, expect OSError, and no descriptor left open."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(FileNotFoundError):
        ExecutorProcess.start(Path("/no/such/python"), lease_s=1, env={}, cwd=Path("/"))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_no_keepalive_ends_the_executor() -> None:
    """Given keepalives, expect the executor to live past its lease; without them, to end soon after."""
    with Rig(lease_s=2.0) as rig:  # which it must have loaded within, on a busy machine too
        rig.load(sleep)
        rig.submit(1e6)
        started = time.monotonic()
        while time.monotonic() - started < 3.0:
            rig.process.keepalive()
            rig.turn()
        assert rig.process.alive
        assert rig.until_closed() == "killed by SIGKILL"


SUPERVISOR = textwrap.dedent(
    """
    import ctypes, os, select, sys, subprocess, time
    from pathlib import Path
    import cloudpickle
    from flashq_worker.executor_process import ExecutorProcess

    def job(how):
        child = subprocess.Popen(["sleep", "1000"])
        print("child", child.pid)
        if how == "hold":
            ctypes.PyDLL(None).sleep(1000)
        while True:
            time.sleep(0.01)

    process = ExecutorProcess.start(
        Path(sys.executable), lease_s=float(sys.argv[2]), env={"PATH": os.environ["PATH"]}, cwd=Path("/")
    )
    process.load(
        cloudpickle.dumps(job), mode="sync", concurrency=1, endpoint="e", revision="r", python=sys.argv[3]
    )
    process.run(
        "j", cloudpickle.dumps(((sys.argv[1],), {})), fence=1, encoding="pickle"
    )
    while True:
        select.select(process.readers(), process.writers(), [], 0.1)
        process.flush()
        process.frames()
        process.keepalive()
        if process.read_output():
            print(process.pid, process.tail.text().split()[1], flush=True)
    """
)


class Supervisor:
    """A process that holds an executor running one endless job with a child of its own."""

    def __init__(self, how: str, lease_s: float) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SUPERVISOR, how, str(lease_s), PYTHON], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.executor, self.child = map(int, self.process.stdout.readline().split())

    def __enter__(self) -> Supervisor:
        assert is_running(self.executor)
        assert is_running(self.child)
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.kill()
        self.process.communicate()
        until(lambda: not is_running(self.executor))
        until(lambda: not is_running(self.child))


@pytest.mark.parametrize("how", ["spin", "hold"])
def test_a_killed_supervisor_takes_its_executor_along(how: str) -> None:
    """Given kill -9 of the supervisor, expect executor and child gone within a second, GIL held or not."""
    with Supervisor(how, lease_s=60) as supervisor:
        supervisor.process.kill()
        until(lambda: not is_running(supervisor.executor), within_s=1)
        until(lambda: not is_running(supervisor.child), within_s=1)


def test_a_stopped_supervisor_loses_its_executor_after_a_lease() -> None:
    """Given a supervisor that is stopped, so that no keepalive comes, expect executor and child to end."""
    with Supervisor("spin", lease_s=1) as supervisor:
        supervisor.process.send_signal(19)
        until(lambda: not is_running(supervisor.executor), within_s=10)
        until(lambda: not is_running(supervisor.child), within_s=1)
