"""`flashq deploy` and `flashq undeploy`: an app's endpoints are there by name, or no longer."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flashq.cli import example
from flashq.cli.build import build_options, say_skipped, told, wishes_of
from flashq.cli.connection import (
    Exit,
    Stop,
    complain,
    connected,
    exit_codes,
    explained,
    keyring,
    load_settings,
)
from flashq.errors import DeployError, EndpointNotFound
from flashq.model.visible import visible_lines
from flashq.store import failed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from flashq.apps.build import Wishes
    from flashq.apps.manifest import Manifest
    from flashq.apps.records import DeployedApp
    from flashq.store.broker import Broker


@click.command(
    epilog=example(
        "flashq deploy",
        "flashq deploy ./myapp --env staging",
        "flashq deploy myapp.tar --env-file secrets.env",
    )
    + exit_codes()
)
@click.argument(
    "source", type=click.Path(exists=True, path_type=Path), default=".", metavar="[PROJECT | ARTIFACT]"
)
@click.option(
    "--env",
    "environment",
    metavar="NAME",
    default="production",
    show_default=True,
    help="Where to: environments have endpoints of their own, which are called NAME-ENV but in `production`.",
)
@click.option(
    "--env-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Values of endpoints' env=, as NAME=VALUE lines: no artifact holds any.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=1),
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="How long hosts may take to be ready.",
)
@click.option("--json", "as_json", is_flag=True, help="What was deployed, in JSON.")
@build_options
def deploy(
    source: Path,
    environment: str,
    env_file: Path | None,
    timeout: float,
    as_json: bool,
    exclude: str,
    no_deps: bool,
    python_version: str,
    architecture: str | None,
    app: str,
) -> None:
    """Build a project and deploy it, or deploy an artifact that `flashq build` made.

    The artifact goes to the broker once, hosts prepare what its endpoints need, and only then do these become current;
    should anything fail, what was deployed before serves on. `flashq endpoints NAME --rollback` goes back.
    """
    from flashq.apps.deploy import Deploy

    def say(line: str) -> None:
        click.echo(f"{line} …", err=True)

    settings = load_settings()
    with connected(settings) as broker, explained():
        keys = keyring(settings)
        with _artifact(source, wishes_of(exclude, no_deps, python_version, architecture), app, say) as made:
            artifact, manifest, env = made
            env = _values(manifest, env, env_file)
            outcome = Deploy(
                broker, keys, manifest, artifact, env, environment=environment, timeout_s=timeout, say=say
            ).run()
    if as_json:
        told_all = {
            **asdict(outcome.record),
            "verdicts": dict(outcome.verdicts),
            "ready": dict(outcome.ready),
        }
        click.echo(json.dumps({**told_all, "removed": outcome.removed, "kept": outcome.kept}))
        return
    click.echo(visible_lines(f"{manifest.app} is deployed to {environment}: {told(manifest)}"))
    for one in manifest.endpoints:
        name = outcome.record.endpoints[one.name]
        where = ", ".join(outcome.ready[name])
        click.echo(visible_lines(f"  {name}  {_WORDS[outcome.verdicts[name]]}, ready on {where}"))
    for name in outcome.removed:
        click.echo(f"  {name}  undeployed: the app has it no longer")
    for name in outcome.kept:
        complain(
            f"the app has {name} no longer, which has jobs that wait or run: `flashq undeploy {name}` when they ended"
        )


_WORDS = {
    "created": "new",
    "reused": "as it was",
    "scaled": "same code, other settings",
    "code": "updated",
    "replaced": "updated",
}


@contextlib.contextmanager
def _artifact(
    source: Path, wishes: Wishes, app: str, say: Callable[[str], None]
) -> Iterator[tuple[Path, Manifest, Mapping[str, Mapping[str, str]]]]:
    """An artifact, its manifest, and the values of `env=` that its building gave."""
    import tempfile

    from flashq.apps import archive
    from flashq.apps.build import build

    if source.is_file():
        yield source, archive.read_manifest(source), {}
        return
    with tempfile.TemporaryDirectory(prefix="flashq-deploy-") as folder:
        made = build(source, Path(folder) / "app.tar", wishes, say, name=app)
        say_skipped(made)
        yield made.artifact, made.manifest, made.env


def _values(
    manifest: Manifest, built: Mapping[str, Mapping[str, str]], file: Path | None
) -> dict[str, dict[str, str]]:
    """The values of `env=` by endpoint: from the file, else as the project says. Raises DeployError for one without."""
    given = _read_values(file) if file is not None else {}
    found: dict[str, dict[str, str]] = {}
    for one in manifest.endpoints:
        values = {}
        for name in one.public.get("env", {}):
            value = given.get(name, built.get(one.name, {}).get(name))
            if value is None:
                raise DeployError(f"endpoint {one.name} wants a value of {name}: give it in --env-file")
            values[name] = value
        found[one.name] = values
    return found


def _read_values(file: Path) -> dict[str, str]:
    found = {}
    for number, line in enumerate(file.read_text("utf-8").splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or not name.strip().isidentifier():
            raise Stop(f"{file}:{number} is no NAME=VALUE", Exit.USAGE)
        found[name.strip()] = value.strip().strip("'\"")
    return found


# -- undeploy ----------------------------------------------------------------------------------------


@click.command(
    epilog=example(
        "flashq undeploy embed", "flashq undeploy myapp --env staging", "flashq undeploy --all --purge"
    )
    + exit_codes(Exit.NOT_FOUND, Exit.REFUSED)
)
@click.argument("name", required=False)
@click.option("--all", "everything", is_flag=True, help="Every app that is deployed; with --env, to that.")
@click.option("--env", "environment", metavar="NAME", default="", help="Of an app: only from there.")
@click.option("--purge", "purging", is_flag=True, help="Cancel the jobs that wait for it first.")
def undeploy(name: str | None, everything: bool, environment: str, purging: bool) -> None:
    """Forget an endpoint, or all of an app; their workers end. Refused while jobs wait or run.

    NAME is an endpoint's, or else an app's. A program's endpoint is back with its next call.
    """
    from flashq.apps import deploy as deploying
    from flashq.apps import records

    if (name is None) != everything:
        raise click.UsageError("name an endpoint or an app, or all apps with --all")
    with connected() as broker:
        if name is not None and not environment and _undeploy_endpoint(broker, name, purging):
            deploying.forget_endpoint(broker, name)
            return
        apps = records.deployed(broker, environment=environment, app=name or "")
        if not apps and name is not None:
            where = f" in {environment}" if environment else ""
            raise Stop(
                f"no endpoint or app {name} is deployed{where}: see `flashq endpoints`", Exit.NOT_FOUND
            )
        undeploy_apps(broker, apps, purging)


def undeploy_apps(broker: Broker, apps: list[DeployedApp], purging: bool) -> None:
    """Undeploy apps; raises Stop where something of them is busy."""
    from flashq.apps import deploy as deploying

    busy: list[str] = []
    for one in apps:
        purge = (lambda endpoint: failed.purge_waiting(broker, endpoint)) if purging else None
        left = deploying.undeploy(broker, one, purge=purge)
        busy += left
        if not left:
            click.echo(f"{one.app}: undeployed from {one.environment}")
    if busy:
        raise Stop(f"{', '.join(busy)}: {_hint(purging)}", Exit.REFUSED)


def _undeploy_endpoint(broker: Broker, name: str, purging: bool) -> bool:
    if purging:
        with contextlib.suppress(EndpointNotFound):
            failed.purge_waiting(broker, name)
    verdict = broker.run(broker.transitions.undeploy(name))
    if verdict == "busy":
        raise Stop(f"{name} has jobs that wait or run: {_hint(purging)}", Exit.REFUSED)
    if verdict == "ok":
        click.echo(f"{name}: undeployed")
    return verdict == "ok"


def _hint(purging: bool) -> str:
    return "wait for those in progress, or cancel them" if purging else "`--purge` cancels those that wait"
