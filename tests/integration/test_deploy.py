"""`flashq deploy`: a real host agent without any package index, an autoscaler, workers; and what goes wrong midway."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flashq import Endpoint
from flashq.apps import archive, records, storage
from flashq.apps.deploy import Deploy, release
from flashq.apps.manifest import Manifest
from flashq.errors import DeployError, EndpointNotFound
from flashq.model.keyring import Keyring
from flashq.store.broker import Broker
from tests.integration.app_project import Project
from tests.integration.command_line import CommandLine
from tests.integration.environment_rig import make_wheels
from tests.integration.stack import Stack
from tests.rig import SECRET, BrokerServer, Rig, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.requires("valkey")

SHOP = """
from pathlib import Path
import os
from flashq import Endpoint
from shop.words import polite

@Endpoint(name="deployed-price", cpu="any", idle_timeout=30)
def price(item: str) -> int:
    return len(item)

@Endpoint(name="deployed-greet", cpu="any", idle_timeout=30, dependencies=["tiny-b"], env={"TOKEN": "from-project"})
def greet(name: str) -> dict:
    import subprocess, sys, tiny_a, tiny_b
    return {
        "said": polite(name),
        "data": Path("data/words.txt").read_text(),
        "tiny": [tiny_a.__version__, tiny_b.__version__],
        "script": subprocess.check_output([Path(sys.executable).parent / "tiny-b"], text=True).strip(),
        "token": os.environ["TOKEN"],
        "price": price.remote(name),
    }

@Endpoint(name="deployed-model", cpu="any", idle_timeout=30)
class Model:
    def __init__(self, size: int = 2) -> None:
        self.size = size

    def times(self, x: int) -> int:
        return self.size * x

model = Model(5)

api = Endpoint(name="deployed-api", cpu="any", idle_timeout=30)

@api.get("/items/{item}")
def show_item(item: str, twice: bool = False) -> str:
    return item * (1 + twice)

import shop.more_routes
"""
MORE = """
from shop_app import api

@api.post("/items")
async def add_item(name: str) -> dict:
    return {"added": name}
"""


KILLED = """
import os, signal, sys
from pathlib import Path
from flashq.apps import archive
from flashq.apps.deploy import Deploy
from flashq.model.keyring import Keyring
from flashq.store.broker import Broker

def say(line):
    if line.startswith(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

artifact = Path(sys.argv[1])
broker, keys = Broker(sys.argv[2]), Keyring([bytes(range(32))])
Deploy(broker, keys, archive.read_manifest(artifact), artifact, {}, say=say).run()
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    make_wheels(folder)
    return folder


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """A host without an index: what is not in an artifact cannot be installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_CONFIG_FILE", os.devnull)
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("UV_OFFLINE", "1")
        with contextlib.closing(Rig(lease_s=3.0)) as rig, contextlib.closing(Stack(rig)) as made:
            wait_until(made.hosts, what="a host")
            yield made


@pytest.fixture
def project(stack: Stack, tmp_path: Path, wheels: Path) -> Project:
    variables = {"FLASHQ_REDIS_URL": stack.rig.server.url, "FLASHQ_SECRET_KEY": SECRET.hex()}
    made = Project(tmp_path / "shop-app", wheels, {**variables, "FLASHQ_HOME": str(tmp_path / "home")})
    made.write(
        shop_app=SHOP,
        shop__words="def polite(name): return f'Dear {name}'",
        shop__more_routes=MORE,
        data__words_dot_txt="plain",
    )
    return made


@pytest.fixture
def cli(stack: Stack, tmp_path: Path) -> CommandLine:
    return CommandLine(stack.rig.server.url, tmp_path)


def test_from_deploy_to_undeploy(stack: Stack, project: Project, cli: CommandLine, tmp_path: Path) -> None:
    told = project.done("deploy")
    assert set(told["verdicts"].values()) == {"created"}
    assert all(told["ready"].values())

    # If it is called by name, expect the function, what it needs, its files, its env and its app's other endpoints
    greet = Endpoint(id="deployed-greet")
    said = greet.remote("Ann")
    assert said == {
        "said": "Dear Ann",
        "data": "plain",
        "tiny": ["1.0", "1.0"],
        "script": "1.0",
        "token": "from-project",
        "price": 3,
    }
    assert cli("call", "deployed-price", '"abcd"').stdout.strip() == "4"
    assert Endpoint(id="deployed-model").times.remote(3) == 15
    api = Endpoint(id="deployed-api")
    assert api.get("/items/pen", params={"twice": "true"}).result(20) == "penpen"
    assert api.post("/items", {"name": "cup"}).result(20) == {"added": "cup"}

    # If an environment is added, expect endpoints of its own beside the first
    project.write(shop__words="def polite(name): return f'Hi {name}'", secrets_dot_env="TOKEN=of-staging\n")
    project.done("deploy", "--env", "staging", "--env-file", "secrets.env")
    staged = Endpoint(id="deployed-greet-staging").remote("Ann")
    assert (staged["said"], staged["token"], staged["price"]) == ("Hi Ann", "of-staging", 3)
    assert stack.rig.broker.execute("EXISTS", stack.rig.broker.keys.of("endpoint", "deployed-price-staging"))
    assert greet.remote("Bob")["said"] == "Dear Bob"
    assert [row["environment"] for row in cli.rows("env", "list")] == ["production", "staging"]
    (app,) = cli.rows("env", "get", "staging")
    assert (app["app"], len(app["endpoints"])) == ("shop-app", 4)

    # If it is updated, expect the new code; after a rollback the code before
    updated = project.done("deploy")
    assert set(updated["verdicts"].values()) == {"replaced"}
    wait_until(lambda: greet.remote("Ann")["said"] == "Hi Ann", 20, "the new code answers")
    cli("endpoints", "deployed-greet", "--rollback")
    wait_until(lambda: greet.remote("Ann")["said"] == "Dear Ann", 20, "the code before answers")
    broker = stack.rig.broker
    assert broker.execute("PTTL", broker.keys.of("artifact", told["artifact"])) == -1

    # If another host joins, expect it to prepare what is deployed before any worker starts there
    folder = tmp_path / "second-home"
    second = stack.start("host", name="second", home=folder)
    wait_until(lambda: "deployed-greet is ready" in stack.log("second"), 20, "prepared")
    assert (folder / "apps" / told["artifact"] / "manifest.json").exists()
    second.terminate()
    assert second.wait(20) == 0

    # If it is undeployed, expect it to be gone, and the other environment to be there
    assert (
        cli("undeploy", "shop-app", "--env", "production").stdout == "shop-app: undeployed from production\n"
    )
    stack.rig.client.submission.current.forget("deployed-greet")
    with pytest.raises(EndpointNotFound):
        greet.remote("Ann")
    assert Endpoint(id="deployed-price-staging").remote("abc") == 3
    cli("undeploy", "--all")
    assert cli.rows("app", "list") == []
    assert broker.execute("PTTL", broker.keys.of("artifact", updated["artifact"])) > 0
    cli("undeploy", "shop-app", code=3)


def test_an_artifact_is_built_here_and_deployed_elsewhere(project: Project, tmp_path: Path) -> None:
    project.write(
        shop_app="""
        from flashq import Endpoint
        @Endpoint(name="deployed-alone", cpu="any", env={"TOKEN": "x"}, idle_timeout=30)
        async def alone(a: int, b: int = 2) -> int:
            return a + b
        """
    )
    artifact = str(tmp_path / "alone.tar")
    project.done("build", "--output", artifact, str(project.folder))
    assert "endpoint deployed-alone wants a value of TOKEN" in project.refused("deploy", artifact)
    (tmp_path / "values.env").write_text("# of production\nTOKEN='y'\n")
    project.done("deploy", artifact, "--env-file", str(tmp_path / "values.env"))

    async def awaited() -> Any:
        return await Endpoint(id="deployed-alone")(1, b=5)

    assert asyncio.run(awaited()) == 6


def test_what_was_deployed_serves_on_while_another_deploy_fails(stack: Stack, project: Project) -> None:
    project.write(
        shop_app="""
        from flashq import Endpoint
        @Endpoint(name="deployed-kept", cpu="any", idle_timeout=30)
        def kept() -> str:
            return "first"
        """
    )
    project.done("deploy")
    kept = Endpoint(id="deployed-kept")
    assert kept.remote() == "first"
    project.write(shop_app=(project.folder / "shop_app.py").read_text().replace("first", "second"))

    # If hosts cannot prepare it, expect the reason, and the code before
    said = project.refused("deploy", "--python-version", "3.99")
    assert "endpoint deployed-kept: no host can run it" in said
    assert "this host has no Python 3.99" in said
    assert kept.remote() == "first"

    # If another deploy is under way, expect to be told whose
    key = stack.rig.broker.keys.of("deploying", "shop-app/production")
    stack.rig.broker.execute("SET", key, "elsewhere:7 x", "PX", 30_000)
    assert "elsewhere:7 deploys shop-app to production at this moment" in project.refused("deploy")
    stack.rig.broker.execute("DEL", key)

    # If a deploy is killed while it stores, or hosts prepare, expect the code before, and the next deploy to do it
    artifact = project.done("build")["artifact"]
    for step in ("storing", "preparing"):
        command = [sys.executable, "-c", KILLED, artifact, stack.rig.server.url, step]
        assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
        assert kept.remote() == "first"
        assert "deploys shop-app to production at this moment" in project.refused("deploy", artifact)
        stack.rig.broker.execute("DEL", key)  # as its end does
    assert project.done("deploy")["verdicts"] == {"deployed-kept": "replaced"}
    wait_until(lambda: kept.remote() == "second", 20, "the new code answers")


def test_a_program_that_is_written_for_flash_is_deployed_as_it_is(project: Project) -> None:
    project.write(
        shop_app="""
        from runpod_flash import Endpoint
        config = Endpoint(name="deployed-flash", cpu="cpu3c-1-2", idle_timeout=30)

        @config
        async def half(data: dict) -> float:
            return data["x"] / 2

        @config
        async def quarter(data: dict) -> float:
            return await half({"x": await half(data)})
        """
    )
    project.done("deploy")
    called = Endpoint(id="deployed-flash")
    assert called.half.remote({"x": 6}) == 3
    assert called.quarter.remote({"x": 6}) == 1.5


def test_an_artifact_that_was_altered_in_the_broker_is_refused_by_hosts(
    stack: Stack, project: Project
) -> None:
    project.write(
        shop_app="""
        from flashq import Endpoint
        @Endpoint(name="deployed-altered", cpu="any")
        def altered() -> str:
            return "harmless"
        """
    )
    told = project.done("build")
    artifact = Path(told["artifact"])
    broker = stack.rig.broker
    storage.store(broker, artifact, told["digest"])
    raw = artifact.read_bytes()
    key = broker.keys.of("artifact", told["digest"], "0")
    broker.execute("SET", key, raw.replace(b"harmless", b"evilcode"))
    deploy = Deploy(broker, stack.rig.keyring, archive.read_manifest(artifact), artifact, {})
    with pytest.raises(DeployError, match=r"shop_app\.py' in the artifact was altered"):
        deploy.run()
    assert not broker.execute("EXISTS", broker.keys.of("endpoint", "deployed-altered"))
    assert records.one(broker, "shop-app", "production") is None or "deployed-altered" not in str(
        records.one(broker, "shop-app", "production")
    )


def test_files_that_a_job_alters_on_the_host_are_put_back(stack: Stack, project: Project) -> None:
    project.write(
        shop_app="""
        from pathlib import Path
        from flashq import Endpoint
        @Endpoint(name="deployed-writes", cpu="any", workers=(0, 1), idle_timeout=0.2)
        def writes(text: str) -> str:
            told = (Path(__file__).parent / "data" / "words.txt").read_text()
            Path("data/words.txt").write_text(text)
            return told
        """
    )
    project.done("deploy")
    writes = Endpoint(id="deployed-writes")
    assert writes.remote("altered") == "plain"
    cli_workers = stack.rig.broker.keys.of("endpoint_workers", "deployed-writes")
    wait_until(lambda: stack.rig.broker.execute("ZCARD", cli_workers) == 0, 20, "its worker ended")
    assert writes.remote("again") == "plain"


def test_of_two_deploys_at_once_one_is_told_of_the_other(stack: Stack, project: Project) -> None:
    project.write(
        shop_app="""
        from flashq import Endpoint
        @Endpoint(name="deployed-race", cpu="any")
        def race() -> str:
            return "race"
        """
    )
    told = project.done("build")
    artifact = Path(told["artifact"])
    broker, manifest = stack.rig.broker, archive.read_manifest(artifact)
    ended: list[str] = []

    def nested(line: str) -> None:  # while the first prepares, the second begins
        if line.startswith("preparing") and not ended:
            ended.append("tried")
            with pytest.raises(DeployError, match="deploys shop-app to production at this moment"):
                Deploy(broker, stack.rig.keyring, manifest, artifact, {}).run()

    first = Deploy(broker, stack.rig.keyring, manifest, artifact, {}, say=nested).run()
    assert (ended, first.verdicts) == (["tried"], {"deployed-race": "created"})
    assert not broker.execute("EXISTS", broker.keys.of("deploying", "shop-app/production"))


def test_a_broker_without_room_is_left_as_it_was(tmp_path: Path) -> None:
    with (
        contextlib.closing(BrokerServer()) as server,
        contextlib.closing(Broker(server.url)) as broker,
        broker.redis() as small,
    ):
        big = tmp_path / "big.tar"
        big.write_bytes(os.urandom(24 << 20))
        used = int(dict(small.info("memory"))["used_memory"])
        small.config_set("maxmemory", used + (12 << 20))
        with pytest.raises(DeployError, match="MiB of the artifact were stored: the broker does not take it"):
            storage.store(broker, big, "0" * 64)
        assert not storage.is_stored(broker, "0" * 64)
        assert small.keys("*artifact*") == []


def test_an_artifact_that_is_in_use_stays_whatever_other_deploys_do(tmp_path: Path) -> None:
    """Given one app in two environments, expect what one of them keeps not to expire for the other's sake."""
    digest = "1" * 64
    artifact = tmp_path / "app.tar"
    artifact.write_bytes(os.urandom(5 << 20))
    with contextlib.closing(BrokerServer()) as server, contextlib.closing(Broker(server.url)) as broker:

        def expires() -> set[bool]:
            with broker.redis() as plain:
                return {int(plain.pttl(key)) > 0 for key in plain.keys("*artifact*")}

        def uploaded_by_another(_: int) -> None:  # it was faster, and is current by now
            if not storage.is_stored(broker, digest):
                storage.store(broker, artifact, digest)
                storage.keep(broker, digest)

        storage.store(broker, artifact, digest, uploaded_by_another)
        assert expires() == {False}

        # A deploy is on record when another environment lets go of the same
        records.write(
            broker, records.DeployedApp("app", "production", digest, "", {"one": "one"}, 0, "me", 1)
        )
        release(broker, digest)
        assert expires() == {False}
        records.remove(broker, records.DeployedApp("app", "production", digest, "", {}, 0, "me", 1))
        release(broker, digest)
        assert expires() == {True}

        # What is about to expire is kept long enough for the deploy that found it there
        with broker.redis() as plain:
            for key in plain.keys("*artifact*"):
                plain.pexpire(key, 60_000)
            storage.store(broker, artifact, digest)
            assert all(int(plain.pttl(key)) > 3_600_000 for key in plain.keys("*artifact*"))


def test_a_claim_that_lapsed_is_not_taken_from_another_deploy(tmp_path: Path) -> None:
    """Given a deploy that was silent for long, and another that begins at the moment it looks, expect one to go on."""
    with contextlib.closing(BrokerServer()) as server, contextlib.closing(Broker(server.url)) as broker:
        manifest = Manifest("lapsed", "3.11", "x86_64", "", (), {}, {})
        slow = Deploy(broker, Keyring([SECRET]), manifest, tmp_path / "none", {})
        key = broker.keys.of("deploying", "lapsed/production")

        class Racing:
            """The broker, in which the other's claim comes between a look and what follows it."""

            def __getattr__(self, name: str) -> Any:
                return getattr(broker, name)

            def execute(self, *words: Any) -> Any:
                found = broker.execute(*words)
                if words[0] == "GET":
                    broker.execute("SET", key, "another")
                return found

        slow.broker = Racing()  # type: ignore[assignment]
        with pytest.raises(DeployError, match="another one has begun"):
            slow._renew()
        assert broker.execute("GET", key) == b"another"


def test_without_a_host_nothing_is_deployed(project: Project, tmp_path: Path) -> None:
    with contextlib.closing(BrokerServer()) as alone, contextlib.closing(Broker(alone.url)) as broker:
        variables = {"FLASHQ_REDIS_URL": alone.url, "FLASHQ_SECRET_KEY": SECRET.hex()}
        other = Project(project.folder, tmp_path, variables)
        other.write(
            shop_app="from flashq import Endpoint\n@Endpoint(name='deployed-no', cpu='any')\ndef no(): ...\n"
        )
        assert "no host is up to be prepared" in other.refused("deploy")
        assert not broker.execute("EXISTS", broker.keys.of("endpoint", "deployed-no"))
