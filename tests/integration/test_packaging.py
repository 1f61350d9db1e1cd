"""The wheel: the three packages, whole, and nothing else; usable without the checkout; true metadata."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from email import message_from_string
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import pytest

from flashq._version import __version__

if TYPE_CHECKING:
    from email.message import Message

ROOT = Path(__file__).parent.parent.parent
PACKAGES = {
    "flashq": ROOT / "flashq",
    "flashq_worker": ROOT / "workers/flashq_worker",
    "flashq_autoscaler": ROOT / "autoscaler/flashq_autoscaler",
}
DIST_INFO = f"flashq-{__version__}.dist-info"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that this checkout builds."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    built = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = folder.iterdir()
    return path


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    """The wheel's METADATA."""
    with zipfile.ZipFile(wheel) as archive:
        return message_from_string(archive.read(f"{DIST_INFO}/METADATA").decode())


def files_in(wheel: Path) -> set[PurePosixPath]:
    with zipfile.ZipFile(wheel) as archive:
        return {PurePosixPath(name) for name in archive.namelist()}


def test_the_wheel_holds_the_three_packages_and_nothing_else(wheel: Path) -> None:
    assert {file.parts[0] for file in files_in(wheel)} == {*PACKAGES, DIST_INFO}


def test_the_wheel_holds_every_module_script_and_type_marker_of_them(wheel: Path) -> None:
    expected = {
        PurePosixPath(package, *file.relative_to(folder).parts)
        for package, folder in PACKAGES.items()
        for pattern in ("*.py", "*.lua", "py.typed", "static/*")
        for file in folder.rglob(pattern)
    }
    assert {PurePosixPath(package, "py.typed") for package in PACKAGES} <= expected
    assert any(file.match("flashq/store/lua/*.lua") for file in expected)

    assert {file for file in files_in(wheel) if file.parts[0] in PACKAGES} == expected


def test_the_wheel_imports_from_its_own_folder(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        f"import {', '.join(PACKAGES)}, flashq.cli\n"
        f"print(*(module.__file__ for module in ({', '.join(PACKAGES)})), sep='\\n')"
    )

    imported = subprocess.run(
        [sys.executable, "-I", "-c", program], check=True, capture_output=True, text=True
    )

    assert [Path(line).parent for line in imported.stdout.split()] == [tmp_path / name for name in PACKAGES]


def test_the_metadata_names_what_pyproject_declares(metadata: Message, wheel: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    with zipfile.ZipFile(wheel) as archive:
        entry_points = archive.read(f"{DIST_INFO}/entry_points.txt").decode()

    assert metadata["Version"] == __version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert set(metadata.get_all("Provides-Extra", [])) == set(project["optional-dependencies"])
    assert entry_points.split() == ["[console_scripts]", "flashq", "=", "flashq.cli:main"]
