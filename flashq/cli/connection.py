"""Which broker a command talks to, and what its exit code says when it cannot do what it was asked.

The broker: the one configured (FLASHQ_REDIS_URL), else the running one of this user's FLASHQ_HOME. No command
that asks or acts starts a broker: what it would see in a fresh one is nothing.
"""

from __future__ import annotations

import importlib.util
from contextlib import contextmanager
from enum import IntEnum
from typing import IO, TYPE_CHECKING, Any

import click

from flashq.errors import (
    BrokerUnreachable,
    EndpointNotFound,
    FlashqError,
    HostNotFound,
    JobNotFound,
    ResultExpired,
)
from flashq.model.visible import visible_lines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flashq.keychain import Keychain
    from flashq.settings import Settings
    from flashq.store.broker import Broker

_PATIENCE_S = 3.0


class Exit(IntEnum):
    """Exit codes of the commands that look after jobs."""

    OK = 0
    ERROR = 1
    USAGE = 2
    NOT_FOUND = 3
    REFUSED = 4
    JOB_FAILED = 5
    BROKEN = 6
    UNWELL = 7


_MEANINGS = {
    Exit.OK: "done",
    Exit.ERROR: "no broker, or another error",
    Exit.USAGE: "wrong usage",
    Exit.NOT_FOUND: "there is no such job, endpoint, worker or host",
    Exit.REFUSED: "its state does not allow it",
    Exit.JOB_FAILED: "the job ended without a value",
    Exit.BROKEN: "a promise was not kept",
    Exit.UNWELL: "something fails (what is unknown, or warned of, does not)",
}


def exit_codes(*codes: Exit) -> str:
    """A paragraph for a command's help; done, error and usage are in each."""
    named = sorted({Exit.OK, Exit.ERROR, Exit.USAGE, *codes})
    return "\n".join(["\n", "\b", "Exit codes:", *(f"  {code:d}  {_MEANINGS[code]}" for code in named)])


class Stop(click.ClickException):
    """Ends the command: a message on stderr, and what the exit code shall say."""

    def __init__(self, message: str, code: Exit) -> None:
        super().__init__(message)
        self.exit_code = int(code)  # type: ignore[misc]  # click declares it on the class

    def show(self, file: IO[Any] | None = None) -> None:
        """Write the message, like every error of the command line."""
        complain(self.message, file)


def complain(message: str, file: IO[Any] | None = None) -> None:
    """Say what is wrong, on stderr."""
    click.echo(f"flashq: {visible_lines(message)}", file=file, err=file is None)


def counted(count: int, what: str) -> str:
    """A number of things: 1 job, 2 jobs."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


@contextmanager
def explained() -> Iterator[None]:
    """Turn our errors into messages with exit codes."""
    try:
        yield
    except (JobNotFound, ResultExpired, EndpointNotFound, HostNotFound) as error:
        raise Stop(str(error), Exit.NOT_FOUND) from error
    except FlashqError as error:
        raise Stop(str(error), Exit.ERROR) from error


@contextmanager
def connected(settings: Settings | None = None) -> Iterator[Broker]:
    """The broker, to ask and to tell; errors of ours become messages with exit codes."""
    from flashq.store.broker import Broker

    with explained():
        settings = settings or load_settings()
        broker = Broker(broker_url(settings), prefix=settings.rq_prefix, patience_s=_PATIENCE_S)
        try:
            yield broker
        finally:
            broker.close()


def has_gateway() -> bool:
    """Whether what the gateway needs is installed (the extra of that name)."""
    return all(importlib.util.find_spec(name) for name in ("fastapi", "jsonschema", "uvicorn"))


def load_settings() -> Settings:
    """The settings in force."""
    from flashq.settings import Settings

    return Settings.load()


def broker_url(settings: Settings) -> str:
    """Where the broker is. Raises BrokerUnreachable where none is configured and none of our own runs."""
    from flashq import embedded

    url = settings.redis_url or embedded.find(settings)
    if url is None:
        raise BrokerUnreachable(
            f"no broker: FLASHQ_REDIS_URL is not set, and none runs for {settings.home}. "
            "`flashq up --detach` starts one"
        )
    return url


def keyring(settings: Settings) -> Keychain:
    """The keys that sign calls and verify outcomes.

    Raises: SettingsError where a broker is configured and no key.
    """
    from flashq import embedded
    from flashq.keychain import Keychain

    return Keychain.of(settings, embedded.key_file(settings) if settings.redis_url is None else None)
