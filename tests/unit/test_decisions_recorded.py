"""Decisions on record, and decided again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings

from flashq_autoscaler import record
from flashq_autoscaler.decide import DEFAULTS, decide
from flashq_autoscaler.record import FILE, Recorder, RecordError, read
from flashq_autoscaler.simulate.replay import replay
from flashq_autoscaler.views import Params
from tests.integration.command_line import CommandLine
from tests.unit.scaling_world import endpoint, snapshot, worker
from tests.unit.test_decide_properties import snapshots

if TYPE_CHECKING:
    from flashq_autoscaler.views import Snapshot

WANTS_ONE = snapshot(endpoint(queued=3), [worker("w1", "running")])


def recorded(folder: Path, *seen: Snapshot, params: Params = DEFAULTS) -> Path:
    recorder = Recorder(folder)
    for one in seen:
        recorder.write(one, params, decide(one, params))
    return folder / FILE


@settings(max_examples=60)
@given(snapshots())
def test_what_was_seen_comes_back_whole_and_is_decided_the_same(seen: Snapshot) -> None:
    with TemporaryDirectory() as folder:
        file = recorded(Path(folder), seen, params=Params(alpha=0.5))
        (back,) = read(file)
        assert (back.snapshot, back.params) == (seen, Params(alpha=0.5))
        (again,) = replay(file)
        assert again.differs == ""


def test_a_decision_that_would_be_another_today_is_shown(tmp_path: Path) -> None:
    file = recorded(tmp_path, WANTS_ONE, WANTS_ONE)
    first, second = (json.loads(line) for line in file.read_text().splitlines())
    second["plan"]["starts"] = []
    file.write_text(f"{json.dumps(first)}\n{json.dumps(second)}\n")

    same, other = replay(file)
    assert (same.differs, same.starts) == ("", 2)
    assert other.differs.startswith("starts: was [], is [{'endpoint': 'embed'")

    cli = CommandLine("unix:///nowhere", tmp_path)
    said = cli("simulate", "--replay", str(file), code=4)
    assert "1 of 2 decisions would be others today" in said.stderr
    assert "starts: was []" in said.stdout


def test_the_same_decisions_are_said_to_be_the_same(tmp_path: Path) -> None:
    file = recorded(tmp_path, WANTS_ONE)
    cli = CommandLine("unix:///nowhere", tmp_path)
    assert "1 decision, all the same today" in cli("simulate", "--replay", str(file)).stderr
    (row,) = cli.rows("simulate", "--replay", str(file))
    assert (row["number"], row["starts"], row["differs"]) == (1, 2, "")


def test_the_record_is_private_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "MOST_BYTES", 0)
    recorder = Recorder(tmp_path / "logs", most_bytes=5000)
    for _ in range(40):
        recorder.write(WANTS_ONE, DEFAULTS, decide(WANTS_ONE))
    files = sorted((tmp_path / "logs").iterdir())
    assert [file.name for file in files] == ["decisions.jsonl", "decisions.old.jsonl"]
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in files)
    assert all(file.stat().st_size < 5000 + 3000 for file in files)


def test_what_cannot_be_written_hinders_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "logs").write_text("a file where the folder is to be")
    recorder = Recorder(tmp_path / "logs")
    for _ in range(3):
        recorder.write(WANTS_ONE, DEFAULTS, decide(WANTS_ONE))
    assert caplog.text.count("decisions are not recorded") == 1


def test_a_name_that_is_no_text_hinders_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder(tmp_path)
    seen = snapshot(endpoint(queued=3), [replace(worker("w1", "running"), id="w\udcff")])
    recorder.write(seen, DEFAULTS, decide(seen))
    assert "decisions are not recorded" in caplog.text
    assert [entry.snapshot for entry in read(recorded(tmp_path, WANTS_ONE))] == [WANTS_ONE]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "line 1 is no decision"),
        ("[]", "line 1 is no decision"),
        ('{"v": 99}', "line 1: of version 99, this flashq reads 1"),
        ('{"v": 1, "snapshot": {}}', "line 1 is no decision"),
    ],
)
def test_what_is_no_record_is_refused_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "d.jsonl").write_text(text + "\n")
    with pytest.raises(RecordError) as refused:
        list(replay(tmp_path / "d.jsonl"))
    assert says in str(refused.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"none\.jsonl: No such file"):
        list(replay(tmp_path / "none.jsonl"))
