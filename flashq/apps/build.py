"""A project becomes one artifact: its files, its endpoints, and what their functions need installed.

Decides what goes in. The user's files are imported by `discovery`, dependencies are resolved and fetched by a process
of flashq_worker's (the SDK has no installer); the same project and the same index give the same bytes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashq._version import __version__
from flashq.apps import archive
from flashq.apps import manifest as manifests
from flashq.apps.discovery import discover
from flashq.apps.ignore import Ignored
from flashq.apps.manifest import PACKAGES, SOURCE, BuiltEndpoint, Environment, Manifest
from flashq.errors import ArtifactError, BuildError
from flashq.model import parameters as rules
from flashq.model.spec import canonical_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flashq.apps.discovery import Found

PLATFORMS = ("x86_64", "aarch64")
_UV_PLATFORM = "{}-manylinux_2_28"


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the builder may be told.

    `exclude`: packages that hosts fetch themselves; `dependencies`: whether any go in.
    """

    python: str = ""
    """Empty: what the endpoints say, which is by default the Python that builds."""
    platform: str = "x86_64"
    exclude: tuple[str, ...] = ()
    dependencies: bool = True


@dataclass(frozen=True, slots=True)
class Built:
    """An artifact that was made. `env`: values of `env=` by endpoint, which are in no artifact."""

    artifact: Path
    manifest: Manifest
    env: Mapping[str, Mapping[str, str]]
    skipped: Mapping[str, str]
    """Files that could not be imported and define no endpoint → why."""


def build(
    project: Path,
    output: Path | None = None,
    wishes: Wishes | None = None,
    say: Callable[[str], None] = lambda _: None,
    *,
    name: str = "",
) -> Built:
    """Build a project's folder into `output` (by default `.flashq/<app>.tar` in it).

    Raises: BuildError, a line for each thing that is wrong; OSError.
    """
    project, wishes = project.resolve(), wishes or Wishes()
    if not project.is_dir():
        raise BuildError(f"{project} is no folder")
    app = name or app_name(project)
    ignored = Ignored(project)
    files = list(ignored.files())
    say("looking for endpoints")
    found = discover(project, files)
    places = {f"{SOURCE}/{path}": project / path for path in files}
    places |= _imported(found, ignored, project, places)
    with tempfile.TemporaryDirectory(prefix="flashq-build-") as aside:
        environments = _environments(found, wishes, Path(aside), say)
        for package in sorted({one for made in environments.values() for one in made.packages}):
            for file in sorted((Path(aside) / package).rglob("*")):
                if file.is_file():
                    inside = file.relative_to(Path(aside)).as_posix()
                    places[f"{PACKAGES}/{inside}"] = file
        say("packing")
        made = _manifest(app, found, environments, wishes, places)
        target = output or project / ".flashq" / f"{app}.tar"
        archive.write(target, made, places)
    env = {one["name"]: one["env"] for one in found.endpoints if one["env"]}
    return Built(target, made, env, found.skipped)


def app_name(project: Path) -> str:
    """What an app is called: as [project] in pyproject.toml says, else as its folder. Raises BuildError."""
    import tomllib

    named = project.name
    file = project / "pyproject.toml"
    if file.is_file():
        try:
            named = tomllib.loads(file.read_text("utf-8")).get("project", {}).get("name", named)
        except (OSError, ValueError, AttributeError) as error:
            raise BuildError(f"{file}: {error}") from None
    cleaned = "".join(
        char if char.isascii() and (char.isalnum() or char in "_-") else "-" for char in str(named)
    )
    while "--" in cleaned:
        cleaned = cleaned.replace("--", "-")
    try:
        return manifests.check_name(cleaned.strip("-_")[: rules.MAX_NAME])
    except ArtifactError as error:
        raise BuildError(
            f"{error}; give the app one, as [project] name in pyproject.toml, or --app"
        ) from None


def _imported(found: Found, ignored: Ignored, project: Path, places: Mapping[str, Path]) -> dict[str, Path]:
    """Modules that are imported and lie outside of the project. Raises BuildError where one is left out by a rule."""
    more: dict[str, Path] = {}
    problems = []
    for module, one in sorted(found.closure.items()):
        file = Path(one["file"]).resolve()
        if not file.is_relative_to(project):
            more.setdefault(f"{SOURCE}/{one['path']}", file)
            continue
        path = file.relative_to(project).as_posix()
        if f"{SOURCE}/{path}" not in places:
            rule = ignored.why(path)
            problems.append(
                f"{path} is imported (as {module}), and left out by {rule}: take it back with !{path} in .flashqignore"
            )
    if problems:
        raise BuildError("\n".join(problems))
    return {path: file for path, file in more.items() if path not in places}


# -- what is installed -------------------------------------------------------------------------------


def _python(one: Mapping[str, Any], wishes: Wishes) -> str:
    return wishes.python or str(one["python"])


def _environments(
    found: Found, wishes: Wishes, folder: Path, say: Callable[[str], None]
) -> dict[tuple[str, tuple[str, ...]], Environment]:
    """One for each set of requirements and Python; by these."""
    made: dict[tuple[str, tuple[str, ...]], Environment] = {}
    for one in found.endpoints:
        python, wanted = _python(one, wishes), tuple(one["dependencies"])
        if (python, wanted) in made:
            continue
        if not wanted:
            made[python, wanted] = Environment(python, (), "", ())
            continue
        say(f"fetching {', '.join(wanted)}")
        order = {
            "requirements": wanted,
            "python": python,
            "platform": _UV_PLATFORM.format(wishes.platform),
            "exclude": list(wishes.exclude) if wishes.dependencies else True,
            "folder": str(folder),
        }
        told = _collect(order, str(one["name"]))
        made[python, wanted] = Environment(
            python, wanted, told["lock"], tuple(told["packages"]), told["fetched"]
        )
    return made


def _collect(order: Mapping[str, Any], endpoint: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "flashq_worker.environments.collect"],
        input=json.dumps(order).encode(),
        capture_output=True,
        check=False,
    )
    try:
        told: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        tail = done.stderr.decode("utf-8", "replace").strip()[-2000:]
        raise BuildError(f"endpoint {endpoint}: its dependencies cannot be resolved: {tail}") from None
    if "error" in told:
        raise BuildError(f"endpoint {endpoint}: {told['error']}")
    return told


# -- the manifest ------------------------------------------------------------------------------------


def _manifest(
    app: str,
    found: Found,
    environments: Mapping[tuple[str, tuple[str, ...]], Environment],
    wishes: Wishes,
    places: Mapping[str, Path],
) -> Manifest:
    files = archive.described(places)
    endpoints = []
    for one in found.endpoints:
        environment = environments[_python(one, wishes), tuple(one["dependencies"])]
        public = {**one["public"], "environment": installed(environment)}
        endpoints.append(
            BuiltEndpoint(
                name=one["name"],
                module=one["module"],
                attribute=one["attribute"],
                qualname=one["qualname"],
                mode=one["mode"],
                environment=environment.digest,
                public=json.loads(canonical_json(public)),
                concurrency=one["concurrency"],
                needs=one["needs"],
                beside=tuple(one["beside"]),
                targets=one["targets"],
                batch_ms=one["batch_ms"],
                calls_by_name=tuple(one["calls_by_name"]),
                about=one["about"],
                serves=one["serves"],
                schemas=one["schemas"],
                types=one["types"],
            )
        )
    pythons = sorted({python for python, _ in environments})
    made = Manifest(
        app=app,
        python=", ".join(pythons),
        platform=wishes.platform,
        fingerprint=manifests.fingerprint(files),
        endpoints=tuple(endpoints),
        environments={one.digest: one for one in environments.values()},
        files=files,
        roots=found.roots,
        flashq=__version__,
    )
    try:
        made.check()
    except (ArtifactError, ValueError) as error:
        raise BuildError(str(error)) from None
    return made


def installed(environment: Environment) -> dict[str, Any]:
    """What listings say of an environment: as `flashq.model.spec.environment`, with what the lock pins."""
    pins = [line.partition(" ")[0] for line in environment.lock.splitlines() if line[:1].isalnum()]
    return {"python": environment.python, "requirements": pins}
