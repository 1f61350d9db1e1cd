"""The documentation is true: its snippets run, its tables are those of the code, its links lead somewhere."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import tempfile
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
import yaml

from flashq.cli import flashq
from scripts import reference
from tests.acceptance import pages
from tests.acceptance.pages import ROOT, blocks, steps

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.acceptance.pages import Block

PAGES = reference.pages()
LANGUAGES = {"python", "console", "text", "mermaid", "json", "toml", "yaml"}


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def runs(page: Path, language: str) -> list[Block]:
    return [block for block in blocks(page) if block.language == language and block.not_run is None]


WITH_PYTHON = [page for page in PAGES if any(block.file is None for block in runs(page, "python"))]
WITH_CONSOLE = [page for page in PAGES if runs(page, "console")]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short enough for the paths of sockets in it."""
    made = Path(tempfile.mkdtemp(prefix="fqd-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


# -- what runs ---------------------------------------------------------------------------------------


@pytest.mark.requires("valkey")
@pytest.mark.timeout(pages.TIMEOUT_S + 40)
@pytest.mark.parametrize("page", WITH_PYTHON, ids=name)
def test_python_runs_and_prints_what_is_shown(page: Path, folder: Path) -> None:
    found = blocks(page)

    pages.run_python(folder, found, pages.prepare(folder, found))


@pytest.mark.requires("valkey")
@pytest.mark.timeout(pages.TIMEOUT_S + 40)
@pytest.mark.parametrize("page", WITH_CONSOLE, ids=name)
def test_commands_run_and_show_what_is_shown(page: Path, folder: Path) -> None:
    found = blocks(page)
    environ = pages.prepare(folder, found)
    try:
        pages.run_console(folder, [step for block in runs(page, "console") for step in steps(block)], environ)
    finally:
        down = [str(folder / ".programs" / "flashq"), "down", "--now"]
        subprocess.run(down, env=environ, capture_output=True, timeout=30, check=False)


# -- what is only parsed -----------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_is_of_a_known_kind_and_can_be_parsed(page: Path) -> None:
    for block in blocks(page):
        where = f"{name(page)}:{block.line}"
        assert block.language in LANGUAGES, f"{where}: a fence without a language, or with an unknown one"
        assert block.not_run is None or block.not_run, f"{where}: no-run wants a reason"
        match block.language:
            case "python":
                ast.parse(block.text, filename=where)
            case "console":
                check_commands(block)
            case "json":
                json.loads(block.text)
            case "toml":
                tomllib.loads(block.text)
            case "yaml":
                yaml.safe_load(block.text)


def check_commands(block: Block) -> None:
    """A shell can read each command; where it is a `flashq` command, there are such options and arguments."""
    for step in steps(block):
        read = subprocess.run(["bash", "-n"], input=step.command, text=True, capture_output=True, check=False)
        assert read.returncode == 0, read.stderr
        match = re.match(r"(?:\w+=\S+ )*flashq (?P<words>[^|;&>]*)", step.command)
        if match is not None:
            written = re.sub(r"\$\w+", "something", match["words"])
            words = subprocess.run(
                ["bash", "-c", f"printf '%s\\0' {written}"], capture_output=True, text=True, check=True
            )
            check_options(words.stdout.split("\0")[:-1])


def check_options(arguments: list[str]) -> None:
    """Fail where click would refuse this command line; nothing is run."""
    command, *rest = arguments
    if command.startswith("-"):
        return
    context = click.Context(flashq, info_name="flashq")
    found = flashq.get_command(context, command)
    assert found is not None, f"there is no command flashq {command}"
    with found.make_context(command, rest, parent=context):
        pass


# -- what is generated, and what leads elsewhere -----------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_tables_say_what_the_code_says(page: Path) -> None:
    text = page.read_text("utf-8")

    assert reference.rewritten(text) == text, "out of date: python -m scripts.reference writes it"


def test_every_table_is_on_a_page() -> None:
    shown = {
        found for page in PAGES for found in re.findall(r"<!-- table: (\S+) -->", page.read_text("utf-8"))
    }

    assert shown == set(reference.TABLES)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for link in links(page):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name(page)}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{name(page)}: {link}"


def links(page: Path) -> list[str]:
    """Where a page's links lead, those in code aside."""
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "code", text))


def anchors(page: Path) -> set[str]:
    """The names that headings get on the web."""
    headings = re.findall(r"^#+ +(.+)$", page.read_text("utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, todo = set(), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        links = re.findall(r"\]\(([^)\s#]+)[^)]*\)", page.read_text("utf-8"))
        todo += [
            target
            for link in links
            if "://" not in link and (target := (page.parent / link).resolve()).is_file()
        ]

    assert {name(page) for page in PAGES} <= {name(page) for page in reached}
