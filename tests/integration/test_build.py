"""`flashq build`: projects on disk, real imports in a process of their own, the real uv and tiny wheels."""

from __future__ import annotations

import json
import tarfile
from typing import TYPE_CHECKING

import psutil
import pytest

from flashq.apps.build import build
from flashq.apps.discovery import discover
from flashq.errors import BuildError
from tests.integration.app_project import Project
from tests.integration.environment_rig import make_wheel, make_wheels
from tests.rig import wait_until

if TYPE_CHECKING:
    from pathlib import Path

GREET = """
from flashq import Endpoint
from shop.words import polite

@Endpoint(name="build-greet", cpu="any", dependencies=["tiny-b"], env={"TOKEN": "canary-in-env"})
def greet(name: str) -> str:
    "Greets somebody."
    return polite(name)
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    make_wheels(folder)
    make_wheel(folder, "tiny-win", "1.0")
    (folder / "tiny_win-1.0-py3-none-any.whl").rename(folder / "tiny_win-1.0-cp311-cp311-win_amd64.whl")
    return folder


@pytest.fixture
def project(tmp_path: Path, wheels: Path) -> Project:
    made = Project(tmp_path / "shop-app", wheels, {"FLASHQ_SECRET_KEY": "ca" * 32})
    made.write(greet=GREET, shop__words="def polite(name): return f'Dear {name}'")
    return made


def contents(artifact: str) -> dict[str, bytes]:
    with tarfile.open(artifact) as tar:
        return {one.name: tar.extractfile(one).read() for one in tar}  # type: ignore[union-attr]


def test_an_artifact_has_endpoints_files_and_locked_dependencies_and_is_the_same_twice(
    project: Project, tmp_path: Path
) -> None:
    project.write(
        _dot_gitignore="secret.txt\nscratch/\n",
        secret_dot_txt="canary-in-file",
        _dot_env="TOKEN=canary-in-dotenv",
        data__words_dot_txt="plain data",
        scratch__notes="raise SystemExit('never imported')",
        tests__test_greet="raise SystemExit('never imported')",
        model="""
            from flashq import Endpoint
            @Endpoint(name="build-model", cpu="any")
            class Model:
                def __init__(self, size=2):
                    self.size = size
                def predict(self, x):
                    return x * self.size
            """,
    )
    first = project.done("build", "--output", str(tmp_path / "one.tar"))
    second = project.done("build", "--output", str(tmp_path / "two.tar"))
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    assert first["digest"] == second["digest"]
    assert [one["name"] for one in first["endpoints"]] == ["build-greet", "build-model"]
    assert first["endpoints"][0]["about"] == "Greets somebody."

    held = contents(str(tmp_path / "one.tar"))
    sources = {path for path in held if path.startswith("source/")}
    assert sources == {
        *("source/greet.py", "source/shop/words.py", "source/data/words.txt", "source/model.py"),
    }
    assert sum(path.endswith("tiny_a.py") for path in held) == 1
    holding = [path for path, raw in held.items() if b"canary" in raw]
    assert holding == ["source/greet.py"]  # where its author wrote it
    manifest = json.loads(held["manifest.json"])
    (locked,) = [one for one in manifest["environments"].values() if one["lock"]]
    assert "tiny-a==1.0" in locked["lock"]
    assert locked["lock"].count("--hash=sha256:") == 2


def test_the_fingerprint_is_of_sources_alone(project: Project) -> None:
    before = project.done("build")
    assert project.done("build", "--no-deps")["fingerprint"] == before["fingerprint"]
    project.write(shop__words="def polite(name): return name")
    assert project.done("build")["fingerprint"] != before["fingerprint"]


def test_packages_that_are_excluded_are_left_to_hosts(project: Project, tmp_path: Path) -> None:
    project.done("build", "--exclude", "Tiny_A", "--output", str(tmp_path / "less.tar"))
    held = contents(str(tmp_path / "less.tar"))
    assert not any("tiny_a" in path for path in held)
    assert any("tiny_b" in path for path in held)
    (environment,) = json.loads(held["manifest.json"])["environments"].values()
    assert environment["fetched"].startswith("tiny-a==1.0 --hash=sha256:")


WRONG: list[tuple[str, dict[str, str], str]] = [
    (
        "a file that defines endpoints and cannot be imported",
        {"broken": "from flashq import Endpoint\nimport not_there\n"},
        "broken.py:2: ModuleNotFoundError: No module named 'not_there'",
    ),
    ("no Python", {"broken": "from flashq import Endpoint\ndef (:\n"}, "SyntaxError"),
    (
        "a wrong parameter",
        {"broken": "from flashq import Endpoint\n@Endpoint(name='x', wrokers=3)\ndef f(): ...\n"},
        "no such parameter (did you mean",
    ),
    (
        "a call while it is imported",
        {"main": "from greet import greet\nfrom flashq import Endpoint\nprint(greet.remote('x'))\n"},
        "main.py:3: flashq.errors.UnsupportedCall: it calls an endpoint while it is imported",
    ),
    (
        "it ends the program",
        {"main": "import flashq, sys\nsys.exit(3)\n"},
        "it ends the program (SystemExit: 3) while it is imported",
    ),
    (
        "an ignored file that is imported",
        {"_dot_gitignore": "shop/*.py\n"},
        "shop/words.py is imported (as shop.words), and left out by 'shop/*.py' in .gitignore",
    ),
    (
        "one name twice",
        {
            "again": "from flashq import Endpoint\n@Endpoint(name='build-greet', cpu='any')\ndef other(): ...\n"
        },
        "endpoint 'build-greet' is",
    ),
    (
        "a class that needs arguments",
        {
            "model": "from flashq import Endpoint\n@Endpoint(name='build-m', cpu='any')\nclass M:\n"
            "    def __init__(self, size): ...\n    def run(self): ...\n"
        },
        "make a handle in this module, as m = M(…)",
    ),
    (
        "a dependency without a wheel for the target",
        {
            "more": "from flashq import Endpoint\n@Endpoint(cpu='any', dependencies=['tiny-broken'])\ndef f(): ...\n"
        },
        "tiny-missing",
    ),
    (
        "a dependency of which there are wheels for other machines alone",
        {
            "more": "from flashq import Endpoint\n@Endpoint(cpu='any', dependencies=['tiny-win'])\ndef f(): ...\n"
        },
        "tiny-win==1.0 has no wheels with a matching platform tag",
    ),
    (
        "a dependency that is an option",
        {
            "more": "from flashq import Endpoint\n@Endpoint(cpu='any', dependencies=['-r /etc/passwd'])\ndef f(): ...\n"
        },
        "-r /etc/passwd",
    ),
]


@pytest.mark.parametrize(("what", "files", "said"), WRONG, ids=[what for what, *_ in WRONG])
def test_what_is_wrong_is_named(
    project: Project, monkeypatch: pytest.MonkeyPatch, what: str, files: dict[str, str], said: str
) -> None:
    project.write(**files)
    for name, value in project.variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BuildError) as caught:
        build(project.folder)
    assert said in str(caught.value)
    assert not (project.folder / ".flashq").exists()


def test_a_file_that_defines_nothing_may_fail_to_import(project: Project) -> None:
    project.write(plot="import not_there_either\n")
    done = project.run("build")
    assert done.returncode == 0, done.stderr
    assert "plot.py could not be imported: ModuleNotFoundError" in done.stderr


def test_a_link_to_elsewhere_is_refused(project: Project) -> None:
    (project.folder / "passwords").symlink_to("/etc/passwd")
    assert "passwords is a link to something outside of the project" in project.refused("build")


def test_a_project_without_endpoints_is_refused(tmp_path: Path, wheels: Path) -> None:
    made = Project(tmp_path / "empty", wheels, {})
    made.write(main="print('hello')\n")
    assert "defines no endpoint" in made.refused("build")


def test_user_code_sees_no_key_while_it_is_imported(project: Project) -> None:
    project.write(peek="import os, flashq\nassert 'FLASHQ_SECRET_KEY' not in os.environ\n")
    project.done("build")


def test_a_project_that_is_written_for_flash_is_built_as_it_is(tmp_path: Path, wheels: Path) -> None:
    # Given files of Flash's users: a function on a GPU, a class, routes that are plain functions
    project = Project(tmp_path / "flash-app", wheels, {})
    project.write(
        gpu_worker="""
            from runpod_flash import Endpoint, GpuType
            from shared.words import polite

            @Endpoint(name="build-flash", gpu=GpuType.NVIDIA_H200)
            async def greet(data: dict) -> str:
                "Greets on a GPU."
                return polite(data["name"])

            @Endpoint(name="build-flash-class", cpu="cpu5c-4-8")
            class Model:
                async def predict(self, x: int) -> int:
                    return x
            """,
        routes="""
            from runpod_flash import Endpoint
            api = Endpoint(name="build-flash-api", cpu="cpu3c-1-2")

            @api.get("/health")
            def health() -> dict:
                return {"ok": True}
            """,
        shared__words="def polite(name): return f'Dear {name}'",
    )

    # If it is built, expect its endpoints, the stand-in for the import among the files, and what is not as written said
    done = project.run("build", "--json", "--output", str(tmp_path / "flash.tar"))
    told = json.loads(done.stdout)
    assert [(one["name"], one["attribute"], one["about"]) for one in told["endpoints"]] == [
        ("build-flash", "greet", "Greets on a GPU."),
        ("build-flash-api", "api", ""),
        ("build-flash-class", "Model", ""),
    ]
    held = contents(str(tmp_path / "flash.tar"))
    assert "source/runpod_flash/__init__.py" in held
    assert done.stderr.count("are preferred") == 1
    (sized,) = [
        one for one in json.loads(held["manifest.json"])["endpoints"] if one["name"] == "build-flash-class"
    ]
    assert "cpu5c-4-8" in json.dumps(sized)


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_file_that_does_not_end_is_given_up_and_nothing_is_left_running(project: Project) -> None:
    project.write(
        endless="""
        import os, time, pathlib
        pathlib.Path("pid").write_text(str(os.getpid()))
        time.sleep(600)
        """
    )

    # If importing takes too long, expect an error that says what to do
    with pytest.raises(BuildError, match="took longer than 3 s: what a file does when it is run"):
        discover(project.folder, ["endless.py"], timeout_s=3)
    pid = int((project.folder / "pid").read_text())
    assert not _runs(pid)

    # If the build is killed meanwhile, expect what imports the files to end with it
    (project.folder / "pid").unlink()
    with project.begin("build") as process:
        wait_until((project.folder / "pid").exists, what="the file is being imported")
        wait_until((project.folder / "pid").read_text, what="its process is known")
        process.kill()
    pid = int((project.folder / "pid").read_text())
    wait_until(lambda: not _runs(pid), what="nothing is left running")


def test_images_that_serve_and_images_that_functions_run_in(project: Project, tmp_path: Path) -> None:
    project.write(
        images="""
            from flashq import Endpoint
            llm = Endpoint(name="build-llm", image="vllm/vllm-openai:v0.10", cpu="any", env={"PORT": "8000"})
            inside = Endpoint(name="build-inside", image="python:3.11", cpu="any")
            """,
        uses="""
            from flashq import Endpoint
            from images import inside, llm

            @inside
            def run(x: int) -> int:
                return x
            """,
    )
    project.done("build", "--output", str(tmp_path / "images.tar"))
    manifest = json.loads(contents(str(tmp_path / "images.tar"))["manifest.json"])
    found = {one["name"]: (one["module"], one["attribute"], one["serves"]) for one in manifest["endpoints"]}
    assert found["build-llm"] == ("images", "llm", 8000)
    assert found["build-inside"] == ("uses", "run", 0)
