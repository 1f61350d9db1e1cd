"""`env`, `dependencies`, `python_version`, `max_concurrency`: what an endpoint's process is."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flashq import Endpoint
from flashq.client import use_client
from flashq.errors import EndpointFailed, FlashqError, JobExpired, PythonMismatch, SpecError
from tests.acceptance.stage import (
    OTHER_PYTHON,
    PYTHON,
    SMALL_PACKAGE,
    Stage,
    environment,
    require_index,
    stage,
)
from tests.rig import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.requires("valkey")

CANARY = "canary-8d1f0e7c"


@Endpoint(name="env", cpu="any", env={"TOKEN": CANARY, "EMPTY": "", "UMLAUT": "ü = 1\nsecond line"})
def look(what: str, *args: Any) -> Any:
    match what:
        case "env":
            return {name: os.environ.get(name) for name in args}
        case "all":
            return dict(os.environ)
        case "argv":
            return [sys.argv, Path("/proc/self/cmdline").read_bytes()]
        case "print":
            print("the token is", os.environ["TOKEN"])
        case "raise":
            raise RuntimeError("no")
        case "modules":
            return sorted({name.partition(".")[0] for name in sys.modules})
    return None


@Endpoint(name="env-concurrent", cpu="any", max_concurrency=3)
async def together(number: int, of: int) -> int:
    """Return once `of` calls are inside at the same time; how many there were at most."""
    state = together_state()
    state["inside"] += 1
    state["most"] = max(state["most"], state["inside"])
    for _ in range(500):
        if state["most"] >= of:
            break
        await asyncio.sleep(0.01)
    state["inside"] -= 1
    return int(state["most"])


def together_state() -> dict[str, int]:
    """State of the executor's process, found again by every call."""
    made: dict[str, int] = sys.__dict__.setdefault("_test_state", {"inside": 0, "most": 0})
    return made


@pytest.fixture(scope="module")
def theatre() -> Iterator[Stage]:
    with stage() as made:
        made.ready_worker(look)
        made.worker(together)
        yield made


@pytest.fixture(scope="module")
def deployment() -> Iterator[Stage]:
    """A host agent and an autoscaler, which start workers by themselves."""
    with stage() as made:
        made.start_stack()
        yield made


@pytest.fixture(autouse=True)
def _its_own_client(request: pytest.FixtureRequest) -> Iterator[None]:
    """Of the two stages of this module, the calls of a test go to the one it asked for, whichever was made last."""
    name = next(name for name in ("deployment", "theatre", "") if name in request.fixturenames or not name)
    if not name:
        yield
        return
    before = use_client(request.getfixturevalue(name).client)
    yield
    use_client(before)


def test_env_arrives(theatre: Stage) -> None:
    assert look.remote("env", "TOKEN", "EMPTY", "UMLAUT", "OTHER") == {
        "TOKEN": CANARY,
        "EMPTY": "",
        "UMLAUT": "ü = 1\nsecond line",
        "OTHER": None,
    }


def test_the_executor_sees_nothing_of_flashqs_settings(theatre: Stage) -> None:
    # If a function looks through its environment, expect no broker address and no key
    seen = look.remote("all")
    assert not [name for name in seen if name.startswith(("FLASHQ_", "RQ_", "REDIS_"))]
    assert not [value for value in seen.values() if theatre.server.url in value]


def test_env_is_sealed_in_the_broker(theatre: Stage) -> None:
    # Given an endpoint with a secret, called, so that all there is has been written
    theatre.broker.execute("CONFIG", "SET", "rdbcompression", "no")
    look.remote("print")

    # If everything in the broker is read, but for what the function itself printed or returned
    found = []
    for key in theatre.broker.execute("KEYS", "*"):
        if b":job:" in key:
            fields = theatre.broker.execute("HGETALL", key)
            text = b"".join(
                part
                for pair in zip(fields[::2], fields[1::2], strict=True)
                if pair[0] != b"fq_outcome"
                for part in pair
            )
        else:
            text = theatre.broker.execute("DUMP", key)
        if CANARY.encode() in text and b":logs:" not in key:
            found.append(key)

    # Expect the secret nowhere, though its name may be shown
    assert found == []


def test_env_is_not_in_argv_nor_in_logs_of_the_worker(theatre: Stage) -> None:
    # If the executor's command line, the supervisor's, and the supervisor's own log are read
    argv, cmdline = look.remote("argv")
    with pytest.raises(RuntimeError, match="no") as raised:
        look.remote("raise")
    worker = theatre.workers[0]
    supervisor = Path(f"/proc/{worker.process.pid}/cmdline").read_bytes()

    # Expect the secret in none of them, nor in the remote traceback
    assert CANARY not in repr(argv)
    assert CANARY.encode() not in cmdline + supervisor
    own_lines = [line for line in worker.log.read_text().splitlines() if not line.startswith("the token is")]
    assert CANARY not in "\n".join(own_lines)
    assert CANARY not in "\n".join(raised.value.__notes__)
    with contextlib.suppress(PermissionError):  # closed to all but root
        assert CANARY.encode() not in Path(f"/proc/{worker.process.pid}/environ").read_bytes()


@pytest.mark.parametrize("listing", ["endpoints", "workers", "jobs"])
def test_listings_mask_env(theatre: Stage, listing: str) -> None:
    # If the command line lists what there is
    job = look.spawn("env", "TOKEN")
    job.result(10)
    command = [sys.executable, "-m", "flashq", listing, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment(theatre))
    assert done.returncode == 0, done.stderr

    # Expect rows, without the secret
    assert isinstance(json.loads(done.stdout), list)
    assert done.stdout.count('"env"')
    assert CANARY not in done.stdout + done.stderr


@pytest.mark.timeout(90)
def test_a_changed_env_reaches_the_next_call(deployment: Stage) -> None:
    # Given a script whose env changes between two runs
    source = """
    from flashq import Endpoint

    @Endpoint(name="env-changed", cpu="any", env={"WORD": sys.argv[1]})
    def word():
        return os.environ["WORD"]

    tell(word=word.remote())
    """

    # Expect each run to see its own
    said = [deployment.run(source, value)["word"] for value in ("first", "second", "first")]
    assert said == ["first", "second", "first"]


def test_coroutines_run_at_the_same_time_up_to_their_number(theatre: Stage) -> None:
    # Given three slots in one executor, and calls that return only once three are inside
    jobs = [together.spawn(n, 3) for n in range(9)]

    # Expect them to meet, and never more than three
    assert {job.result(20) for job in jobs} == {3}


def test_concurrent_jobs_of_one_executor_keep_their_endings_apart(theatre: Stage) -> None:
    said = theatre.run(
        """
        import asyncio
        from flashq import Endpoint

        @Endpoint(name="env-prints", cpu="any", max_concurrency=4)
        async def work(n):
            for k in range(3):
                print(f"job {n} line {k}")
                await asyncio.sleep(0.01)
            if n == 2:
                raise ValueError("two")
            return n

        jobs = [work.spawn(n) for n in range(4)]
        values = []
        for job in jobs:
            try:
                values.append(job.result(20))
            except ValueError as error:
                values.append(str(error))
        tell(values=values)
        """,
        serve="env-prints",
    )
    assert said["values"] == [0, 1, "two", 3]


def test_a_dependency_that_does_not_exist_fails_the_call_with_the_installers_words(deployment: Stage) -> None:
    require_index()

    # Given an endpoint that needs a package nobody has
    @Endpoint(name="env-nowhere", cpu="any", dependencies=["flashq-no-such-package-0000==9.9.9"])
    def nowhere() -> None: ...

    # If it is called twice, the second time when it is known not to start
    for patience_s in (40, 5):
        job = nowhere.spawn()
        with pytest.raises(EndpointFailed) as raised:
            job.result(patience_s)

        # Expect the call to fail, naming the package and the job, with what the installer said
        assert "flashq-no-such-package-0000==9.9.9" in str(raised.value)
        assert "No solution found" in str(raised.value)
        assert job.id in str(raised.value)
        assert job.done


def test_requirements_that_contradict_fail_the_call_with_the_installers_words(deployment: Stage) -> None:
    # Given an endpoint whose requirements exclude each other, which uv can tell without asking anybody
    @Endpoint(name="env-conflict", cpu="any", dependencies=["tiny-conflict==1.0", "tiny-conflict==2.0"])
    def impossible() -> None: ...

    # If it is called, expect uv's explanation in the caller's error, after two starts
    with pytest.raises(EndpointFailed) as raised:
        impossible.spawn().result(40)
    assert "tiny-conflict==1.0" in str(raised.value)
    assert "tiny-conflict==2.0" in str(raised.value)
    assert "unsatisfiable" in str(raised.value)
    assert deployment.endpoint_field("env-conflict", "broken") == "2"


def test_a_function_that_does_not_load_fails_the_call_with_its_traceback(deployment: Stage) -> None:
    # Given a function that captures something which cannot be unpickled on a worker
    program = deployment.start(
        """
        from flashq import Endpoint

        class Sulky:
            def __reduce__(self):
                return (exec, ("raise RuntimeError('not on this machine')",))

        sulky = Sulky()

        @Endpoint(name="env-sulky", cpu="any")
        def work():
            return sulky

        try:
            work.remote()
        except Exception as error:
            tell(kind=type(error).__name__, text=str(error))
        """
    )

    # Expect the call to fail in finite time, with the reason
    said = program.end()
    assert said["kind"] == "EndpointFailed"
    assert "not on this machine" in said["text"]


def test_an_expired_ttl_is_told_though_no_worker_ever_comes(deployment: Stage) -> None:
    # Given an endpoint for a GPU that no host here has
    @Endpoint(name="env-gpu", gpu="NVIDIA H100 80GB HBM3", ttl=1)
    def on_gpu() -> None: ...

    # If it is called, expect JobExpired to whoever waits, once its time is up
    with pytest.raises(JobExpired):
        on_gpu.spawn().result(20)


@pytest.mark.timeout(120)
def test_a_dependency_is_installed_once_and_only_for_its_endpoint(deployment: Stage) -> None:
    require_index()

    # Given an endpoint that needs a small package which this interpreter need not have, at a given version
    @Endpoint(name="env-small", cpu="any", dependencies=[SMALL_PACKAGE])
    def version() -> tuple[str, str]:
        import importlib.metadata

        import iniconfig

        return importlib.metadata.version("iniconfig"), iniconfig.__file__

    # If it is called, and another endpoint with the same dependencies after it
    got, path = version.spawn().result(60)

    @Endpoint(name="env-small-too", cpu="any", dependencies=[SMALL_PACKAGE])
    def path_of() -> str:
        import iniconfig

        return iniconfig.__file__

    job = path_of.spawn()

    # Expect that version, from one environment in the host's home, installed once for both
    assert job.result(30) == path
    assert got == "2.0.0"
    assert str(deployment.home) in path
    assert len(list(deployment.home.rglob("iniconfig-2.0.0.dist-info"))) == 1

    # Expect the environment to have nothing of the host's own packages
    @Endpoint(name="env-small-alone", cpu="any", dependencies=[SMALL_PACKAGE])
    def found() -> list[str]:
        import importlib.util

        return [name for name in ("redis", "rq", "pydantic", "pytest") if importlib.util.find_spec(name)]

    assert found.spawn().result(30) == []


@pytest.mark.timeout(120)
def test_an_environment_that_was_damaged_is_mended_and_no_call_fails(deployment: Stage) -> None:
    require_index()

    class Captured:
        """Needs the package when it is unpickled, which is when the function is loaded."""

        def __reduce__(self) -> tuple[Any, ...]:
            return (exec, ("import iniconfig; iniconfig.IniConfig",))

    needed = Captured()

    # Given an environment in which a worker of one endpoint runs, and of which a file is gone
    @Endpoint(name="env-damaged", cpu="any", dependencies=["iniconfig==2.1.0"], idle_timeout=600)
    def where() -> str:
        import iniconfig

        return iniconfig.__file__

    file = Path(where.spawn().result(60))
    file.unlink()

    # If another endpoint's worker starts there, expect it to have the file again, and its call to end well
    @Endpoint(name="env-mended", cpu="any", dependencies=["iniconfig==2.1.0"])
    def mended() -> tuple[bool, str]:
        import iniconfig

        return needed is None, iniconfig.__file__

    assert mended.spawn().result(60) == (True, str(file))
    assert file.exists()
    assert deployment.endpoint_field("env-mended", "failures") in ("", "0")

    # Expect it to be the same worker that mended it
    assert [event for event in deployment.events("worker-lost") if event["endpoint"] == "env-mended"] == []


@pytest.mark.timeout(120)
def test_a_volume_that_no_host_has_throttles_until_it_is_there(deployment: Stage, tmp_path: Path) -> None:
    # Given an endpoint whose volume is a folder that is not there
    volume = tmp_path / "volume"

    @Endpoint(name="env-volume", cpu="any", volume=str(volume), system_dependencies=["no-such-package-0000"])
    def unable() -> None: ...

    @Endpoint(name="env-volume-alone", cpu="any", volume=str(volume))
    def keep(text: str) -> str:
        place = Path(os.environ["FLASHQ_VOLUME"])
        (place / "kept").write_text(text)
        return str(place)

    # If both are called, expect each to be throttled, with the name of what is missing
    jobs = unable.spawn(), keep.spawn("hello")

    def reason(name: str) -> str:
        return deployment.endpoint_field(name, "condition")

    wait_until(lambda: "LACKING" in reason("env-volume"), 30)
    assert "package no-such-package-0000" in reason("env-volume")
    wait_until(lambda: f"lacks folder {volume}" in reason("env-volume-alone"), 30)

    # If the folder is made, expect the endpoint that lacks nothing more to run, and to find it
    volume.mkdir()
    assert jobs[1].result(60) == str(volume)
    assert (volume / "kept").read_text() == "hello"
    assert not jobs[0].done
    jobs[0].cancel()


def test_model_caches_are_one_folder_of_the_host(deployment: Stage) -> None:
    @Endpoint(name="env-models", cpu="any")
    def caches() -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if name in ("HF_HOME", "TORCH_HOME")}

    models = deployment.home / "models"
    assert caches.spawn().result(30) == {
        "HF_HOME": os.environ.get("HF_HOME") or str(models / "huggingface"),
        "TORCH_HOME": os.environ.get("TORCH_HOME") or str(models / "torch"),
    }


def test_a_module_with_endpoints_works_where_flashqs_dependencies_are_missing(deployment: Stage) -> None:
    require_index()

    # Given a function that, on its worker, imports the module of another endpoint and runs it there
    said = deployment.run(
        """
        from flashq import Endpoint
        import others

        @Endpoint(name="env-others", cpu="any", dependencies=["iniconfig==2.0.0"])
        def work(x):
            return others.double.local(x)

        tell(value=work.spawn(21).result(40))
        """,
        modules={
            "others.py": """
                from flashq import Endpoint

                @Endpoint(name="env-double", cpu="any")
                def double(x):
                    return 2 * x
            """
        },
    )
    assert said["value"] == 42


def test_the_function_runs_without_flashqs_dependencies_loaded(theatre: Stage) -> None:
    # If a function looks at what its process has imported, expect nothing of the broker's
    modules = look.remote("modules")
    assert not {"redis", "rq", "pydantic", "msgpack"} & set(modules)


def test_another_python_is_refused_naming_both(theatre: Stage) -> None:
    # If an endpoint asks for a Python that is not this program's
    def decorate_and_call() -> None:
        @Endpoint(name="env-python", cpu="any", python_version=OTHER_PYTHON)
        def other() -> None: ...

        other.spawn()

    # Expect a refusal at the latest at submit, naming both versions, and no job
    with pytest.raises((SpecError, PythonMismatch)) as raised:
        decorate_and_call()
    assert isinstance(raised.value, FlashqError)
    assert PYTHON in str(raised.value)
    assert OTHER_PYTHON in str(raised.value)
    assert theatre.states("env-python") == {}


def test_this_python_is_the_default(theatre: Stage) -> None:
    assert PYTHON in json.loads(theatre.endpoint_field("env", "spec"))["environment"]["python"]
