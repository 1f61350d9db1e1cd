"""`python -m flashq_worker.environments.collect`: dependencies of an app, resolved and fetched where it is built.

Reads an order as JSON on stdin and answers in JSON on stdout; uv's lines go to stderr. Resolves requirements for a
Python version and a platform into a lock with hashes, and installs what that says into a folder for each package,
without compiling anything: only wheels will do, since hosts build nothing. Owns `os.environ`: what uv is given.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from flashq.errors import EnvironmentBuildError, FlashqError
from flashq_worker.environments import index as environment_index
from flashq_worker.environments.environment import requirements
from flashq_worker.environments.uv import Uv

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_LINES = 12  # of uv's, in an error
_SCRIPT = re.compile(rb"\A#![^\n]*\n")
_ANY_PYTHON = b"#!/usr/bin/env python\n"


def collect(order: dict[str, Any], said: list[str]) -> dict[str, Any]:
    """`requirements`, `python`, `platform`, `exclude` (names, or true for all), `folder`.

    `lock`, `fetched` (that part of it which is left out), `packages` (folders made in `folder`).
    Raises EnvironmentBuildError.
    """
    wanted = requirements(order["requirements"])
    root = Path(order["folder"])
    with tempfile.TemporaryDirectory(prefix=".collect-", dir=root) as aside:

        def tell(line: str) -> None:
            said.append(line)
            print(line, file=sys.stderr, flush=True)  # noqa: T201 - this process's way of telling

        indexes = environment_index.pip_indexes(os.environ, prefix=Path(sys.prefix))
        uv = Uv(Path(aside), os.environ, indexes, tell)
        lock = uv.lock(Path(aside), wanted, order["python"], order["platform"])
        kept, fetched = _parted(lock, order["exclude"])
        packages: list[str] = []
        if kept:
            target = Path(aside) / "installed"
            uv.install_locked(Path(aside), target, _text(kept), order["python"], order["platform"])
            packages = [_move(name, files, target, root) for name, files in _installed(target)]
        return {"lock": lock, "fetched": _text(fetched), "packages": sorted(packages)}


def _parted(lock: str, exclude: Sequence[str] | bool) -> tuple[list[str], list[str]]:
    """A lock's entries: those to be had now, and those that hosts fetch."""
    entries = re.sub(r"\\\n\s*", "", lock).splitlines()
    left_out = {canonicalize_name(name) for name in exclude} if not isinstance(exclude, bool) else None
    kept: list[str] = []
    fetched: list[str] = []
    for entry in filter(None, map(str.strip, entries)):
        name = canonicalize_name(Requirement(entry.partition(" --hash")[0]).name)
        out = bool(exclude) if left_out is None else name in left_out
        (fetched if out else kept).append(entry)
    return kept, fetched


def _text(entries: Iterable[str]) -> str:
    return "".join(f"{entry}\n" for entry in entries)


def _installed(target: Path) -> Iterator[tuple[str, list[str]]]:
    """Each package in a folder, as name-version, with its files as its record has them."""
    for info in sorted(target.glob("*.dist-info")):
        with (info / "RECORD").open(newline="", encoding="utf-8") as record:
            yield info.name.removesuffix(".dist-info"), [row[0] for row in csv.reader(record) if row]


def _move(name: str, files: Sequence[str], target: Path, root: Path) -> str:
    """One package's files, in a folder named by its name, version and contents."""
    aside = Path(tempfile.mkdtemp(dir=target.parent))
    digest = hashlib.sha256()
    _rewrite_record(target / f"{name}.dist-info" / "RECORD")
    for path in sorted(files):
        source = (target / path).resolve()
        if not source.is_relative_to(target.resolve()):
            raise EnvironmentBuildError(f"package {name} puts {path!r} outside of itself")
        if not source.is_file() or _is_of_this_machine(path):
            continue
        inside = source.relative_to(target.resolve())
        if inside.parts[0] == "bin":
            _make_portable(source)
        digest.update(f"{inside.as_posix()}\0{hashlib.sha256(source.read_bytes()).hexdigest()}\0".encode())
        place = aside / inside
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(source, place)
    folder = f"{name}-{digest.hexdigest()[:12]}"
    if not (root / folder).exists():
        aside.rename(root / folder)
    return folder


_OF_THIS_MACHINE = frozenset({"REQUESTED", "direct_url.json", "uv_cache.json", "uv_build.json"})


def _make_portable(script: Path) -> None:
    """A script names the interpreter here: hosts put in that of its environment."""
    raw = script.read_bytes()
    if raw.startswith(b"#!") and b"python" in raw.partition(b"\n")[0]:
        script.write_bytes(_SCRIPT.sub(_ANY_PYTHON, raw, count=1))


def _rewrite_record(record: Path) -> None:
    """Without what is left out, and without scripts, of which hosts make their own."""
    with record.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if row and not _is_of_this_machine(row[0])]
    with record.open("w", newline="", encoding="utf-8") as file:
        kept = (row for row in rows if not row[0].startswith(("bin/", "../")))
        csv.writer(file, lineterminator="\n").writerows(sorted(kept))


def _is_of_this_machine(path: str) -> bool:
    return "__pycache__" in path or path.rpartition("/")[2] in _OF_THIS_MACHINE


def main() -> None:
    """Answer one order."""
    order = json.load(sys.stdin)
    said: list[str] = []
    try:
        answer = collect(order, said)
    except (FlashqError, OSError, InvalidRequirement) as error:
        answer = {"error": "\n".join([str(error), *said[-_LINES:]])}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
