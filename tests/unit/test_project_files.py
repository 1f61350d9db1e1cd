"""What sets a machine up: the pins of constraints.txt, and what uv is told of pip's configuration."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from scripts.pip_index import pip_settings, uv_variables

ROOT = Path(__file__).parent.parent.parent
CONSTRAINTS = (ROOT / "constraints.txt").read_text(encoding="utf-8")


def normalized(requirement: str) -> str:
    """The name in a requirement, as indexes spell it."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name is not None
    return re.sub(r"[-_.]+", "-", name.group()).lower()


def test_every_line_is_a_pin_with_hashes_and_none_an_address() -> None:
    lines = [line for line in CONSTRAINTS.replace("\\\n    ", "").splitlines() if not line.startswith("#")]

    assert lines
    for line in lines:
        assert re.fullmatch(r"[a-z0-9-]+==\S+( ; .+?)?( --hash=sha256:[0-9a-f]{64})+", line), line


def test_everything_pyproject_asks_for_is_pinned() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    asked = [
        *pyproject["build-system"]["requires"],
        *pyproject["project"]["dependencies"],
        *(wanted for extra in pyproject["project"]["optional-dependencies"].values() for wanted in extra),
        *pyproject["dependency-groups"]["dev"],
    ]

    pinned = set(re.findall(r"^([a-z0-9-]+)==", CONSTRAINTS, flags=re.MULTILINE))

    assert {normalized(requirement) for requirement in asked} - {"flashq"} <= pinned


def test_pip_settings_merge_as_pip_merges_them() -> None:
    listing = "\n".join(
        [
            "global.index-url='https://global.example/simple'",
            "global.find-links='/wheels'",
            "install.find-links='/a\\n/b'",
            "download.find-links='/elsewhere'",
            ":env:.index-url='https://env.example/simple'",
        ]
    )

    assert pip_settings(listing) == {"index-url": "https://env.example/simple", "find-links": "/a\n/b"}


@pytest.mark.parametrize(
    ("settings", "variables"),
    [
        ({}, {}),
        ({"index-url": "https://a/simple"}, {"UV_DEFAULT_INDEX": "https://a/simple"}),
        (
            {"extra-index-url": "https://a/simple\nfile:///b/simple"},
            {"UV_INDEX": "https://a/simple file:///b/simple", "UV_INDEX_STRATEGY": "unsafe-best-match"},
        ),
        ({"find-links": "/a /b"}, {"UV_FIND_LINKS": "/a,/b"}),
        ({"no-index": "true"}, {"UV_NO_INDEX": "1"}),
        ({"no-index": "false"}, {}),
        ({"trusted-host": "a b:8080"}, {"UV_INSECURE_HOST": "a b:8080"}),
        ({"cert": "/ca.pem"}, {"SSL_CERT_FILE": "/ca.pem"}),
        ({"default-timeout": "180"}, {"UV_HTTP_TIMEOUT": "180"}),
        ({"timeout": "30", "default-timeout": "180"}, {"UV_HTTP_TIMEOUT": "30"}),
        ({"progress-bar": "off"}, {}),
    ],
)
def test_pip_settings_become_uv_variables(settings: dict[str, str], variables: dict[str, str]) -> None:
    assert uv_variables(settings) == variables
