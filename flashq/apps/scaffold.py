"""What `flashq init` writes: a small project that builds, deploys and has tests that pass."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from flashq.errors import BuildError

if TYPE_CHECKING:
    from pathlib import Path

_APP = '''"""Endpoints of {name}: `python app.py` calls them, `flashq deploy` makes them callable by anybody."""

from flashq import Endpoint


@Endpoint(name="{name}-words", cpu="any", workers=(0, 3))
def count_words(text: str) -> dict[str, int]:
    """Counts words. It runs on a worker, with the packages of dependencies=[...]."""
    counts: dict[str, int] = {{}}
    for word in text.lower().split():
        counts[word] = counts.get(word, 0) + 1
    return counts


@Endpoint(name="{name}-greeter", cpu="any", workers=(0, 1))
class Greeter:
    """A worker makes one of these and keeps it: a model that takes long to load is loaded once."""

    def __init__(self, greeting: str = "Hello") -> None:
        self.greeting = greeting

    def greet(self, name: str) -> str:
        """Greets somebody."""
        return f"{{self.greeting}}, {{name}}!"


greeter = Greeter("Good day")

if __name__ == "__main__":
    print(count_words.remote("to be or not to be"))
    print(greeter.greet.remote("Ada"))
'''

_TEST = '''"""Endpoints as functions: `local` runs them here, without a worker."""

from app import count_words, greeter


def test_words_are_counted() -> None:
    assert count_words.local("To be or to go") == {{"to": 2, "be": 1, "or": 1, "go": 1}}


def test_somebody_is_greeted() -> None:
    assert greeter.greet.local("Ada") == "Good day, Ada!"
'''

_PYPROJECT = """[project]
name = "{name}"
version = "0.1.0"
requires-python = ">=3.11"
dependencies = ["flashq"]

[dependency-groups]
dev = ["pytest"]

[tool.pytest.ini_options]
pythonpath = ["."]
"""

_README = """# {name}

```
python app.py         # calls the endpoints; with nothing configured, on workers of this machine
python -m pytest      # runs them here, as functions (pip install pytest)
flashq run            # serves them at localhost:8888 while you write them
flashq build          # one artifact: files, endpoints, locked dependencies
flashq deploy         # endpoints by name: Endpoint(id="{name}-words").remote("...")
```

What `.gitignore` and `.flashqignore` name does not go into the artifact. Secrets belong into `env=` of an endpoint.
"""

_GITIGNORE = """__pycache__/
.venv/
.env
.flashq/
.pytest_cache/
"""

_FLASHQIGNORE = """# Left out of the artifact, beside what .gitignore names. The last pattern that matches counts.
README.md
pyproject.toml
"""


def files_of(name: str) -> dict[str, str]:
    """The files of a new project, by path. Raises BuildError where that is no name for one."""
    if not re.fullmatch(r"[a-z0-9]([a-z0-9]|[-_](?=[a-z0-9])){0,40}", name):
        raise BuildError(
            f"{name!r} is no name for a project: small letters, digits, single '-' and '_' between them, 41 at most"
        )
    texts = {
        "app.py": _APP,
        "tests/test_app.py": _TEST,
        "pyproject.toml": _PYPROJECT,
        "README.md": _README,
    }
    made = {path: text.format(name=name) for path, text in texts.items()}
    return {**made, ".gitignore": _GITIGNORE, ".flashqignore": _FLASHQIGNORE}


def write(folder: Path, name: str, *, force: bool = False) -> list[str]:
    """Write a project's files into a folder; their paths. `force`: over those that are there.

    Raises: BuildError where files would be overwritten, naming them; nothing is written then. OSError.
    """
    files = files_of(name)
    taken = sorted(path for path in files if (folder / path).exists())
    if taken and not force:
        raise BuildError(f"{folder} has {', '.join(taken)} already: --force overwrites")
    for path, text in files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return sorted(files)
