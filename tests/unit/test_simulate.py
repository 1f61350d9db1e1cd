"""The simulator: traces, the engine, the rules beside `decide`, and the bounds."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashq.cli.simulate import _POLICIES
from flashq_autoscaler.simulate import bounds, report
from flashq_autoscaler.simulate.engine import Run, run
from flashq_autoscaler.simulate.shipped import Shipped
from flashq_autoscaler.simulate.trace import Trace, TraceError, parse, read

SAMPLE = Path(__file__).parents[2] / "examples" / "traces" / "azure_llm_code_10min.csv"
times = st.floats(0, 200, allow_nan=False)
durations = st.floats(0.01, 30, allow_nan=False)
traces = st.lists(st.tuples(times, durations), min_size=1, max_size=40).map(
    lambda jobs: Trace(*zip(*sorted(jobs), strict=True))
)


def simulated(name: str, trace: Trace, *, cold_s: float = 2.0, idle_s: float = 10.0, most: int = 100) -> Run:
    terms = report.Terms(cold_s=cold_s, idle_timeout_s=idle_s, maximum=most)
    return run(trace, report.POLICIES[name](terms), cold_s=cold_s, maximum=most)


# -- traces ----------------------------------------------------------------------------------------------


def test_a_trace_of_seconds_begins_at_its_first_job() -> None:
    assert parse(["arrival,service\n", "5,1\n", "7.5,2\n"]) == Trace((0.0, 2.5), (1.0, 2.0))


def test_a_trace_of_tokens() -> None:
    trace = read(SAMPLE)
    assert len(trace) == 1482
    assert trace.services[0] == pytest.approx(0.05 + 2e-4 * 4808 + 0.02 * 10)
    assert trace.arrivals[1] == pytest.approx(0.052, abs=1e-3)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([], "line 1: its columns are none"),
        (
            ["at,seconds\n", "1,2\n"],
            "line 1: its columns are at, seconds; give it arrival, service or TIMESTAMP",
        ),
        (["arrival,service\n"], "line 2: it has no jobs"),
        (["arrival,service\n", "1,2\n", "0.5,2\n"], "line 3: it comes before the line above it"),
        (["arrival,service\n", "1,-2\n"], "line 2: service is -2, not a number from 0"),
        (["arrival,service\n", "nan,2\n"], "line 2: arrival is nan"),
        (["arrival,service\n", "1,inf\n"], "line 2: service is inf"),
        (["arrival,service\n", "1\n"], "line 2"),
        (["arrival,service\n", "one,2\n"], "line 2: could not convert"),
        (["TIMESTAMP,ContextTokens,GeneratedTokens\n", "yesterday,1,2\n"], "line 2: Invalid isoformat"),
    ],
)
def test_a_trace_that_is_none_is_refused_with_its_line(lines: list[str], says: str) -> None:
    with pytest.raises(TraceError) as refused:
        parse(lines)
    assert str(refused.value).startswith(says)


def test_a_file_that_is_none_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"nowhere\.csv: No such file"):
        read(tmp_path / "nowhere.csv")
    (tmp_path / "binary.csv").write_bytes(b"arrival,service\n\xff\xfe\n")
    with pytest.raises(TraceError, match=r"binary\.csv is no CSV file in UTF-8"):
        read(tmp_path / "binary.csv")
    (tmp_path / "empty.csv").write_text("arrival,service\n")
    with pytest.raises(TraceError, match=r"empty\.csv, line 2: it has no jobs"):
        read(tmp_path / "empty.csv")


# -- runs ------------------------------------------------------------------------------------------------


def test_one_job_waits_for_a_start_and_its_worker_for_idle_timeout() -> None:
    done = simulated("EARLIEST_FINISH", Trace((0.0,), (3.0,)))
    assert done.waits_s == (2.0,)
    assert done.gpu_s == pytest.approx(2.0 + 3.0 + 10.0)
    assert (done.starts, done.useless, done.peak) == (1, 0, 1)


def test_a_warm_worker_takes_the_next_job_at_once() -> None:
    done = simulated("EARLIEST_FINISH", Trace((0.0, 9.0), (3.0, 1.0)))
    assert done.waits_s == (2.0, 0.0)
    assert done.starts == 1


def test_no_more_than_the_maximum_and_the_rest_wait_in_order() -> None:
    done = simulated("REQUEST_COUNT", Trace((0.0,) * 6, (1.0,) * 6), most=2)
    assert done.peak == 2
    assert done.waits_s == (2.0, 2.0, 3.0, 3.0, 4.0, 4.0)


def test_a_job_that_comes_with_a_tick_keeps_nobody_from_being_asked() -> None:
    every_poll = Trace(tuple(float(at) for at in range(0, 300, 30)), (1.0,) * 10)
    assert max(simulated("KEDA", every_poll).waits_s) <= 30 + 2.0


@settings(max_examples=40)
@given(traces, st.sampled_from(sorted(report.POLICIES)), st.integers(1, 5))
def test_every_job_runs_once_under_every_policy_within_the_maximum(
    trace: Trace, name: str, most: int
) -> None:
    done = simulated(name, trace, most=most)
    assert len(done.waits_s) == len(trace)
    assert min(done.waits_s) >= -1e-9
    assert done.peak <= most
    assert max(workers for _, workers, _ in done.history) <= most
    assert done.gpu_s >= trace.work_s - 1e-6
    assert done.useless <= done.starts


@settings(max_examples=40)
@given(traces, st.floats(0.1, 20), st.floats(0, 60))
def test_the_bounds_are_ordered(trace: Trace, cold_s: float, idle_s: float) -> None:
    opt, _, peak = bounds.opt0(trace, cold_s)
    contract, starts, _ = bounds.contract_opt(trace, cold_s, idle_s)
    assert trace.work_s <= opt <= contract + 1e-6
    assert starts >= 1
    assert peak <= len(trace)


def test_knowing_it_all_keeps_a_worker_through_a_gap_that_is_shorter_than_a_start() -> None:
    assert bounds.opt0(Trace((0.0, 2.0, 10.0), (1.0, 1.0, 1.0)), 4.0) == (3.0 + 4.0 + 1.0 + 4.0, 2, 1)
    assert bounds.contract_opt(Trace((0.0, 2.0, 10.0), (1.0, 1.0, 1.0)), 4.0, 3.0) == (
        3.0 + 7.0 + 1.0 + 7.0,
        2,
        1,
    )


@settings(max_examples=40)
@given(traces, st.floats(0.05, 20))
def test_no_busy_worker_is_ever_stopped(trace: Trace, cold_s: float) -> None:
    for scaler_type in (None, "REQUEST_COUNT", "QUEUE_DELAY"):
        policy = Shipped("shipped", cold_s, 5.0, scaler_type=scaler_type)
        run(trace, policy, cold_s=cold_s, maximum=3)
        assert policy.busy_stopped == 0


@settings(max_examples=20)
@given(traces, st.sampled_from(sorted(report.POLICIES)))
def test_the_same_trace_gives_the_same_run(trace: Trace, name: str) -> None:
    assert simulated(name, trace) == simulated(name, trace)


@settings(max_examples=40)
@given(traces, st.floats(0.05, 5))
def test_below_the_maximum_nobody_waits_longer_than_a_start_and_the_look_that_finds_it(
    trace: Trace, cold_s: float
) -> None:
    """DECISIONS.md's floor: a job that has waited as long as a start takes gets a worker."""
    waits = simulated("EARLIEST_FINISH", trace, cold_s=cold_s, most=1000).waits_s
    assert max(waits) <= 2 * cold_s + 1e-6


def test_of_the_shipped_rules_and_the_plain_ones_the_numbers_are_alike() -> None:
    trace = read(SAMPLE)
    plain, shipped = (simulated(name, trace, most=64) for name in ("REQUEST_COUNT", "SHIPPED_REQUEST_COUNT"))
    assert shipped.gpu_s == pytest.approx(plain.gpu_s, rel=0.05)


def test_on_a_real_trace_the_default_costs_less_than_the_others() -> None:
    """SCALING.md's goals, on the trace's first ten minutes; docs/scaling.md has the hour."""
    trace = read(SAMPLE)
    terms = report.Terms(cold_s=20.0, idle_timeout_s=60.0, maximum=64)
    rows, _ = report.rows(trace, ("EARLIEST_FINISH", "REQUEST_COUNT", "KEDA", "KPA"), terms)
    ours, *others = (row.gpu_s for row in rows)
    assert [ours <= share * other for share, other in zip((0.85, 0.8, 0.8), others, strict=True)] == [
        True
    ] * 3
    assert rows[0].useless_starts <= 0.02 * rows[0].starts

    terms = report.Terms(cold_s=0.1, idle_timeout_s=5.0, maximum=64)
    (ours_row, bound), _ = report.rows(trace, ("EARLIEST_FINISH", "CONTRACT_OPT"), terms)
    assert ours_row.gpu_s <= 1.05 * bound.gpu_s
    assert ours_row.p99_wait_s <= 0.1 + 0.02


# -- reports ---------------------------------------------------------------------------------------------


def test_the_command_line_names_every_policy() -> None:
    assert report.ALL == _POLICIES


def test_quantiles() -> None:
    assert [report.quantile(range(1, 101), q) for q in (0.5, 0.99, 1.0)] == [50, 99, 100]
    assert report.quantile([7.0], 0.01) == 7.0


def test_of_a_trace_without_work_no_share_is_said() -> None:
    terms = report.Terms(cold_s=1.0, idle_timeout_s=1.0, maximum=1)
    rows, _ = report.rows(Trace((0.0,), (0.0,)), report.ALL, terms)
    assert {row.gpu_per_work for row in rows} == {None}
