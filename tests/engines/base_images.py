"""The images that the Dockerfile and compose.yaml start from, under their own names in the tests' own engine.

Where a registry answers they are the real ones. Where none does they are made of Debian, by debootstrap: Python as
Debian has it, where the official image has it (/usr/local/bin/python, pip), and the valkey server that the other
tests use. Once made or pulled they are kept.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.engines.podman import find_program, run
from tests.servers import VALKEY, find_server

if TYPE_CHECKING:
    from tests.engines.podman import Podman

DEBIAN = "localhost/flashq-engines-debian:bookworm"
DEBIAN_PYTHON = "3.11"
PACKAGES = "ca-certificates,python3-minimal,python3-venv,redis-tools"

PYTHON = f"""\
FROM {DEBIAN}
RUN python3 -m venv /usr/local
ENV PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
"""
# redis-cli speaks for valkey-cli: the protocol and the way it prints are the same.
BROKER = f"""\
FROM {DEBIAN}
RUN useradd --system valkey && install -d -o valkey -g valkey /data && ln -s /usr/bin/redis-cli /usr/bin/valkey-cli
COPY valkey-server /usr/local/bin/
VOLUME /data
WORKDIR /data
"""


class NoBaseImageError(Exception):
    """There is neither a registry nor what it takes to make the image; the message names what is missing."""


def provide_python(podman: Podman, version: str) -> None:
    """See that `python:<version>-slim` is there. Raises `NoBaseImageError`."""
    image = f"docker.io/library/python:{version}-slim"
    if podman.has(image) or podman.pulled(image):
        return
    if version != DEBIAN_PYTHON:
        raise NoBaseImageError(
            f"no registry answers, and the image made without one has Python {DEBIAN_PYTHON}; functions travel by"
            f" value, so this Python {version} cannot call it"
        )
    _build(podman, image, PYTHON)


def provide_valkey(podman: Podman, image: str) -> None:
    """See that the broker's image is there. Raises `NoBaseImageError`."""
    image = f"docker.io/{image}"
    if podman.has(image) or podman.pulled(image):
        return
    server = find_server(VALKEY)
    if server is None:
        raise NoBaseImageError("no registry answers, and there is no valkey-server to make an image of")
    _build(podman, image, BROKER, server)


def _build(podman: Podman, image: str, containerfile: str, *files: Path) -> None:
    _provide_debian(podman)
    with tempfile.TemporaryDirectory(prefix="fq-image-") as context:
        for file in files:
            shutil.copy(file, context)
        path = Path(context, "Containerfile")
        path.write_text(containerfile, encoding="utf-8")
        podman("build", "--quiet", "--tag", image, "--file", path, context, timeout_s=300)


def _provide_debian(podman: Podman) -> None:
    if podman.has(DEBIAN):
        return
    debootstrap = find_program("debootstrap")
    if debootstrap is None:
        raise NoBaseImageError("no registry answers, and no debootstrap (apt-get install debootstrap)")
    with tempfile.TemporaryDirectory(prefix="fq-debian-") as folder:
        root, archive = Path(folder, "root"), Path(folder, "root.tar")
        command: list[str | Path] = [
            debootstrap,
            "--variant=minbase",
            f"--include={PACKAGES}",
            DEBIAN.rpartition(":")[2],
            root,
        ]
        run(command, timeout_s=900)
        run(
            ["tar", "-C", root, "--exclude=./var/cache/apt/archives/*.deb", "-cf", archive, "."],
            timeout_s=300,
        )
        podman("import", archive, DEBIAN, timeout_s=300)
