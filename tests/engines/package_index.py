"""A package index on loopback with the wheels that constraints.txt pins, for builds that reach no other.

The wheels are fetched by this Python's pip, from wherever it gets packages, so they fit an image of the same Python
and of this machine's kind. They are kept in the cache folder until the pins change.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import re
import shutil
import sys
import threading
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from tests.engines.podman import run

if TYPE_CHECKING:
    from collections.abc import Iterator

MARKER = re.compile(r" ; [^\\\n]+")


def wheelhouse(constraints: Path, cache: Path) -> Path:
    """A folder of wheels laid out as an index: `<project>/<wheel>`; filled when it is not there yet."""
    # Without their conditions: another patch release of Python may need what this one does not.
    pins = MARKER.sub(" ", constraints.read_text(encoding="utf-8"))
    digest = hashlib.sha256(f"{pins}{sys.version_info[:2]}".encode()).hexdigest()
    folder = cache / f"index-{digest[:16]}"
    if folder.exists():
        return folder
    for old in cache.glob("index-*"):
        shutil.rmtree(old)
    with TemporaryDirectory(prefix="wheels-", dir=cache) as filling:
        requirements = Path(filling, "requirements.txt")
        requirements.write_text(pins, encoding="utf-8")
        pip: list[str | Path] = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
        ]
        what: list[str | Path] = [
            "--no-deps",
            "--only-binary=:all:",
            "--require-hashes",
            "--requirement",
            requirements,
        ]
        run([*pip, *what, "--dest", Path(filling, "wheels")], timeout_s=900)
        for wheel in Path(filling, "wheels").glob("*.whl"):
            project = Path(filling, "index", re.sub(r"[-_.]+", "-", wheel.name.split("-")[0]).lower())
            project.mkdir(parents=True, exist_ok=True)
            wheel.rename(project / wheel.name)
        Path(filling, "index").rename(folder)
    return folder


class _Quiet(http.server.SimpleHTTPRequestHandler):
    """Lists folders as an index does: one link for each file."""

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve an index on a free port of this machine's loopback; its address."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, name="package-index")
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
