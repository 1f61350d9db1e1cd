"""Which of a project's files go into an artifact: not those of version control, caches, secrets, tests and the like.

By the patterns of `IGNORED`, of `.gitignore` files and of `.flashqignore`, as git reads them; the last one that matches
counts, so `!data/model.bin` in `.flashqignore` takes back what `.gitignore` leaves out.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from flashq.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pathspec import GitIgnoreSpec

IGNORED = """
.git/ .hg/ .svn/ .gitignore .gitattributes .gitmodules .flashqignore .flashignore
__pycache__/ *.pyc *.pyo *.pyd .mypy_cache/ .ruff_cache/ .pytest_cache/ .hypothesis/ .tox/ .nox/ .ipynb_checkpoints/
.venv/ venv/ env/ ENV/ .env .env.* !.env.example .envrc *.pem *.key
.idea/ .vscode/ .DS_Store Thumbs.db *.swp *.swo *~
build/ dist/ *.egg-info/ node_modules/ htmlcov/ .coverage .coverage.* *.log
.flash/ .flashq/ .runpod/
tests/ test/ test_*.py *_test.py conftest.py
""".split()
"""What no app needs on its workers."""
_FILES = (".gitignore", ".flashqignore")


class Rule(NamedTuple):
    """Why a file is left out."""

    pattern: str
    source: str
    """The file that says so, relative to the project; empty: `IGNORED`."""

    def __str__(self) -> str:
        return f"{self.pattern!r} {f'in {self.source}' if self.source else 'which is always left out'}"


class Ignored:
    """The rules of one project."""

    def __init__(self, project: Path) -> None:
        """Raises BuildError where pathspec is not installed, or a file of patterns cannot be read."""
        self._project = project
        self._rules: list[tuple[str, GitIgnoreSpec, str]] = [("", _spec(IGNORED, ""), "")]

    def files(self) -> Iterator[str]:
        """The files that go in, as sorted relative paths. Links to files outside of the project are refused."""
        yield from sorted(self._walk("", self._rules))

    def _walk(self, folder: str, rules: list[tuple[str, GitIgnoreSpec, str]]) -> Iterator[str]:
        rules = [*rules, *self._here(folder)]
        for entry in sorted(os.scandir(self._project / folder), key=lambda one: one.name):
            path = f"{folder}{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                if _match(rules, f"{path}/") is None:
                    yield from self._walk(f"{path}/", rules)
                continue
            if _match(rules, path) is not None:
                continue
            if entry.is_symlink() and not self._inside(entry):
                raise BuildError(f"{path} is a link to something outside of the project, or to nothing")
            if entry.is_file():
                yield path
            elif not entry.is_symlink():
                raise BuildError(f"{path} is no regular file: list it in .flashqignore")

    def _inside(self, entry: os.DirEntry[str]) -> bool:
        target = Path(entry.path).resolve()
        return target.is_file() and target.is_relative_to(self._project.resolve())

    def why(self, path: str) -> Rule | None:
        """The rule by which a file of this relative path is left out; None: it goes in."""
        rules, parts = list(self._rules), path.split("/")
        for count in range(len(parts)):
            folder = "".join(f"{part}/" for part in parts[:count])
            if folder and (rule := _match(rules, folder)):
                return rule
            rules += self._here(folder)
        return _match(rules, path)

    def _here(self, folder: str) -> list[tuple[str, GitIgnoreSpec, str]]:
        """The rules of a folder's own files."""
        found = []
        for name in _FILES:
            file = self._project / folder / name
            if not file.is_file():
                continue
            try:
                lines = file.read_text("utf-8").splitlines()
            except (OSError, ValueError) as error:
                raise BuildError(f"{folder}{name} cannot be read: {error}") from None
            found.append((folder, _spec(lines, f"{folder}{name}"), f"{folder}{name}"))
        return found


def _spec(lines: list[str], source: str) -> GitIgnoreSpec:
    try:
        from pathspec import GitIgnoreSpec
    except ModuleNotFoundError:
        raise BuildError("`flashq build` needs pathspec: pip install 'flashq[apps]'") from None
    try:
        return GitIgnoreSpec.from_lines(lines)
    except ValueError as error:
        raise BuildError(f"{source}: {error}") from None


def _match(rules: list[tuple[str, GitIgnoreSpec, str]], path: str) -> Rule | None:
    """The last rule that says anything of a path, where it leaves that out."""
    for folder, spec, source in reversed(rules):
        found = spec.check_file(path[len(folder) :])
        if found.include is None or found.index is None:
            continue
        if not found.include:
            return None
        return Rule(str(getattr(spec.patterns[found.index], "pattern", "")), source)
    return None
