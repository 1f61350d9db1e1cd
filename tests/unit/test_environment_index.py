"""pip's configuration in uv's terms, and the order in which pip reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from flashq_worker.environments.index import Indexes, pip_indexes

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home folder; XDG_CONFIG_DIRS below keeps this machine's own files out."""
    return tmp_path


def indexes(home: Path, variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables for uv of an operator with that home, without /etc/pip.conf's share."""
    own = {"HOME": str(home), "XDG_CONFIG_DIRS": str(home / "xdg"), **(variables or {})}
    return pip_indexes(own, home / "prefix").variables


def write(file: Path, text: str) -> None:
    """A configuration file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_pips_variables_become_uvs(home: Path) -> None:
    """Given pip's variables, expect uv's, with the meaning pip gives them."""
    given = {
        "PIP_INDEX_URL": "https://index.test/simple",
        "PIP_EXTRA_INDEX_URL": "https://a.test/simple\nhttps://b.test/simple",
        "PIP_FIND_LINKS": "/wheels https://links.test",
        "PIP_NO_INDEX": "1",
        "PIP_CONFIG_FILE": "/dev/null",
    }

    assert pip_indexes({"HOME": str(home), **given}, home) == Indexes(
        {
            "UV_DEFAULT_INDEX": "https://index.test/simple",
            "UV_INDEX": "https://a.test/simple https://b.test/simple",
            "UV_INDEX_STRATEGY": "unsafe-best-match",
            "UV_FIND_LINKS": "/wheels,https://links.test",
        },
        ("--no-index",),
    )


def test_without_any_configuration_nothing_is_given(home: Path) -> None:
    """Given no configuration of pip, expect uv's own defaults."""
    assert pip_indexes({"HOME": str(home), "PIP_CONFIG_FILE": "/dev/null"}, home) == Indexes()


def test_later_files_win(home: Path) -> None:
    """Given pip.conf in each of its places, expect pip's order: user's, prefix's, named file, variable."""
    places = [
        (home / ".pip" / "pip.conf", {}),
        (home / ".config" / "pip" / "pip.conf", {}),
        (home / "prefix" / "pip.conf", {}),
        (home / "named.conf", {"PIP_CONFIG_FILE": str(home / "named.conf")}),
    ]
    variables: dict[str, str] = {}
    for number, (file, more) in enumerate(places):
        write(file, f"[global]\nindex-url = https://{number}.test\n")
        variables |= more
        assert indexes(home, variables)["UV_DEFAULT_INDEX"] == f"https://{number}.test"

    variables["PIP_INDEX_URL"] = "https://variable.test"
    assert indexes(home, variables)["UV_DEFAULT_INDEX"] == "https://variable.test"


def test_the_install_section_wins(home: Path) -> None:
    """Given [global] and [install], expect pip's own rule: [install] for installing."""
    write(home / ".pip" / "pip.conf", "[install]\nfind-links = /b\n[global]\nfind-links = /a\n")
    assert indexes(home)["UV_FIND_LINKS"] == "/b"


@pytest.mark.parametrize("text", ["no section", "[global]\nindex-url: %(broken\n", "[global\n"])
def test_a_broken_pip_conf_is_passed_over(home: Path, text: str) -> None:
    """Given a file that is no configuration, or holds interpolation marks, expect no failure."""
    write(home / ".pip" / "pip.conf", text)
    indexes(home)


@pytest.mark.parametrize(
    "variable", ["UV_INDEX", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS"]
)
def test_uvs_own_variables_rule_pip_out(home: Path, variable: str) -> None:
    """Given an index in uv's variables, expect nothing of pip's."""
    given = {"PIP_INDEX_URL": "https://pip.test", variable: "https://uv.test"}
    assert indexes(home, given) == {}


@pytest.mark.parametrize(
    "text",
    [
        'index-url = "https://uv.test"\n',
        '[[index]]\nurl = "https://uv.test"\n',
        '[pip]\nfind-links = ["/wheels"]\n',
    ],
)
def test_uvs_own_files_rule_pip_out(home: Path, text: str) -> None:
    """Given an index in uv.toml, expect nothing of pip's, unless the operator has uv read no files."""
    write(home / ".config" / "uv" / "uv.toml", text)
    assert indexes(home, {"PIP_INDEX_URL": "https://pip.test"}) == {}
    assert indexes(home, {"PIP_INDEX_URL": "https://pip.test", "UV_NO_CONFIG": "1"}) != {}


@pytest.mark.parametrize("text", ["", "offline = true\n", "not toml"])
def test_a_uv_toml_without_indexes_leaves_pips(home: Path, text: str) -> None:
    """Given a uv.toml about other things, expect pip's indexes."""
    write(home / "named.toml", text)
    given = {"PIP_INDEX_URL": "https://pip.test", "UV_CONFIG_FILE": str(home / "named.toml")}
    assert indexes(home, given)["UV_DEFAULT_INDEX"] == "https://pip.test"
