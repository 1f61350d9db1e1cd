"""Commands for signing keys: make, list, rotate, retire. They show ids, never a key."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flashq.cli import example
from flashq.cli.acl import acl
from flashq.cli.connection import Exit, Stop, connected, exit_codes, explained, load_settings
from flashq.cli.render import show
from flashq.errors import BrokerError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from flashq.key_file import Entry, KeyFile
    from flashq.settings import Settings
    from flashq.store.broker import Broker
    from flashq.store.queries_keys import Uses

_POLL_S = 0.5
_KEY_ID = re.compile("[0-9a-f]{16}")
_file = click.option(
    "--file",
    "given",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The key file; default: the one in force.",
)
_wait = click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="SECONDS",
    help="Wait so long for what stands in the way.",
)


@click.group(epilog=example("flashq keys make ~/.config/flashq/key", "flashq keys rotate --wait 60"))
def keys() -> None:
    """Make, list, rotate and retire signing keys; make users for the broker."""


keys.add_command(acl)


# -- make, list --------------------------------------------------------------------------------------


@keys.command(epilog=example("flashq keys make ~/.config/flashq/key") + exit_codes())
@click.argument("file", type=click.Path(path_type=Path))
def make(file: Path) -> None:
    """Write a new signing key to FILE, which only you can read. A file that is there is left alone."""
    from flashq.key_file import KeyFile
    from flashq.private_files import new_private

    made = KeyFile.fresh(_today())
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new_private(file, made.render())
    except FileExistsError:
        raise Stop(f"{file} is there already; `flashq keys rotate` changes keys", Exit.ERROR) from None
    except OSError as error:
        raise Stop(f"cannot write {file}: {error.strerror}", Exit.ERROR) from None
    click.echo(f"made key {made.signing.id} in {file}")


@dataclass(frozen=True, slots=True)
class ListedKey:
    """One signing key. `use`: signs, next (verifies, and signs once it is promoted), or verifies."""

    id: str
    use: str
    made: str | None
    source: str


@keys.command("list", epilog=example("flashq keys list", "flashq keys list --json") + exit_codes())
@_file
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
def list_keys(given: Path | None, as_json: bool) -> None:
    """List the signing keys in force, by id: which one signs, and which others verify."""
    with explained():
        file = given or _in_force(load_settings())
        rows = _from_variable() if file is None else _listed(_read(file), str(file))
    show(rows, as_json=as_json, columns=("id", "use", "made", "source"), none="no keys")


def _listed(found: KeyFile, source: str) -> list[ListedKey]:
    return [ListedKey(e.id, _use(found, e), e.made or None, source) for e in found.entries]


def _use(found: KeyFile, entry: Entry) -> str:
    if entry is found.signing:
        return "signs"
    return "next" if entry is found.next else "verifies"


def _from_variable() -> list[ListedKey]:
    from flashq.model.keyring import key_id

    ids = [key_id(secret) for secret in load_settings().require_secrets()]
    return [ListedKey(i, "verifies" if n else "signs", None, "FLASHQ_SECRET_KEY") for n, i in enumerate(ids)]


# -- rotate ------------------------------------------------------------------------------------------


@keys.command(
    epilog=example("flashq keys rotate", "flashq keys rotate --wait 60", "flashq keys retire 3f0a")
    + exit_codes(Exit.REFUSED)
)
@_file
@_wait
@click.option("--force", is_flag=True, help="Have the new key sign though not everybody is known to have it.")
def rotate(given: Path | None, wait_s: float, force: bool) -> None:
    """Go one step on towards a new signing key; nothing is refused meanwhile.

    The first call adds a key to the file, which verifies. Copy the file to every machine; processes read it again
    by themselves. The second call has that key sign, once every host and worker on record has it. Copy the file
    again, and `flashq keys retire` takes the old key away. With --wait the first two are one, where the file is
    everybody's.
    """
    with explained():
        settings = load_settings()
        file = _writable(given, settings)
        found = _read(file)
        if found.next is None:
            found = _write(file, found.added(_today()))
            assert found.next is not None
            click.echo(f"added key {found.next.id}, which verifies; {found.signing.id} signs")
            if not wait_s:
                click.echo(f"Copy {file} to every other machine, then run `flashq keys rotate` again.")
                return
        entry = found.next
        if not force and not _nothing_runs(settings):
            with connected(settings) as broker:
                _await(wait_s, lambda: _without_key(broker, entry.id))
        found = _write(file, _read(file).promoted(entry))
        old = ", ".join(one.id for one in found.entries[1:])
        click.echo(f"key {entry.id} signs; {old} still verifies")
        click.echo(
            f"Copy {file} to every other machine; once all callers have it, `flashq keys retire` ends the old key."
        )


def _nothing_runs(settings: Settings) -> bool:
    """Whether the broker would be the private one, and none runs: nobody needs to be told of a key."""
    from flashq import embedded

    return settings.redis_url is None and embedded.look(settings) is None


def _without_key(broker: Broker, key_id: str) -> str:
    """Who is not known to have this key, as a complaint; '' where everybody has it."""
    from flashq.store.queries_keys import holders

    lacking = [holder for holder in holders(broker) if key_id not in holder.keys]
    if not lacking:
        return ""
    names = [f"{h.what} {h.name}" + ("" if h.keys else " (does not say)") for h in lacking]
    return (
        f"these do not have key {key_id} yet: {_some(names)}. Copy the file there; --wait waits for it,"
        " --force goes on without"
    )


# -- retire ------------------------------------------------------------------------------------------


@keys.command(
    epilog=example(
        "flashq keys retire 3f0a", "flashq keys retire 3f0a --wait 600", "flashq keys retire 3f0a --stolen"
    )
    + exit_codes(Exit.REFUSED)
)
@click.argument("key")
@_file
@_wait
@click.option(
    "--force", is_flag=True, help="Although jobs that wait are signed with it: they will be refused."
)
@click.option(
    "--stolen", is_flag=True, help="Somebody else has it: trust nothing that it signed. May be repeated."
)
def retire(key: str, given: Path | None, wait_s: float, force: bool, stolen: bool) -> None:
    """Accept KEY (an id, or how it begins) no longer, and take it out of the file.

    What it signed of endpoints is signed again with the present key. It is refused while a host still signs with
    it, or jobs that it signed wait or run.

    With --stolen nothing is signed again: what the key signed is thrown away, and the workers of those endpoints are
    replaced. The next call registers an endpoint again. Do it once more when every machine has the new file.
    """
    from flashq import rotation
    from flashq.keychain import Keychain
    from flashq.model.keyring import Keyring

    with explained():
        settings = load_settings()
        file = _writable(given, settings)
        found = _read(file)
        if stolen and _KEY_ID.fullmatch(key) and all(one.id != key for one in found.entries):
            _renounce(settings, key)
            return
        entry = found.find(key)
        if entry is found.signing:
            raise Stop(f"key {entry.id} is the one that signs: `flashq keys rotate` first", Exit.REFUSED)
        if stolen:
            _write(file, _read(file).without(entry))  # first, so that nothing new under it is believed
            click.echo(f"key {entry.id} is retired")
            _renounce(settings, entry.id)
            click.echo(f"Copy {file} to every other machine, then do this once more with {entry.id}.")
            return
        ring = Keyring([one.key.value for one in found.entries], settings.namespace)
        chain = Keychain(ring)
        with connected(settings) as broker:
            told = {""}

            def left() -> str:
                count, uses = rotation.take_over(broker, chain, entry.id)
                if count:
                    click.echo(f"{count} record(s) of endpoints are signed with {ring.ids[0]} now")
                if (ended := _ended(uses, entry.id)) not in told:  # asked again and again: said once
                    told.add(ended)
                    click.echo(ended, err=True)
                return _signing_hosts(broker, entry.id) or _left(uses, entry.id)

            if force:
                if why := left():
                    click.echo(f"although {why}", err=True)
            else:
                _await(wait_s, left)
        _write(file, _read(file).without(entry))
        click.echo(f"key {entry.id} is retired; results that it signed cannot be read any more")
        click.echo(f"Copy {file} to every other machine.")


def _renounce(settings: Settings, key_id: str) -> None:
    from flashq import rotation

    with connected(settings) as broker:
        count, drained = rotation.renounce(broker, key_id)
    click.echo(f"{count} record(s) that it signed are thrown away; {drained} worker(s) are replaced")


def _signing_hosts(broker: Broker, key_id: str) -> str:
    from flashq.store.queries_keys import holders

    signing = [h for h in holders(broker) if h.what != "worker" and h.keys[:1] == (key_id,)]
    names = [f"{holder.what} {holder.name}" for holder in signing]
    return f"{_some(names)} would still sign with it: copy the file there" if names else ""


def _left(uses: Uses, key_id: str) -> str:
    if uses.jobs:
        where = ", ".join(f"{count} of {endpoint}" for endpoint, count in sorted(uses.jobs.items()))
        return (
            f"jobs that {key_id} signed wait or run: {where}. `flashq up --resume` runs those that an earlier run left,"
            " `flashq purge ENDPOINT` cancels what waits, --force retires the key although"
        )
    left = [*(f"revision {digest[:12]} of {name}" for name, digest in uses.revisions), *uses.environments]
    return f"it still signs {_some(left)}" if left else ""


def _ended(uses: Uses, key_id: str) -> str:
    if not uses.ended:
        return ""
    where = ", ".join(f"{count} of {endpoint}" for endpoint, count in sorted(uses.ended.items()))
    return f"failed jobs that {key_id} signed can then not be run again: {where}"


# -- files -------------------------------------------------------------------------------------------


def _in_force(settings: Settings) -> Path | None:
    """The file that the keys in force come from; None where a variable gives them. Raises SettingsError."""
    if settings.redis_url is None:
        from flashq import embedded

        return embedded.key_file(settings)
    settings.require_secrets()
    return settings.secret_key_file


def _writable(given: Path | None, settings: Settings) -> Path:
    file = given or _in_force(settings)
    if file is None:
        raise ConfigurationError(
            "the key is in FLASHQ_SECRET_KEY: nothing else could be told of another one. Put it into a file, and"
            " name that in FLASHQ_SECRET_KEY_FILE"
        )
    return file.resolve()


def _read(file: Path) -> KeyFile:
    from flashq.key_file import KeyFile

    return KeyFile.read(file)


def _write(file: Path, content: KeyFile) -> KeyFile:
    from flashq.private_files import write_private

    try:
        write_private(file, content.render())
    except OSError as error:
        raise ConfigurationError(f"cannot write {file}: {error.strerror}") from None
    return content


def _await(wait_s: float, obstacle: Callable[[], str]) -> None:
    """Until nothing is in the way. Raises Stop saying what is after so long."""
    deadline = time.monotonic() + wait_s
    while True:
        try:
            why = obstacle()
        except BrokerError as error:
            why = str(error)
        if not why:
            return
        if time.monotonic() >= deadline:
            raise Stop(why, Exit.REFUSED)
        time.sleep(min(_POLL_S, max(0.0, deadline - time.monotonic())))


def _some(names: list[str], most: int = 5) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _today() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d")
