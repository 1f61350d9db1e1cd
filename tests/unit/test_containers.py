"""The words for a container engine, and what becomes of its exit codes."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from flashq.model.host_command import CONTAINER_ENGINE, required
from flashq.model.spec import EndpointSpec, environment, resource_digest, resources
from flashq_autoscaler import rows, written
from flashq_worker.containers.engine import Engine, Mount, Run, last_lines, run_words
from flashq_worker.containers.order import TROUBLE, UNFIT, Order
from flashq_worker.containers.runner import judged
from flashq_worker.executor.contained import WRONG_PYTHON

PODMAN = Engine("podman", "/usr/bin/podman", "4.3.1")
DOCKER = Engine("docker", "/usr/bin/docker", "27.0")
GPUS = ("GPU-1", "GPU-2")


def run(**changes: object) -> Run:
    return Run(**{"name": "flashq-w", "image": "img:1", "command": ("python3", "-I", "x"), **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("engine", [PODMAN, DOCKER], ids=str)
def test_the_words_of_a_run(engine: Engine) -> None:
    """Given limits, mounts and options, expect words that both engines take, the image's start command replaced."""
    mounts = (Mount(Path("/a"), "/flashq/a"), Mount(Path("/b"), "/b", writable=True))
    words = run_words(engine, run(mounts=mounts, cpus=1.5, memory_bytes=2**30, options=("--network=host",)))
    assert words[:2] == [engine.program, "run"]
    assert {"--rm", "--pull=never", "--cpus=1.5", "--memory=1073741824"} <= set(words)
    assert words[words.index("--name") + 1] == "flashq-w"
    given = [words[at + 1] for at, word in enumerate(words) if word == "--mount"]
    assert given == ["type=bind,source=/a,target=/flashq/a,readonly", "type=bind,source=/b,target=/b"]
    assert words[-5:] == ["--network=host", "--entrypoint=python3", "img:1", "-I", "x"]


def test_nothing_is_limited_that_has_no_limit() -> None:
    words = run_words(PODMAN, run())
    assert not [word for word in words if word.startswith(("--cpus", "--memory", "--gpus", "--device"))]


def test_gpus_are_given_by_uuid_and_to_who_asked_for_none_none() -> None:
    podmans = run_words(PODMAN, run(gpu_uuids=GPUS))
    given = [podmans[at + 1] for at, word in enumerate(podmans) if word == "--device"]
    assert given == ["nvidia.com/gpu=GPU-1", "nvidia.com/gpu=GPU-2"]
    dockers = run_words(DOCKER, run(gpu_uuids=GPUS))
    assert dockers[dockers.index("--gpus") + 1] == '"device=GPU-1,GPU-2"'  # quoted: docker reads it as CSV
    for engine in (PODMAN, DOCKER):
        assert "--env=NVIDIA_VISIBLE_DEVICES=void" in run_words(engine, run())
        assert "--env=NVIDIA_VISIBLE_DEVICES=void" not in run_words(engine, run(gpu_uuids=GPUS))


def test_a_path_that_would_be_more_than_a_path_is_refused() -> None:
    with pytest.raises(ValueError, match="comma"):
        run_words(PODMAN, run(mounts=(Mount(Path("/a,target=/etc"), "/a"),)))


@pytest.mark.parametrize(
    ("status", "begun", "words", "code", "said"),
    [
        (125, False, "", TROUBLE, "no container of image img was begun (code 125)"),
        (126, False, 'exec: "python3": permission denied', UNFIT, "no python3 that runs (code 126)"),
        (127, False, 'exec: "python3": executable file not found', UNFIT, "no python3 that runs (code 127)"),
        (126, False, "open /dev/net/tun: Permission denied", TROUBLE, "was begun (code 126)"),
        (127, False, "statfs /mnt/volume: no such file or directory", TROUBLE, "was begun (code 127)"),
        (WRONG_PYTHON, False, "", UNFIT, "another Python than the function"),
        (0, False, "", UNFIT, "ended with code 0 before there was an executor"),
        (3, False, "", UNFIT, "ended with code 3 before there was an executor"),
        (137, False, "", -signal.SIGKILL, "was killed"),
        (-9, True, "", -signal.SIGKILL, "was killed"),
        (137, True, "", -signal.SIGKILL, "was killed"),
        (125, True, "", 125, "ended with code 125"),
        (0, True, "", 1, "ended with code 0"),
    ],
)
def test_what_an_engines_exit_code_means(status: int, begun: bool, words: str, code: int, said: str) -> None:
    """Given an end that the container did not report, expect trouble to be told from an unfit image."""
    found, told = judged(status, "img", words, begun=begun)
    assert found == code
    assert said in told


def test_an_order_is_read_as_it_was_written() -> None:
    order = Order(
        folder=Path("/home/containers/w"),
        container="flashq-w",
        image="img",
        engine="/usr/bin/podman",
        words=("podman", "run"),
        given=(3, 4, 5),
        setup={"env": {"A": "b"}},
        memory_bytes=7,
    )
    assert Order.from_json(order.to_json()) == order


def test_the_last_lines_are_those_that_say_something() -> None:
    assert last_lines("a\n\nb\nc\n \n", 2) == "b\nc"


def test_an_image_is_a_resource_and_needs_an_engine() -> None:
    """Given an image, expect workers of another one to be outdated, and a host to need an engine."""
    one, other, none = (EndpointSpec(cpu="any", image=image) for image in ("a:1", "a:2", None))
    assert len({resource_digest(spec) for spec in (one, other, none)}) == 3
    assert environment(one) == environment(none)
    assert required(resources(one)) == (CONTAINER_ENGINE,)
    assert required(resources(none)) == ()


@pytest.mark.parametrize(
    ("image", "requirements", "python"),
    [("a:1", [], ""), ("a:1", ["numpy"], "3.11"), (None, [], "3.11")],
)
def test_a_host_needs_the_python_that_it_is_to_use(
    image: str | None, requirements: list[str], python: str
) -> None:
    """Given an image, expect its host to need a Python only where it is to install packages for it."""
    spec = written.Spec.model_validate(
        {
            "resources": {"concurrency": 1, "cpu": {"cores": None, "memory_gib": None}, "image": image},
            "environment": {"python": "3.11", "requirements": requirements},
        }
    )
    needs = rows.needs(spec.resources, spec.python)
    assert needs.python == python
    assert needs.requires == ((CONTAINER_ENGINE,) if image else ())
