"""Users for the broker: `flashq keys acl`. Passwords come from files or standard input, and leave as hashes."""

from __future__ import annotations

import re
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flashq.cli import example
from flashq.cli.connection import exit_codes, explained, load_settings
from flashq.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

_ROLES = ("client", "worker", "host", "autoscaler", "deployer", "gateway", "viewer", "admin")


@click.command(
    epilog=example(
        "flashq keys acl --passwords ~/.config/flashq/broker >> users.acl",
        "flashq keys acl worker --endpoint embed --passwords ~/.config/flashq/broker",
        "flashq keys acl viewer --password-stdin --commands < password | redis-cli",
    )
    + exit_codes()
)
@click.argument("roles", nargs=-1, metavar="[ROLE]...", type=click.Choice(_ROLES))
@click.option("--endpoint", metavar="NAME", help="Confine the users (client, worker) to this endpoint.")
@click.option(
    "--passwords",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Their passwords are in FOLDER/USER; one that is missing is made.",
)
@click.option("--password-stdin", is_flag=True, help="Read the password of the one ROLE from standard input.")
@click.option("--commands", is_flag=True, help="Print ACL SETUSER commands in place of lines of an ACL file.")
def acl(
    roles: tuple[str, ...],
    endpoint: str | None,
    folder: Path | None,
    password_stdin: bool,
    commands: bool,
) -> None:
    """Print users for the broker, one for each ROLE (default: all): what it needs, and nothing else.

    \b
    client      programs that call, and whoever looks after jobs
    worker      `flashq worker NAME`
    host        `flashq host`, and the workers that it starts
    autoscaler  `flashq autoscaler`
    deployer    `flashq deploy`
    gateway     the HTTP gateway
    viewer      listings, which change nothing
    admin       loads flashq's functions (`flashq doctor --load`), rotates keys

    Passwords are printed as hashes only. Keys are those under RQ_KEY_PREFIX.
    """
    from flashq.store import acl as users
    from flashq.store.keys import Keys

    if (folder is None) == (not password_stdin):
        raise click.UsageError(
            "say where passwords are: --passwords FOLDER, or --password-stdin for one ROLE"
        )
    if password_stdin and len(roles) != 1:
        raise click.UsageError("--password-stdin is for one ROLE")
    if endpoint is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", endpoint):
        raise click.UsageError(f"{endpoint!r} is no name of an endpoint")
    wanted = roles or tuple(role for role in _ROLES if endpoint is None or users.ROLES[role].by_endpoint)
    with explained():
        keys = Keys(load_settings().rq_prefix)
        password_of: Callable[[str], str] = _from_stdin if folder is None else _kept_in(folder)
        made = []
        for role in wanted:
            try:
                name = users.name(role, endpoint)
                made.append(users.user(role, keys, password_of(name), endpoint))
            except ValueError as error:
                raise ConfigurationError(str(error)) from None
    for user in made:
        click.echo(user.command() if commands else user.file_line())


def _from_stdin(_: str) -> str:
    return _checked(sys.stdin.read().strip())


def _kept_in(folder: Path) -> Callable[[str], str]:
    """What gives the password of a user: the one in the folder, or a new one of 256 bits, kept there."""
    from flashq.private_files import new_private, read_private

    def password(name: str) -> str:
        file = folder / name
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            new_private(file, secrets.token_hex(32).encode() + b"\n")
        except FileExistsError:
            pass
        except OSError as error:
            raise ConfigurationError(f"cannot keep a password in {file}: {error.strerror}") from None
        return _checked(read_private(file).decode("utf-8", "replace").strip())

    return password


def _checked(password: str) -> str:
    if len(password) < 16:
        raise ConfigurationError(f"a password has at least 16 characters, this one {len(password)}")
    return password
