"""What an environment is: requirements and nothing else, resolved by uv; and what is lent to it."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import uv

from flashq.errors import EnvironmentBuildError, SpecError
from flashq.model import spec
from flashq_worker.environments import environment
from flashq_worker.environments import uv as environment_uv
from flashq_worker.inject import PACKAGES, inject_folder
from tests.integration.environment_rig import Site, version_of
from tests.integration.executor_rig import PYTHON

# -- requirements and digests ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        "--index-url=https://evil.test",
        "-r /etc/passwd",
        "-e .",
        "git+ssh://evil.test/x",
        "x @ file:///etc/passwd",
        "x @ https://evil.test/x.whl",
        "https://evil.test/x.whl",
        "./local",
        "/abs/x.whl",
        "x; curl evil.test",
        "x\n--index-url=https://evil.test",
        "",
        "x==",
    ],
)
def test_anything_but_a_requirement_is_refused(bad: str, site: Site) -> None:
    """Given an option, URL, path or nonsense as a dependency, expect SpecError that quotes it."""
    with pytest.raises(SpecError) as refused:
        site.ensure("tiny-a", bad)
    assert refused.value.parameter == "dependencies"
    assert repr(bad) in str(refused.value)
    assert not site.root.exists()


def test_requirements_are_normalised() -> None:
    """Given one set written in two ways, expect one digest, which is the spec's own."""
    first = ["Tiny_A >= 1 , <2", "tiny-b[Y,x]"]
    second = ["tiny-b[x,y]", "tiny.a<2,>=1", "tiny-a>=1,<2"]

    assert environment.requirements(first) == environment.requirements(second)
    digest = environment.environment_digest(first, PYTHON)
    assert digest == environment.environment_digest(second, PYTHON)
    assert digest != environment.environment_digest(first, "3.99")
    assert digest == spec.environment_digest(spec.EndpointSpec(name="e", dependencies=first))


# -- building ----------------------------------------------------------------------------------------


def test_an_environment_is_built_once(site: Site) -> None:
    """Given a set of dependencies, expect it to be installed by the first call and found by the second."""
    first = site.ensure("tiny-b")
    assert first.built
    assert first.build_ms > 0
    assert first.digest == environment.environment_digest(["tiny-b"], PYTHON)
    assert version_of(first) == "1.0"
    assert first.log is not None
    assert "tiny-a==1.0" in first.log.read_text()
    assert any("tiny-b==1.0" in line for line in site.lines)

    again = site.ensure("Tiny_B")
    assert (again.built, again.python, again.log) == (False, first.python, first.log)
    assert again.build_ms < 50


def test_sets_do_not_share(site: Site) -> None:
    """Given two sets, expect two environments, files shared by hard links into uv's cache."""
    one, two = site.ensure("tiny-a<2"), site.ensure("tiny-a")
    assert (version_of(one), version_of(two)) == ("1.0", "2.0")
    installed = next(two.python.parent.parent.glob("lib/*/site-packages/tiny_a.py"))
    assert installed.stat().st_nlink > 1


def test_console_scripts_work_where_the_environment_lies(site: Site) -> None:
    """Given an environment that was built aside and moved, expect its scripts to run."""
    built = site.ensure("tiny-a")
    said = subprocess.run([built.python.parent / "tiny-a"], check=True, capture_output=True, text=True)
    assert said.stdout == "2.0\n"


def test_it_holds_the_dependencies_and_nothing_else(site: Site) -> None:
    """Given an environment, expect no flashq, no redis and no package of the worker's in it."""
    built = site.ensure("tiny-a")
    others = ("flashq", "redis", "cloudpickle", "pip")
    code = f"import importlib.util as util; print([name for name in {others} if util.find_spec(name)])"
    said = subprocess.run([built.python, "-I", "-c", code], check=True, capture_output=True, text=True)
    assert said.stdout == "[]\n"


def test_no_dependencies_is_the_workers_own_interpreter(site: Site) -> None:
    """Given no dependencies, expect the interpreter that runs the worker, and nothing made."""
    own = site.ensure()
    assert (own.python, own.built, own.log) == (Path(sys.executable), False, None)
    assert not site.root.exists()


@pytest.mark.parametrize(
    ("dependency", "said"),
    [
        ("tiny-missing", "tiny-missing"),
        ("tiny-a>=3", "tiny-a>=3"),
        ("tiny-broken", "tiny-missing"),
    ],
)
def test_a_set_that_cannot_be_resolved(site: Site, dependency: str, said: str) -> None:
    """Given a dependency that does not exist, expect uv's words in the error, and no leftovers."""
    with pytest.raises(EnvironmentBuildError, match="could not install") as failed:
        site.ensure(dependency)
    assert dependency in str(failed.value)
    assert "No solution found" in failed.value.log_tail
    assert said in failed.value.log_tail
    left = sorted(path.suffix for path in site.root.iterdir())
    assert left == [".lock", ".log", ".use"]


def test_two_requirements_that_contradict(site: Site) -> None:
    """Given tiny-b, which needs tiny-a<2, beside tiny-a>=2, expect uv's explanation."""
    with pytest.raises(EnvironmentBuildError) as failed:
        site.ensure("tiny-b", "tiny-a>=2")
    assert "tiny-b" in failed.value.log_tail


def test_the_operators_uv_toml_is_in_force_and_no_other(
    site: Site, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given an index in the operator's uv.toml, and another in a project's where the worker runs, expect the first."""
    del site.variables["PIP_NO_INDEX"], site.variables["PIP_FIND_LINKS"]
    home, project = Path(site.variables["HOME"]), Path(site.variables["HOME"]) / "project"
    (home / ".config" / "uv").mkdir(parents=True)
    (home / ".config" / "uv" / "uv.toml").write_text(f'no-index = true\nfind-links = ["{wheels}"]\n')
    project.mkdir()
    (project / "uv.toml").write_text('find-links = ["/nowhere"]\n')
    (project / "pyproject.toml").write_text('[tool.uv]\nconstraint-dependencies = ["tiny-a<1"]\n')
    monkeypatch.chdir(project)
    assert version_of(site.ensure("tiny-b")) == "1.0"


@pytest.mark.parametrize(
    "network",
    [{"PIP_INDEX_URL": "http://user:canary@127.0.0.1:9/simple", "UV_HTTP_RETRIES": "0"}, {"UV_OFFLINE": "1"}],
    ids=["an index that is down", "offline"],
)
def test_without_a_network_it_is_the_machines_trouble(site: Site, network: dict[str, str]) -> None:
    """Given an index that cannot be asked, expect an error that another try may mend, and no leftovers.

    What was built before serves as ever.
    """
    built = site.ensure("tiny-a")
    del site.variables["PIP_NO_INDEX"], site.variables["PIP_FIND_LINKS"]
    site.variables |= network
    with pytest.raises(EnvironmentBuildError) as failed:
        site.ensure("tiny-b")
    assert not isinstance(failed.value, environment_uv.Unresolvable)
    assert "tiny-b" in failed.value.log_tail
    assert "canary" not in f"{failed.value} {failed.value.log_tail}"  # the index's password
    assert [path.name for path in site.root.iterdir() if path.is_dir()] == [built.digest]
    assert not site.ensure("tiny-a").built


def test_a_python_this_host_lacks(site: Site) -> None:
    """Given a Python version that is not installed, expect an error that names those that are."""
    with pytest.raises(EnvironmentBuildError, match=rf"no Python 3\.99; it has .*{PYTHON}"):
        site.ensure(python="3.99")


def test_another_python_of_this_host(site: Site) -> None:
    """Given another installed Python version, expect an environment of it, also without dependencies."""
    listing = subprocess.run(
        [uv.find_uv_bin(), "python", "list", "--only-installed", "--output-format", "json"],
        check=True,
        capture_output=True,
        env=site.variables,
    )
    minors = {f"3.{entry['version_parts']['minor']}" for entry in json.loads(listing.stdout)}
    others = sorted(minors - {PYTHON, "3.9", "3.8", "3.7"})
    if not others:
        pytest.skip(f"the only Python here is {PYTHON}")
    built = site.ensure(python=others[-1])
    code = "import sys; print(f'{sys.version_info.major}.{sys.version_info.minor}')"
    said = subprocess.run([built.python, "-c", code], check=True, capture_output=True, text=True)
    assert said.stdout.strip() == others[-1]


def test_a_folder_that_cannot_be_written(site: Site, tmp_path: Path) -> None:
    """Given a root that is a file, expect EnvironmentBuildError, not OSError."""
    site.root = tmp_path / "file" / "environments"
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentBuildError, match="cannot be built"):
        site.ensure("tiny-a")


def test_a_host_without_uv(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given no uv, neither as a package nor on PATH, expect an error that says how to get it."""
    monkeypatch.setitem(sys.modules, "uv", None)
    site.variables["PATH"] = "/nowhere"
    with pytest.raises(EnvironmentBuildError, match="pip install uv"):
        site.ensure("tiny-a")


def test_the_installer_sees_no_key(site: Site, tmp_path: Path) -> None:
    """Given a worker with a signing key in its environment, expect the installer to be started without it."""
    fake = tmp_path / "bin" / "uv"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\nenv\nexit 1\n")
    fake.chmod(0o755)
    site.variables["PATH"] = f"{fake.parent}:/usr/bin:/bin"
    site.variables["UV_TORCH_BACKEND"] = "cpu"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "uv", None)
        with pytest.raises(EnvironmentBuildError, match="uv venv exited with status 1") as failed:
            site.ensure("tiny-a")
    assert "UV_TORCH_BACKEND=cpu" in failed.value.log_tail
    assert "canary" not in failed.value.log_tail


@pytest.mark.slow
def test_a_real_package_from_the_index(tmp_path: Path) -> None:
    """Given this machine's own configuration, expect a small real package to be installed."""
    built = environment.ensure(["six==1.17.0"], PYTHON, tmp_path, lambda line: None)
    assert version_of(built, "six") == "1.17.0"


# -- the inject folder -------------------------------------------------------------------------------


def test_the_inject_folder_holds_three_packages(tmp_path: Path) -> None:
    """Given a home, expect a folder of links to flashq, flashq_worker and cloudpickle, made once."""
    folder = inject_folder(tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == sorted(PACKAGES)
    assert (folder / "flashq_worker" / "executor" / "boot.py").is_file()
    made = folder.stat().st_mtime_ns
    assert inject_folder(tmp_path) == folder
    assert folder.stat().st_mtime_ns == made


def test_many_make_the_inject_folder_at_once(tmp_path: Path) -> None:
    """Given ten workers that start at once, expect one folder and nothing beside it."""
    with ThreadPoolExecutor(10) as workers:
        folders = set(workers.map(lambda _: inject_folder(tmp_path), range(10)))
    assert set((tmp_path / "inject").iterdir()) == folders
    assert len(folders) == 1
