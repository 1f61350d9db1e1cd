"""The endpoints of a project: found by importing its files in a process of their own.

Decides what is a module of the project and what is said of one that cannot be imported. Imports nothing of the user's.
"""

from __future__ import annotations

import ast
import contextlib
import itertools
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashq.errors import BuildError
from flashq.settings import users_variables

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

log = logging.getLogger("flashq")
IMPORT_S = 120.0
"""How long importing a project's files may take, all together."""
_NOT_MODULES = frozenset({"setup.py", "__main__.py", "noxfile.py", "tasks.py", "fabfile.py"})
_TAIL_LINES = 20


@dataclass(frozen=True, slots=True)
class Found:
    """What a project defines."""

    endpoints: tuple[dict[str, Any], ...]
    """As `flashq.apps.finder` describes each; in the order of their names."""
    closure: dict[str, dict[str, str]]
    """Modules of the user's own that they import → `file` and `path` (as a module)."""
    roots: tuple[str, ...]
    """Folders of the project that modules are found in; "" is itself."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Files that could not be imported and define no endpoint that is known of → why."""


def discover(project: Path, files: Iterable[str], *, timeout_s: float = IMPORT_S) -> Found:
    """Import the .py among the `files` (relative paths) of a project. Raises BuildError, a line for each problem."""
    roots, modules = modules_of(project, files)
    if not modules:
        raise BuildError(f"{project} has no Python files: what is to be built?")
    order = {"project": str(project), "roots": roots, "modules": modules}
    told, _ = ask("flashq.apps.finder", order, timeout_s, users_variables())
    for line in told.get("notices", ()):
        log.warning("%s", line)
    problems, skipped = list(told["problems"]), {}
    needed = {str(Path(one["file"])) for one in told["closure"].values()}
    for path, failure in told["failures"].items():
        if may_define(project / path) or str(project / path) in needed:
            problems.append(f"{failure['where']}: {failure['error']}")
        else:
            skipped[path] = failure["error"]
    if problems:
        raise BuildError("\n".join(problems))
    endpoints = sorted(told["endpoints"], key=lambda one: str(one["name"]))
    for first, second in itertools.pairwise(endpoints):
        if first["name"] == second["name"]:
            raise BuildError(
                f"{first['path']} and {second['path']} both define the endpoint {first['name']!r}:"
                " give one another name"
            )
    if not endpoints:
        lost = "".join(f"\n{path} is no part of it: {why}" for path, why in skipped.items())
        raise BuildError(f"{project} defines no endpoint: decorate a function with @Endpoint(...){lost}")
    return Found(tuple(endpoints), told["closure"], roots, skipped)


def modules_of(project: Path, files: Iterable[str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """The folders that modules of a project are found in ("" is itself), and its modules → their files."""
    roots = (
        ("", "src") if (project / "src").is_dir() and not (project / "src/__init__.py").exists() else ("",)
    )
    return roots, {name: path for path in files if (name := _module(path, roots))}


def _module(path: str, roots: Sequence[str]) -> str | None:
    """The name by which a file is imported; None where it is no module."""
    if not path.endswith(".py") or path.rpartition("/")[2] in _NOT_MODULES:
        return None
    root = max((one for one in roots if path.startswith(f"{one}/") or not one), key=len)
    parts = path[len(root) + 1 if root else 0 :].removesuffix(".py").split("/")
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts) if parts and all(part.isidentifier() for part in parts) else None


def may_define(file: Path) -> bool:
    """Whether a file can define endpoints: it imports flashq, or is no Python at present and names it."""
    try:
        tree = ast.parse(file.read_bytes())
    except SyntaxError:
        return "flashq" in file.read_text("utf-8", "replace")
    except (OSError, ValueError):
        return False
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if any(name.partition(".")[0] in ("flashq", "runpod_flash") for name in names):
            return True
    return False


def ask(
    program: str, order: dict[str, Any], timeout_s: float, variables: Mapping[str, str] | None = None
) -> tuple[dict[str, Any], str]:
    """Have a program do it that imports the project's files (see `finder.Asked`); None: with this one's variables.

    Returns what it says, and what was printed: its answer comes on a pipe of its own, and user code prints what it
    likes. Raises BuildError.
    """
    answer, theirs = os.pipe()
    lifeline, ours = os.pipe()  # at whose end it ends, whatever becomes of this process
    process = None
    told: list[bytes] = []
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", program, str(theirs), str(lifeline)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(theirs, lifeline),
            env=variables,
            start_new_session=True,
        )
        os.close(theirs)
        theirs = -1
        reader = threading.Thread(target=lambda: told.append(_all_of(answer)), daemon=True)
        reader.start()
        output, _ = process.communicate(json.dumps(order).encode(), timeout=timeout_s)
        reader.join(timeout=5.0)
    except subprocess.TimeoutExpired:
        raise BuildError(
            f"importing the project's files took longer than {timeout_s:g} s: what a file does when it is run"
            " belongs under `if __name__ == '__main__':`"
        ) from None
    finally:
        if process is not None and process.poll() is None:  # it, and what the files have started
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        for end in (lifeline, ours, *((theirs,) if theirs >= 0 else ())):
            os.close(end)
    printed = output.decode("utf-8", "replace")
    try:
        found: dict[str, Any] = json.loads(b"".join(told))
    except ValueError:
        tail = "\n".join(printed.splitlines()[-_TAIL_LINES:])
        raise BuildError(
            f"the process that imports the project's files ended before it was done\n{tail}"
        ) from None
    return found, printed


def _all_of(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb") as said:
        return said.read()
