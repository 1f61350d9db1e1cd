"""`flashq simulate`, as it is typed; and the record that a running autoscaler leaves for it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from flashq import Endpoint
from flashq.cli import simulate
from tests.acceptance.stage import stage
from tests.integration.command_line import CommandLine

SAMPLE = str(Path(__file__).parents[2] / "examples" / "traces" / "azure_llm_code_10min.csv")


@pytest.fixture
def cli(tmp_path: Path) -> CommandLine:
    return CommandLine("unix:///nowhere", tmp_path)


def test_a_row_for_each_policy_and_a_chart(cli: CommandLine, tmp_path: Path) -> None:
    chart = tmp_path / "workers.svg"
    rows = cli.rows("simulate", SAMPLE, "--cold", "20", "--max", "64", "--plot", str(chart))
    assert [row["policy"] for row in rows][:2] == ["EARLIEST_FINISH", "REQUEST_COUNT"]
    assert len(rows) == len(simulate._POLICIES)
    assert "EARLIEST_FINISH" in chart.read_text()
    assert chart.read_text().lstrip().startswith("<?xml")

    (one,) = cli.rows("simulate", SAMPLE, "--policy", "keda", "--max", "64")
    assert one["policy"] == "KEDA/HPA"


def test_what_cannot_be_simulated_is_refused(
    cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad.csv").write_text("arrival,service\n1,x\n")
    assert "bad.csv, line 2" in cli("simulate", str(tmp_path / "bad.csv"), code=1).stderr
    assert "give a TRACE" in cli("simulate", code=2).stderr
    assert "give a TRACE" in cli("simulate", SAMPLE, "--replay", SAMPLE, code=2).stderr
    assert "--min 3 is above --max 2" in cli("simulate", SAMPLE, "--min", "3", "--max", "2", code=2).stderr
    assert "--cold" in cli("simulate", SAMPLE, "--cold", "-1", code=2).stderr
    nowhere = str(tmp_path / "no" / "where.svg")
    assert "where.svg" in cli("simulate", SAMPLE, "--policy", "KPA", "--plot", nowhere, code=1).stderr
    monkeypatch.setitem(sys.modules, "pygal", None)
    assert "extra `plot`" in cli("simulate", SAMPLE, "--plot", str(tmp_path / "x.svg"), code=1).stderr


@Endpoint(name="on-record", cpu="any", workers=(0, 2), idle_timeout=0.2)
def on_record(number: int) -> int:
    return number


@pytest.mark.requires("valkey")
def test_what_a_running_autoscaler_decided_is_decided_again(tmp_path: Path) -> None:
    with stage() as made:
        made.start_stack()
        assert sorted(on_record.map(range(5), progress=False)) == list(range(5))
        (file,) = made.home.rglob("decisions.jsonl")
        rows = CommandLine(made.server.url, tmp_path).rows("simulate", "--replay", str(file))
    assert sum(row["starts"] for row in rows) >= 1
    assert {row["differs"] for row in rows} == {""}
