"""Programs written for Flash run as they are: `python -m flashq.compat script.py`, on a whole deployment."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.stage import SMALL_PACKAGE, Stage, require_index, stage
from tests.nvml.machine import Device, Machine
from tests.rig import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(120)
COMPAT = ["-m", "flashq.compat"]


@pytest.fixture(scope="module")
def theatre() -> Iterator[Stage]:
    with stage() as made:
        made.start_stack()
        yield made


@pytest.mark.requires("valkey")
def test_a_flash_project_runs_unchanged(theatre: Stage) -> None:
    # Given a project of several files as Flash's users write them: functions and a class, which call each other across
    # files by imports inside functions, one decorated the older way, and tests under `if __name__ == "__main__"`
    program = theatre.start(
        """
        import asyncio
        import logging
        from runpod_flash import Endpoint, LiveServerless, CpuLiveServerless, remote
        from runpod_flash.core.resources import CpuInstanceType

        logger = logging.getLogger(__name__)

        @Endpoint(name="flash pipeline", cpu="cpu3c-1-2", workers=(0, 2), idle_timeout=1)
        async def classify(text: str) -> dict:
            from workers.text import Model, clean

            cleaned = await clean({"text": text})
            model = Model()
            return {"label": await model.label(cleaned["text"]), "size": await model.size(cleaned["text"])}

        config = CpuLiveServerless(name="flash-older", instanceIds=[CpuInstanceType.CPU3C_1_2], idleTimeout=1)

        @remote(resource_config=config)
        def older(a, b=1):
            import runpod_flash
            return [a + b, runpod_flash.Endpoint.__module__]

        backend = Endpoint(id="flash-clean")

        @Endpoint(name="flash-orchestrator", cpu="cpu3c-1-2", idle_timeout=1)
        async def orchestrate(text: str) -> list:
            job = await backend.runsync({"data": {"text": text}})
            return [job.done, job.output]

        async def both():
            return await asyncio.gather(classify("  a  b "), older(1, b=2), orchestrate(" c "))

        if __name__ == "__main__":
            tell(one=asyncio.run(classify(" x ")), both=asyncio.run(both()), argv=sys.argv, file=__file__)
        """,
        modules={
            "workers/__init__.py": "",
            "workers/text.py": """
                from runpod_flash import CpuInstanceType, Endpoint

                @Endpoint(name="flash-clean", cpu=CpuInstanceType.CPU3C_1_2, idle_timeout=1)
                async def clean(data: dict) -> dict:
                    import re
                    return {"text": re.sub(r"\\s+", " ", data["text"].strip())}

                @Endpoint(name="flash-model", cpu="cpu3c-1-2", idle_timeout=1)
                class Model:
                    def __init__(self, scale: int = 10) -> None:
                        self.scale = scale

                    async def label(self, text: str) -> str:
                        return text.upper()

                    def size(self, text: str) -> int:
                        return len(text) * self.scale
            """,
        },
        command=[*COMPAT, "script.py", "--flag", "a"],
    )
    said = program.end(90)

    # Expect what Flash gives, and one line for the name that had to change
    assert said["one"] == {"label": "X", "size": 10}
    assert said["both"] == [
        {"label": "A B", "size": 30},
        [3, "flashq.compat.endpoint"],
        [True, {"text": "c"}],
    ]
    assert said["argv"] == ["script.py", "--flag", "a"]
    assert said["file"] == str(program.folder / "script.py")
    told = [line for line in program.errors.splitlines() if " waits: " not in line]
    assert told == ["flashq: the endpoint 'flash pipeline' is named 'flash-pipeline' here"]


@pytest.mark.requires("valkey", "nvml")
def test_a_gpu_that_no_host_has_is_another_one_unless_names_are_exact(tmp_path: Path) -> None:
    # Given one host, whose GPU is an L4, and a program that names an H200
    with stage() as theatre:
        machine = Machine(tmp_path, Device("GPU-l4"))
        home = {"FLASHQ_HOME": str(theatre.folder() / "h"), **machine.environ({})}
        theatre.start(command=["-m", "flashq", "host"], env=home)
        theatre.start(command=["-m", "flashq", "autoscaler"])
        source = """
        import asyncio
        from runpod_flash import DataCenter, Endpoint, GpuType

        @Endpoint(name="flash-gpu", gpu=GpuType.NVIDIA_H200, datacenter=DataCenter.EU_RO_1)
        async def where() -> str:
            return os.environ["CUDA_VISIBLE_DEVICES"]

        tell(where=asyncio.run(where()))
        """

        # If it runs, expect that GPU to be used, and a line for each thing that is not as it says
        program = theatre.start(source, command=[*COMPAT, "script.py"])
        assert program.end(60)["where"] == "GPU-l4"
        lines = program.errors.splitlines()
        assert len(lines) == 2
        assert "such as NVIDIA H200, are preferred" in lines[0]
        assert "such as EU-RO-1, are the cloud's" in lines[1]

        # If its names are to be exact, expect it to wait, and to be told for what
        program = theatre.start(source, command=[*COMPAT, "--exact", "script.py"])
        wait_until(lambda: "flash-gpu waits:" in program.errors, 30)
        assert "are preferred" not in program.errors
        program.process.terminate()
        program.ended()


@pytest.mark.requires("valkey")
def test_routes_and_functions_that_share_workers(theatre: Stage) -> None:
    # Given a program with routes, with functions of one endpoint, and with a client of its own routes
    said = theatre.run(
        """
        import asyncio
        from runpod_flash import CpuLiveLoadBalancer, Endpoint, remote

        api = Endpoint(name="flash-api", cpu="cpu3c-1-2", idle_timeout=1)
        shared = Endpoint(name="flash-both", cpu="cpu3c-1-2", idle_timeout=1)

        @shared
        async def length(text: str) -> int:
            return len(text)

        @shared
        def process(text: str) -> list:
            return [text, os.getpid()]

        @api.get("/health")
        async def health() -> dict:
            return {"status": "ok"}

        @api.post("/transform")
        async def transform(text: str, operation: str = "upper") -> dict:
            return {"text": getattr(text, operation)(), "length": await length(text)}

        @remote(CpuLiveLoadBalancer(name="flash-old-api", idleTimeout=1), method="POST", path="/add")
        async def add(a: int, b: int) -> int:
            return a + b

        async def main():
            client = Endpoint(id="flash-api")
            one, two = await asyncio.gather(process("a"), process("b"))
            tell(
                called=[await health(), await transform("Ab"), await add(1, 2)],
                asked=[await client.get("/health"), await client.post("/transform", {"text": "Ab"})],
                shared=[one[0], two[0], one[1] == two[1], await length("abc")],
            )

        asyncio.run(main())
        """,
        command=[*COMPAT, "script.py"],
    )

    # Expect each to answer, called or asked
    assert said["called"] == [{"status": "ok"}, {"text": "AB", "length": 2}, 3]
    assert said["asked"] == [{"status": "ok"}, {"text": "AB", "length": 2}]
    assert said["shared"] == ["a", "b", True, 3]


@pytest.mark.requires("valkey")
def test_workers_import_the_stand_in_and_say_nothing(theatre: Stage) -> None:
    # Given a function of another module, in an environment of its own, whose file names GPUs and decorates
    require_index()
    said = theatre.run(
        """
        import asyncio
        from helper import packages

        tell(**asyncio.run(packages()))
        job = packages()
        tell(value=job.result(60), log=list(job.logs()))
        """,
        modules={
            "helper.py": f"""
                from runpod_flash import Endpoint, GpuType

                @Endpoint(name="flash-other", gpu=GpuType.NVIDIA_H200)
                async def other(): ...

                @Endpoint(name="flash-alone", cpu="cpu3c-1-2", idle_timeout=1, dependencies=["{SMALL_PACKAGE}"])
                async def packages() -> dict:
                    import helper
                    import iniconfig
                    import runpod_flash
                    print("running")
                    return {{"parts": [helper.other.name, runpod_flash.GpuType.NVIDIA_L4.value, iniconfig.__name__]}}
            """,
        },
        command=[*COMPAT, "script.py"],
    )

    # Expect what it imports to be there, and nothing in its log but what it printed
    assert said["parts"] == ["flash-other", "NVIDIA L4", "iniconfig"]
    assert said["log"] == ["running"]


# -- the program that runs it ------------------------------------------------------------------------


def run(folder: Path, source: str, *words: str) -> subprocess.CompletedProcess[str]:
    (folder / "script.py").write_text(source, "utf-8")
    command = [sys.executable, *COMPAT, *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=50)


def test_a_traceback_begins_in_the_program(tmp_path: Path) -> None:
    done = run(tmp_path, "def f():\n    raise KeyError('x')\n\nf()\n", "script.py")

    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "Traceback (most recent call last):",
        f'  File "{tmp_path}/script.py", line 4, in <module>',
        "    f()",
        f'  File "{tmp_path}/script.py", line 2, in f',
        "    raise KeyError('x')",
        "KeyError: 'x'",
    ]


def test_what_is_refused_is_shown_where_it_is_written(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        "from runpod_flash import Endpoint\nEndpoint(name='x', flashboot=False)\n",
        "script.py",
    )

    assert done.returncode == 1
    assert f'"{tmp_path}/script.py", line 2' in done.stderr
    assert "NotSupportedError: Endpoint(flashboot=False): processes are kept ready" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "the following arguments are required"),
        (["nothing.py"], 2, "flashq: can't open 'nothing.py': No such file or directory"),
        (["--volume", "x", "script.py"], 2, "--volume x: wants NAME=FOLDER with an absolute folder"),
        (["script.py"], 3, ""),
        (["-m", "script"], 3, ""),
        (["-h"], 0, ""),
    ],
)
def test_exit_codes_are_the_programs_or_2(tmp_path: Path, words: list[str], code: int, said: str) -> None:
    done = run(
        tmp_path, "import runpod_flash\nraise SystemExit(3 if __name__ == '__main__' else 4)\n", *words
    )

    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr
