"""A stand-in for podman and docker: it notes what it is told, answers as a test says, and "runs a container" by running
its first process here, in a folder where what would be mounted is linked. A container that publishes a port is run by
what the test says it serves with, which finds the port to listen at in `LISTEN`.

`StandIn` puts it on a folder that is to be first on PATH; the rest is the program.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

IMAGE_SAYS = {"HF_HOME": "/of-the-image", "ONLY_IMAGE": "here"}
"""Variables that its images have."""


class StandIn:
    """The program, as podman, in a folder of its own."""

    def __init__(self, folder: Path, name: str = "podman") -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        program = folder / name
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -P {Path(__file__)} {folder} "$@"\n')
        program.chmod(0o755)
        self.variables = {"PATH": f"{folder}:{os.environ['PATH']}"}
        self.answers({})

    def answers(self, answers: dict[str, tuple[int, str]], first: str = "") -> None:
        """What it says, and its exit code, by the first word that it is told; to others it does as podman does.

        `first`: the code of a container's first process, in place of ours; its argument is the folder of the socket.
        """
        (self.folder / "answers").write_text(json.dumps(answers))
        (self.folder / "first").write_text(first)

    def serves(self, program: str) -> None:
        """The code of containers that publish a port."""
        (self.folder / "serves").write_text(program)

    def told(self, first: str) -> list[list[str]]:
        """The words that it was told, of those that begin so."""
        lines = (self.folder / "told").read_text().splitlines() if (self.folder / "told").exists() else []
        found: list[list[str]] = [json.loads(line) for line in lines]
        return [words for words in found if words[0] == first]

    def close(self) -> None:
        """Remove what its containers saw, which are over."""
        roots = self.folder / "roots"
        for root in roots.read_text().split() if roots.exists() else ():
            shutil.rmtree(root, ignore_errors=True)


def main(folder: Path, words: list[str]) -> int:
    """Be podman; the exit code."""
    with (folder / "told").open("a") as told:
        told.write(json.dumps(words) + "\n")
    answers: dict[str, Any] = json.loads((folder / "answers").read_text())
    if words[0] in answers:
        code, said = answers[words[0]]
        sys.stderr.write(f"{said}\n")
        return int(code)
    if words[0] == "version":
        sys.stdout.write("4.3.1-stand-in\n")
    if words[0] == "port":
        place = folder / f"port-{words[1]}"
        sys.stdout.write(f"127.0.0.1:{place.read_text()}\n" if place.exists() else "")
    if words[0] == "rm":
        (folder / f"port-{words[-1]}").unlink(missing_ok=True)
        with contextlib.suppress(OSError, ValueError):
            os.kill(int((folder / f"pid-{words[-1]}").read_text()), signal.SIGKILL)
    if words[0] == "run" and any(word.startswith("--publish=") for word in words):
        serve(folder, words)
    if words[0] == "run":
        run(folder, words, (folder / "first").read_text())
    return 0


def serve(folder: Path, words: list[str]) -> NoReturn:
    """Become a server's first process."""
    assert not [word for word in words if word.startswith("--entrypoint")]
    name = words[words.index("--name") + 1]
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    (folder / f"pid-{name}").write_text(str(os.getpid()))
    (folder / f"port-{name}").write_text(str(port))
    passed = [word.removeprefix("--env=") for word in words if word.startswith("--env=")]
    environ = {name: os.environ[name] for name in passed if name in os.environ}
    code = (folder / "serves").read_text()
    os.execve(sys.executable, [sys.executable, "-c", code], {**environ, **IMAGE_SAYS, "LISTEN": str(port)})


def run(folder: Path, words: list[str], first: str) -> NoReturn:
    """Become the container's first process."""
    root = Path(tempfile.mkdtemp(prefix="fq-stand-in-"))  # a short path: a socket will be in it
    with (folder / "roots").open("a") as roots:
        roots.write(f"{root}\n")
    for at, word in enumerate(words):
        if word == "--mount":
            fields = dict(field.partition("=")[::2] for field in words[at + 1].split(","))
            target = Path(fields["target"])
            if target.is_relative_to("/flashq"):
                link = root / target.relative_to("/flashq")
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(fields["source"])
    at = next(at for at, word in enumerate(words) if word.startswith("--entrypoint="))
    assert words[at] == "--entrypoint=python3"
    arguments = [word.replace("/flashq", str(root), 1) for word in words[at + 2 :]]
    if first:
        arguments = ["-c", first, str(root / "run")]
    os.execve(sys.executable, [sys.executable, *arguments], {"PATH": os.environ["PATH"], **IMAGE_SAYS})


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
