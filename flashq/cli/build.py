"""`flashq build`: a project becomes one artifact, which `flashq deploy` takes."""

from __future__ import annotations

import json
import platform
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flashq.cli import example
from flashq.cli.connection import counted, exit_codes, explained
from flashq.model.visible import visible_lines

if TYPE_CHECKING:
    from collections.abc import Callable

    from flashq.apps.build import Built, Wishes
    from flashq.apps.manifest import Manifest

_ARCHITECTURES = ("x86_64", "aarch64")


def build_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What `build` and `deploy` are told alike."""
    options = (
        click.option(
            "--exclude",
            metavar="NAMES",
            default="",
            help="Packages, with commas between, that are left out: hosts install them from their own index, "
            "before traffic.",
        ),
        click.option("--no-deps", is_flag=True, help="Leave out all dependencies, likewise."),
        click.option(
            "--python-version",
            metavar="X.Y",
            default="",
            help="For this Python; by default as endpoints say.",
        ),
        click.option(
            "--platform",
            "architecture",
            type=click.Choice(_ARCHITECTURES),
            default=None,
            help="The hosts' processors; by default this machine's.",
        ),
        click.option("--app", metavar="NAME", default="", help="In place of the project's name."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def wishes_of(exclude: str, no_deps: bool, python_version: str, architecture: str | None) -> Wishes:
    """The options as the builder takes them. Raises click.UsageError."""
    from flashq.apps.build import Wishes

    if python_version and not re.fullmatch(r"3\.\d{1,2}", python_version):
        raise click.UsageError(f"--python-version {python_version}: a version such as 3.12")
    here = {"arm64": "aarch64", "amd64": "x86_64"}.get(platform.machine().lower(), platform.machine())
    names = tuple(name.strip() for name in exclude.split(",") if name.strip())
    return Wishes(
        python=python_version,
        platform=architecture or (here if here in _ARCHITECTURES else _ARCHITECTURES[0]),
        exclude=names,
        dependencies=not no_deps,
    )


@click.command(
    epilog=example("flashq build", "flashq build ./myapp --output myapp.tar --exclude torch") + exit_codes()
)
@click.argument("project", type=click.Path(exists=True, file_okay=False, path_type=Path), default=".")
@click.option(
    "--output",
    "-o",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where to; by default .flashq/NAME.tar in the project.",
)
@click.option("--json", "as_json", is_flag=True, help="The manifest, in JSON.")
@build_options
def build(
    project: Path,
    output: Path | None,
    as_json: bool,
    exclude: str,
    no_deps: bool,
    python_version: str,
    architecture: str | None,
    app: str,
) -> None:
    """Build a project into one artifact: its endpoints, its files and their dependencies.

    Every .py file of the project is imported, in a process of its own, but for tests and what .gitignore and
    .flashqignore leave out. The same project and index give the same bytes.
    """
    from flashq.apps.build import build as build_project

    wishes = wishes_of(exclude, no_deps, python_version, architecture)
    with explained():
        made = build_project(
            project, output, wishes, lambda line: click.echo(f"{line} …", err=True), name=app
        )
    say_skipped(made)
    if as_json:
        click.echo(json.dumps(summary(made.manifest, made.artifact)))
        return
    here = Path.cwd().resolve()
    shown = made.artifact.relative_to(here) if made.artifact.is_relative_to(here) else made.artifact
    click.echo(f"{shown}: {told(made.manifest)}")
    for one in made.manifest.endpoints:
        click.echo(visible_lines(f"  {one.name}  {one.module}:{one.attribute}  {one.about}".rstrip()))


def say_skipped(made: Built) -> None:
    """Files that are in the artifact and define no endpoint, because they could not be imported."""
    for path, why in sorted(made.skipped.items()):
        click.echo(visible_lines(f"flashq: {path} could not be imported: {why.splitlines()[-1]}"), err=True)


def told(manifest: Manifest) -> str:
    """An artifact in a line."""
    endpoints, files = counted(len(manifest.endpoints), "endpoint"), counted(len(manifest.files), "file")
    return f"{endpoints}, {files}, {manifest.size / 2**20:.1f} MiB, {manifest.digest[:12]}"


def summary(manifest: Manifest, artifact: Path) -> dict[str, Any]:
    """An artifact in JSON, without its files."""
    return {
        "app": manifest.app,
        "artifact": str(artifact),
        "digest": manifest.digest,
        "fingerprint": manifest.fingerprint,
        "python": manifest.python,
        "platform": manifest.platform,
        "size": manifest.size,
        "files": len(manifest.files),
        "endpoints": [
            {"name": one.name, "module": one.module, "attribute": one.attribute, "about": one.about}
            for one in manifest.endpoints
        ],
    }
