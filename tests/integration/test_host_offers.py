"""What a host has of what endpoints require: system packages (by stand-ins of dpkg and rpm), folders, Pythons."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from typing import TYPE_CHECKING

import pytest

from flashq.errors import ConfigurationError
from flashq.keychain import Keychain
from flashq.settings import SecretKey, Settings
from flashq_worker import by_hand
from flashq_worker.environments.index import Indexes
from flashq_worker.environments.uv import Uv
from flashq_worker.host.offers import HostOffers, by_version, missing
from tests.integration.executor_rig import PYTHON, until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.fleet_rig import FleetRig

REQUIRED = ("package ffmpeg", "package g++", "package removed")
DPKG = """#!/bin/sh
for name in "$@"; do
  case $name in
    --*) ;;
    ffmpeg|g++) echo "installed $name" ;;
    removed) echo "config-files removed" ;;
    *) echo "dpkg-query: no packages found matching $name" >&2; status=1 ;;
  esac
done
exit ${status:-0}
"""
RPM = """#!/bin/sh
for name in "$@"; do
  case $name in
    --*) ;;
    ffmpeg) echo "installed ffmpeg" ;;
    *) echo "package $name is not installed"; status=1 ;;
  esac
done
exit ${status:-0}
"""


def having(folder: Path, **programs: str) -> dict[str, str]:
    """The environment of a host with these programs."""
    bin_ = folder / "bin"
    bin_.mkdir()
    (bin_ / "sh").symlink_to("/bin/sh")
    for name, script in programs.items():
        file = bin_ / name.replace("_", "-")
        file.write_text(script)
        file.chmod(0o755)
    return {"PATH": str(bin_), "HOME": str(folder)}


def test_packages_by_dpkg(tmp_path: Path) -> None:
    """Given dpkg, expect what is installed to be no lack, and what is not, or was removed, to be one by name."""
    host = having(tmp_path, dpkg_query=DPKG, rpm=RPM)
    assert missing(REQUIRED, host) == {"package removed": "not installed"}
    assert missing(["package nope"], host) == {"package nope": "not installed"}


def test_packages_by_rpm(tmp_path: Path) -> None:
    """Given rpm alone, expect its word."""
    host = having(tmp_path, rpm=RPM)
    assert missing(REQUIRED, host) == dict.fromkeys(REQUIRED[1:], "not installed")


def test_a_host_that_cannot_tell_lacks_all(tmp_path: Path) -> None:
    """Given neither, or one that fails, expect all to be missing, with the reason."""
    assert "no dpkg-query and no rpm" in missing(REQUIRED, having(tmp_path))["package ffmpeg"]
    broken = tmp_path / "broken"
    broken.mkdir()
    host = having(broken, dpkg_query="#!/no/such/interpreter\n")
    assert "No such file" in missing(REQUIRED, host)["package ffmpeg"]


@pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="no dpkg on this machine")
def test_dpkg_itself() -> None:
    """Given this machine's own dpkg, expect dpkg to be installed and nonsense not."""
    lacking = missing(["package dpkg", "package no-such-package-0000"], os.environ)
    assert lacking == {"package no-such-package-0000": "not installed"}


def test_nothing_but_names_reaches_the_package_manager(tmp_path: Path) -> None:
    """Given options and globs in place of names, expect them to be refused, and no program to be started."""
    host = having(tmp_path, dpkg_query=f"#!/bin/sh\necho ran >> {tmp_path}/ran\n")
    bad = ["package --help", "package *", "package a b", "package $(id)", "weather fine"]
    assert list(missing(bad, host)) == bad
    assert not (tmp_path / "ran").exists()


def test_folders(tmp_path: Path) -> None:
    """Given a folder, a file and nothing, expect the first to do, and why the others do not."""
    (tmp_path / "file").touch()
    wanted = [f"folder {tmp_path}", f"folder {tmp_path}/file", f"folder {tmp_path}/none"]
    assert missing(wanted, {}) == {wanted[1]: "Not a directory", wanted[2]: "No such file or directory"}


def test_a_share_that_does_not_answer_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a share whose server is gone, expect to be told so after a while, then at once, until it answers."""
    answers = threading.Event()
    real = os.scandir

    def scandir(path: str) -> object:
        answers.wait(30)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    wanted = f"folder {tmp_path}"
    assert missing([wanted], {}) == {wanted: "it does not answer within 2 s"}
    began = time.monotonic()
    assert missing([wanted], {}) != {}
    assert time.monotonic() - began < 1
    answers.set()
    until(lambda: missing([wanted], {}) == {})


def test_what_is_missing_is_remembered_until_it_is_there(tmp_path: Path) -> None:
    """Given a folder that is missing, expect it in the record until somebody makes it."""
    offers = HostOffers(tmp_path, os.environ)
    wanted = f"folder {tmp_path}/volume"
    assert offers.fields()["lacks"] == "{}"
    assert list(offers.lacking([wanted, f"folder {tmp_path}"])) == [wanted]
    assert wanted in str(offers.fields()["lacks"])
    (tmp_path / "volume").mkdir()
    until(lambda: offers.fields()["lacks"] == "{}")


def test_an_engine_that_was_found_for_a_start_is_on_record_at_once(tmp_path: Path) -> None:
    """Given a host that has not looked for an engine yet, if a start needs one and it is there, expect it on record."""
    variables = having(tmp_path, podman="#!/bin/sh\necho 9.9.9\n")
    offers = HostOffers(tmp_path, variables, look_after_s=300)
    assert offers.fields()["engine"] == ""
    assert offers.lacking(["container engine"]) == {}
    assert offers.fields()["engine"] == "podman 9.9.9"


def test_pythons_of_this_host(tmp_path: Path) -> None:
    """Given this machine, expect every version that uv finds, this one among them, in the record."""
    found = Uv(tmp_path, os.environ, Indexes(), lambda line: None).interpreters()
    assert PYTHON in found
    offers = HostOffers(tmp_path, os.environ, look_after_s=0)
    until(lambda: offers.fields()["pythons"] == ",".join(sorted(found, key=by_version)))


def test_versions_are_sorted_as_numbers() -> None:
    assert sorted(["3.9", "3.13", "3.10"], key=by_version) == ["3.9", "3.10", "3.13"]


@pytest.mark.requires("valkey")
def test_a_worker_started_by_hand_where_something_lacks_is_refused_by_name(fleet: FleetRig) -> None:
    """Given an endpoint that requires a folder, expect `flashq worker` to say that it is not here."""
    spec = {"resources": {"cpu": {"instance": "any"}, "volume": f"{fleet.folder}/none"}}
    fleet.broker.execute("HSET", fleet.broker.keys.of("endpoint", "embed"), "spec", json.dumps(spec))
    settings = Settings(home=fleet.folder, secret_key=SecretKey(b"k" * 32))
    with pytest.raises(ConfigurationError, match=f"this host lacks folder {fleet.folder}/none"):
        by_hand.serve(fleet.broker, Keychain.of(settings), settings, "embed")
