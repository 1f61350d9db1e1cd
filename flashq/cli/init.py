"""`flashq init`: a new project, to begin with."""

from __future__ import annotations

from pathlib import Path

import click

from flashq.cli import example
from flashq.cli.connection import exit_codes, explained


@click.command(epilog=example("flashq init myapp", "flashq init .") + exit_codes())
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), default=".")
@click.option("--force", is_flag=True, help="Overwrite files that are there.")
def init(folder: Path, force: bool) -> None:
    """Write a new project into FOLDER: two endpoints, tests of them, and what a project needs beside.

    It builds as it is, and its tests pass. The project is called as the folder.
    """
    from flashq.apps.scaffold import write

    name = folder.resolve().name.lower().replace(" ", "-")
    with explained():
        made = write(folder, name, force=force)
    for path in made:
        click.echo(str(folder / path))
    where = "" if folder == Path() else f"cd {folder} && "
    click.echo(f"Next: {where}python app.py; flashq run; flashq deploy", err=True)
