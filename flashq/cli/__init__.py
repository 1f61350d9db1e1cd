"""The `flashq` command: which commands there are, and what an error looks like.

Each command is loaded only when it is used, or its help is asked for.

A command is a click command named in `COMMANDS`; its help ends with an example (`epilog=example(...)`). Exit
codes: 0 done, 1 a `FlashqError` (one line on stderr, `flashq: …`), 2 wrong usage, 130 interrupted; a command
that has others says so in its help.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import click

from flashq._version import __version__
from flashq.errors import FlashqError
from flashq.model.visible import visible_lines

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = {
    "run": "flashq.cli.run:run",
    "dev": "flashq.cli.run:run",
    "up": "flashq.cli.stack:up",
    "down": "flashq.cli.stack:down",
    "status": "flashq.cli.stack:status",
    "init": "flashq.cli.init:init",
    "build": "flashq.cli.build:build",
    "deploy": "flashq.cli.deploy:deploy",
    "undeploy": "flashq.cli.deploy:undeploy",
    "env": "flashq.cli.apps:env",
    "app": "flashq.cli.apps:app",
    "endpoints": "flashq.cli.endpoints:endpoints",
    "queues": "flashq.cli.listing:queues",
    "jobs": "flashq.cli.listing:jobs",
    "job": "flashq.cli.listing:job",
    "why": "flashq.cli.why:why",
    "workers": "flashq.cli.listing:workers",
    "hosts": "flashq.cli.hosts:hosts",
    "top": "flashq.cli.top:top",
    "logs": "flashq.cli.jobs:logs",
    "call": "flashq.cli.jobs:call",
    "cancel": "flashq.cli.jobs:cancel",
    "retry": "flashq.cli.jobs:retry",
    "purge": "flashq.cli.queue:purge",
    "pause": "flashq.cli.queue:pause",
    "resume": "flashq.cli.queue:resume",
    "scale": "flashq.cli.scale:scale",
    "host": "flashq.cli.processes:host",
    "worker": "flashq.cli.processes:worker",
    "autoscaler": "flashq.cli.processes:autoscaler",
    "gateway": "flashq.cli.gateway:gateway",
    "simulate": "flashq.cli.simulate:simulate",
    "doctor": "flashq.cli.doctor:doctor",
    "verify": "flashq.cli.verify:verify",
    "keys": "flashq.cli.keys:keys",
    "apikeys": "flashq.cli.apikeys:apikeys",
}
"""Name → module:object. Also the order in which help lists them."""

INTERRUPTED = 130


def example(*lines: str) -> str:
    """The epilog of a command's help: command lines, kept as they are written."""
    return "\n".join(["\b", "Example:" if len(lines) == 1 else "Examples:", *(f"  {line}" for line in lines)])


class _Failed(click.ClickException):
    """A FlashqError on its way to the terminal."""

    exit_code = 1

    def show(self, file: Any = None) -> None:
        click.echo(f"flashq: {visible_lines(self.format_message())}", file=file, err=file is None)


class LazyGroup(click.Group):
    """A group whose commands are named in a table and imported when needed."""

    def __init__(self, *args: Any, table: dict[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands this installation has."""
        return [name for name, where in self.table.items() if _exists(where)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load a command; None (click says: no such command) where there is none of that name."""
        where = self.table.get(cmd_name)
        if where is None or not _exists(where):
            return None
        module, _, name = where.partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error of ours becomes one line and exit code 1."""
        try:
            return super().invoke(ctx)
        except FlashqError as error:
            raise _Failed(str(error)) from error


def _exists(where: str) -> bool:
    return importlib.util.find_spec(where.partition(":")[0]) is not None


@click.group(
    cls=LazyGroup,
    table=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=example("flashq up --detach", "flashq queues --json", "flashq COMMAND --help"),
)
@click.version_option(__version__, prog_name="flashq", message="%(prog)s %(version)s")
def flashq() -> None:
    """Run Python functions on GPU machines you own: look after queues, jobs, workers and hosts."""


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line (default: this process's arguments) and exit with its code."""
    try:
        code = flashq.main(args=args, prog_name="flashq", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)
