"""What `runpod_flash` offers is offered here: its names and parameters, beside a list read from the package itself."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flashq import local_modules
from flashq.compat import finder, install, resources
from flashq.errors import ConfigurationError, NotSupportedError
from flashq.model.bundle import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator
    from enum import Enum
    from types import ModuleType

THEIRS: dict[str, Any] = json.loads(
    (Path(__file__).parent / "golden" / "flash_names.json").read_text("utf-8")
)
STAND_IN = sorted(
    ".".join(file.relative_to(finder.STAND_IN).with_suffix("").parts).removesuffix(".__init__")
    for file in finder.STAND_IN.rglob("*.py")
)


@pytest.fixture
def flash() -> Iterator[ModuleType]:
    install()
    yield importlib.import_module("runpod_flash")
    finder.uninstall()


def test_every_public_name_is_there(flash: ModuleType) -> None:
    # Given the names that the package exports, expect each, and nothing further
    assert sorted(flash.__all__) == sorted(THEIRS["names"])
    assert all(hasattr(flash, name) for name in THEIRS["names"])


@pytest.mark.parametrize("function", ["Endpoint", "remote"])
def test_parameters_have_flashs_names_in_flashs_order(flash: ModuleType, function: str) -> None:
    assert list(inspect.signature(getattr(flash, function)).parameters) == THEIRS[function]


@pytest.mark.parametrize("name", sorted(THEIRS["enums"]))
def test_every_member_of_every_enum_is_there(flash: ModuleType, name: str) -> None:
    ours: type[Enum] = getattr(flash, name)

    assert {member.name: member.value for member in ours} == THEIRS["enums"][name]


def test_resource_classes_know_every_field(flash: ModuleType) -> None:
    # Given the fields of the older resource classes, expect each to be taken or refused by its name
    known = {*resources.PARAMETERS, *resources.ELSEWHERE, *resources.REFUSED}
    assert sorted(known) == THEIRS["resource_fields"]
    assert sorted(field.name for field in fields(flash.PodTemplate)) == THEIRS["PodTemplate"]
    assert sorted(inspect.signature(flash.NetworkVolume).parameters) == THEIRS["NetworkVolume"]
    assert sorted(each.value for each in flash.CPU_DATACENTERS) == THEIRS["CPU_DATACENTERS"]


def test_endpoints_and_jobs_have_flashs_methods(flash: ModuleType) -> None:
    endpoint = flash.Endpoint(name="flash-methods")
    assert all(hasattr(endpoint, name) for name in THEIRS["methods"]["Endpoint"])
    assert all(hasattr(flash.EndpointJob, name) for name in THEIRS["methods"]["EndpointJob"])


@pytest.mark.parametrize("module", STAND_IN)
def test_every_module_gives_what_it_lists(flash: ModuleType, module: str) -> None:
    # Given the modules that programs import names from, expect the same objects everywhere
    found = importlib.import_module(module)

    for name in getattr(found, "__all__", ()):
        assert getattr(found, name) is getattr(importlib.import_module("flashq.compat.names"), name)


def test_a_module_that_is_not_there_is_named(flash: ModuleType) -> None:
    with pytest.raises(ModuleNotFoundError, match=r"runpod_flash\.cli is not among the modules"):
        importlib.import_module("runpod_flash.cli")


def test_what_was_imported_before_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a program that has Flash itself already
    class Other:
        __file__ = "/somewhere/runpod_flash/__init__.py"

    monkeypatch.setitem(sys.modules, "runpod_flash", Other())

    # If ours is to take its place, expect a refusal that says where that came from
    with pytest.raises(ConfigurationError, match="/somewhere/runpod_flash"):
        install()


@pytest.mark.parametrize("name", ["ResourceManager", "FlashApp"])
def test_what_only_a_cloud_has_is_refused_when_it_is_made(flash: ModuleType, name: str) -> None:
    with pytest.raises(NotSupportedError, match=name):
        getattr(flash, name)("x")


def test_the_finder_is_put_in_once_and_taken_out() -> None:
    install()
    install()
    assert sum(isinstance(each, finder.Finder) for each in sys.meta_path) == 1
    finder.uninstall()
    assert not any(isinstance(each, finder.Finder) for each in sys.meta_path)


def test_the_stand_in_travels_wherever_flashq_is_installed(
    flash: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given flashq in site-packages, whose modules workers have
    monkeypatch.setattr(local_modules, "_is_installed", lambda file: True)

    # Expect what stands in for a package that they have not to be shipped
    assert local_modules.find("runpod_flash.core").kind is Kind.SOURCE
    assert local_modules.find("pytest").kind is Kind.INSTALLED
