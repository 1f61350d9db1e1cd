"""The failure matrix of docs/reliability.md: each fault, what happens, within which bound, and the tests that show it.

Tests are named `folder/file.py::function` below tests/; a unit test sees to it that each one exists. A row
without a test says why in `unmet`. `python -m scripts.reference` writes the table.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.results_table import markdown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

VALUES = "acceptance/test_bad_luck_values.py"
FUNCTIONS = "acceptance/test_bad_luck_functions.py"
FAULTS = "integration/test_faults_broker.py"
FAILOVER = "acceptance/test_failover.py"
BROKER = "acceptance/test_bad_luck_broker.py"
PROCESSES = "integration/test_faults_processes.py"
EXECUTOR = "integration/test_executor_process.py"
WORKER = "integration/test_worker.py"
REFUSALS = "integration/test_worker_refusals.py"
HOST = "integration/test_host_agent.py"
HOST_GONE = "integration/test_host_gone.py"
AUTOSCALER = "integration/test_autoscaler_loop.py"
LEADER = "integration/test_leader.py"
EMBEDDED = "integration/test_embedded_membership.py"
LEASES = "integration/test_faults_leases.py"
CLOCKS = "integration/test_faults_clocks.py"
EXPIRY = "integration/test_mass_expiry.py"
ROLLING = "integration/test_rolling_restart.py"
JOBS = "integration/test_faults_jobs.py"
REPLIES = "integration/test_lost_replies.py"
SUBMITS = "integration/test_faults_submit.py"
SAME = "integration/test_same_call.py"
PRESSURE = "integration/test_backpressure.py"
DEAD = "integration/test_dead_letters.py"
REAP = "conformance/test_reap.py"
RUNNING = "conformance/test_running.py"
STORE = "conformance/test_submit.py"
FENCE = "chaos/test_fence.py"
CANCELS = "integration/test_cancel_race.py"

EXPIRY_RECORD = Path(__file__).resolve().parents[1] / "benchmarks" / "results" / "expiry.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One fault. `unmet`: why the bound is not kept, or not shown; '' where `tests` show it."""

    number: int
    fault: str
    happens: str
    bound: str = ""
    tests: tuple[str, ...] = ()
    unmet: str = ""


ROWS = (
    Row(
        number=1,
        fault="a caller is SIGKILLed anywhere in a submit",
        happens="The submit is one script on the broker: the whole job is there and runs, or nothing is.",
        bound="–",
        tests=(
            f"{SUBMITS}::test_a_caller_killed_at_this_moment_leaves_the_whole_job_or_nothing",
            f"{SUBMITS}::test_a_caller_killed_amid_many_submits_loses_none_that_was_acknowledged",
        ),
    ),
    Row(
        number=2,
        fault="the reply of a script is lost",
        happens="Whoever sent it sends it again: no second job or run, no leaked lease, no line of output twice. "
        "Shown of each script by its name, in a whole deployment.",
        bound="–",
        tests=(
            f"{REPLIES}::test_a_lost_reply_changes_nothing",
            f"{REPLIES}::test_there_is_a_scene_for_every_script",
            f"{RUNNING}::test_output_that_was_sent_again_or_comes_late_is_passed_over",
            "conformance/test_waiting.py::test_a_requeue_that_is_sent_again_begins_nothing_twice",
            f"{BROKER}::test_a_lost_reply_makes_no_second_job",
        ),
    ),
    Row(
        number=3,
        fault="the broker is SIGKILLed (`appendfsync always`) and comes back",
        happens="Nothing acknowledged is lost. Callers, workers, host agents and autoscalers stay up and reconnect.",
        bound="reconnected ≤ 5 s",
        tests=(
            f"{FAULTS}::test_what_was_acknowledged_survives_the_brokers_death",
            f"{FAULTS}::test_every_process_outlives_the_brokers_death_and_is_back_in_five_seconds",
            f"{BROKER}::test_a_broker_killed_and_back_loses_no_waiting_call",
            f"{HOST}::test_broker_outage_is_survived_and_deaths_meanwhile_are_reported",
        ),
    ),
    Row(
        number=4,
        fault="the broker is killed with `appendfsync everysec`",
        happens="A killed process loses nothing that was acknowledged, as the kernel has it: unless an fsync was under "
        "way just then, for which the server puts its next write off. A power cut may lose the last second.",
        bound="kill: 0 lost, amid a slow fsync ≤ 2 s; power cut: ≤ 1 s",
        tests=(f"{FAULTS}::test_what_was_acknowledged_survives_the_brokers_death",),
    ),
    Row(
        number=5,
        fault="the broker comes back empty",
        happens="Workers drop what they hold and end; callers that wait get BrokerStateLost; new calls register their "
        "endpoints anew, hosts announce themselves, workers are started.",
        bound="told ≤ 5 s",
        tests=(
            f"{FAULTS}::test_a_whole_deployment_works_again_after_its_broker_came_back_empty",
            f"{FAULTS}::test_data_that_vanishes_without_a_lost_connection_is_told_too",
            f"{FAULTS}::test_a_call_in_json_is_told_that_the_broker_came_back_empty",
            f"{HOST}::test_broker_that_lost_everything_gets_the_host_again",
        ),
    ),
    Row(
        number=6,
        fault="Sentinel fails over to a replica",
        happens="Callers, workers, host agents and autoscalers follow to the new primary. What it never got is lost: "
        "callers that wait get BrokerStateLost. With `FLASHQ_DURABILITY=fsync+replica` a call is acknowledged once a "
        "replica has it, and survives.",
        bound="followed ≤ 30 s; 0 lost with `fsync+replica`",
        tests=(
            f"{FAILOVER}::test_everybody_follows_a_failover_under_load",
            f"{FAILOVER}::test_what_a_replica_confirmed_survives_and_nothing_else_is_acknowledged",
            f"{FAILOVER}::test_a_failover_that_loses_tells_callers_and_refuses_the_old_primarys_worker",
        ),
    ),
    Row(
        number=7,
        fault="a worker that stayed with the old primary completes its job",
        happens="Refused as stale, though the new primary gave out the same fence: a delivery is known by its "
        "fence and its worker.",
        bound="–",
        tests=(
            f"{FAILOVER}::test_a_failover_that_loses_tells_callers_and_refuses_the_old_primarys_worker",
            f"{RUNNING}::test_the_same_fence_in_another_workers_hand_changes_nothing",
        ),
    ),
    Row(
        number=8,
        fault="the broker's `maxmemory` is reached under `noeviction`",
        happens="Submits are refused with BrokerRefused; workers are started and outcomes stored all the same; "
        "submits are taken again once there is room.",
        bound="0 evictions",
        tests=(
            f"{FAULTS}::test_a_broker_out_of_memory_refuses_calls_and_takes_outcomes",
            f"{BROKER}::test_a_full_broker_is_said_and_nothing_is_lost",
        ),
    ),
    Row(
        number=9,
        fault="a worker is cut off from the broker for longer than its lease",
        happens="Its executor ends itself within the lease, counted from the last renewal that was answered in time; "
        "the job runs again elsewhere.",
        bound="overlap ≤ renew interval + time to kill",
        tests=(
            f"{LEASES}::test_a_worker_that_is_cut_off_ends_its_run_within_the_lease",
            f"{LEASES}::test_an_answer_that_comes_late_renews_nothing",
        ),
    ),
    Row(
        number=10,
        fault="supervisor and executor are stopped for two leases, then continued",
        happens="The late outcome is refused as stale, the executor is killed, the stored value stays.",
        bound="–",
        tests=(
            f"{LEASES}::test_a_worker_stopped_for_two_leases_changes_nothing",
            f"{FENCE}::test_a_stale_outcome_is_refused",
            f"{RUNNING}::test_a_stale_holder_changes_nothing",
        ),
    ),
    Row(
        number=11,
        fault="the supervisor alone is stopped",
        happens="The executor's own watchdog ends it once no lease was renewed for a lease.",
        bound="≤ 1 lease",
        tests=(
            f"{LEASES}::test_a_worker_stopped_for_two_leases_changes_nothing",
            f"{EXECUTOR}::test_a_stopped_supervisor_loses_its_executor_after_a_lease",
        ),
    ),
    Row(
        number=12,
        fault="the executor dies: segfault, `os._exit`, out of memory",
        happens="WorkerCrashed names the signal or exit code; a new executor takes over.",
        bound="new executor ≤ 2 s",
        tests=(
            f"{PROCESSES}::test_executor_that_dies_is_replaced_within_2_s",
            f"{PROCESSES}::test_executor_that_dies_each_time_is_named_to_the_caller",
            f"{PROCESSES}::test_executor_that_the_kernel_kills_for_its_memory",
            f"{EXECUTOR}::test_a_crash_is_described",
            f"{WORKER}::test_a_crash_is_tried_again_within_its_budget_and_then_said",
        ),
    ),
    Row(
        number=13,
        fault="the supervisor or the host agent is SIGKILLed",
        happens="A supervisor's executor dies with it, and its host agent has the job requeued; without one, the lease "
        "ends. A host agent's workers end with it, and say so before they go; the next agent starts its own.",
        bound="executor gone ≤ 1 s; requeued ≤ 2 s",
        tests=(
            f"{PROCESSES}::test_killed_supervisor_takes_its_executor_along_and_its_job_is_queued_again",
            f"{PROCESSES}::test_killed_host_agent_leaves_no_orphan_and_its_jobs_are_queued_again",
            f"{PROCESSES}::test_host_agent_started_again_while_its_workers_live",
            f"{PROCESSES}::test_stopped_supervisor_whose_host_agent_died_keeps_nothing_for_longer_than_a_lease",
            f"{EXECUTOR}::test_a_killed_supervisor_takes_its_executor_along",
            f"{HOST}::test_job_of_a_killed_worker_is_queued_again_within_a_second",
        ),
    ),
    Row(
        number=14,
        fault="a host is gone",
        happens="Its leases end and its jobs run elsewhere, also where the leading autoscaler was on it.",
        bound="rerun ≤ 18 s (lease 15 s)",
        tests=(
            f"{PROCESSES}::test_job_of_a_host_that_is_gone_runs_again_elsewhere_within_18_s",
            f"{HOST_GONE}::test_the_jobs_of_a_host_that_is_gone_run_elsewhere",
        ),
    ),
    Row(
        number=15,
        fault="the autoscaler is killed",
        happens="Jobs go on, and so does recovery; one that stands by leads in its place.",
        bound="≤ 15 s (lease of a leader: 10 s)",
        tests=(
            f"{LEADER}::test_autoscaler_killed_leaves_jobs_alone_and_a_standby_acts_within_15_s",
            f"{LEADER}::test_silent_workers_are_recovered_though_nobody_leads",
            f"{LEADER}::test_leader_that_ends_in_order_is_replaced_at_once",
        ),
    ),
    Row(
        number=16,
        fault="two autoscalers at once; one that was stopped goes on",
        happens="One leads, and never are there more workers than an endpoint's maximum. Nothing of the plan of one "
        "that led earlier is applied: scripts and hosts refuse it.",
        bound="workers ≤ max",
        tests=(
            f"{LEADER}::test_two_autoscalers_at_once_never_have_more_workers_than_max",
            f"{LEADER}::test_leader_stopped_in_the_middle_of_a_tick_applies_nothing_of_its_plan",
            f"{LEADER}::test_plan_of_an_earlier_epoch_is_refused_action_by_action",
            f"{HOST}::test_start_of_a_leader_that_was_replaced_is_refused_and_its_place_freed",
            f"{AUTOSCALER}::test_two_autoscalers_at_once_start_no_more_than_one_would",
            f"{AUTOSCALER}::test_stale_plan_never_exceeds_the_maximum",
        ),
    ),
    Row(
        number=17,
        fault="clocks of hosts are wrong by an hour",
        happens="Nothing: leases, ttls and expiry are reckoned by the broker's clock. The first calls of a program, "
        "before it has heard the broker, are dated by its own, which may be up to 7 days behind.",
        bound="an hour; 7 days behind",
        tests=(
            f"{CLOCKS}::test_clocks_that_are_wrong_by_an_hour_change_nothing",
            f"{CLOCKS}::test_a_clock_that_is_set_while_a_program_runs_changes_nothing",
            f"{REAP}::test_a_clock_set_back_lets_nothing_live_for_hours",
        ),
    ),
    Row(
        number=18,
        fault="a job never returns, or swallows its interruption",
        happens="Interrupted at its timeout, its process killed 10 s later; its lease is renewed meanwhile.",
        bound="timeout + 10 s",
        tests=(
            f"{JOBS}::test_a_job_that_will_not_end_is_killed_after_timeout_and_grace",
            f"{WORKER}::test_a_job_that_swallows_its_interrupt_is_killed_after_the_grace",
            f"{FUNCTIONS}::test_a_function_that_ignores_every_signal_is_stopped",
        ),
    ),
    Row(
        number=19,
        fault="a job holds the interpreter's lock in C",
        happens="The same: supervisor and lease are another process's.",
        bound="timeout + 10 s",
        tests=(
            f"{JOBS}::test_a_job_that_will_not_end_is_killed_after_timeout_and_grace",
            f"{JOBS}::test_a_job_that_holds_the_interpreter_for_leases_is_not_taken_away",
            f"{FUNCTIONS}::test_a_function_that_holds_the_interpreters_lock_is_stopped",
            f"{EXECUTOR}::test_a_job_that_holds_the_interpreter_lock_is_killed",
        ),
    ),
    Row(
        number=20,
        fault="a poison job: it takes its process with it each time",
        happens="Failed for good after `max_deliveries` (3) begun runs; other jobs go on.",
        bound="`max_deliveries` runs",
        tests=(
            f"{JOBS}::test_a_poison_job_ends_and_the_others_flow",
            f"{REAP}::test_a_poison_job_ends",
            f"{FUNCTIONS}::test_a_function_that_takes_its_process_with_it",
        ),
    ),
    Row(
        number=21,
        fault="a payload at the limit, and past it",
        happens="At the limit it passes; past it PayloadTooLarge, for an argument before anything is sent.",
        bound="–",
        tests=(
            f"{VALUES}::test_arguments_up_to_the_limit_pass_and_above_it_are_refused",
            f"{VALUES}::test_results_up_to_the_limit_pass_and_above_it_are_told",
        ),
    ),
    Row(
        number=22,
        fault="an argument, result or exception that cannot be pickled, whose `__reduce__` raises, "
        "or that is very deep",
        happens="An error of its own kind with the traceback as text; the executor lives.",
        bound="–",
        tests=(
            f"{VALUES}::test_an_argument_that_cannot_be_pickled_is_refused_at_once",
            f"{VALUES}::test_a_result_that_cannot_be_pickled_is_its_own_error",
            f"{VALUES}::test_an_exception_that_cannot_be_rebuilt_comes_with_its_words",
            f"{VALUES}::test_what_raises_when_it_is_unpickled_on_the_worker",
            f"{VALUES}::test_a_very_deep_result_is_a_value_or_a_clear_error",
        ),
    ),
    Row(
        number=23,
        fault="caller and worker have other versions of Python or cloudpickle",
        happens="Refused before anything is unpickled (JobRefused; EndpointFailed where workers begin with such code); "
        "no attempt is counted. An older cloudpickle of the same major version is read.",
        bound="–",
        tests=(
            f"{JOBS}::test_a_call_of_another_version_is_refused_unread_and_uncounted",
            f"{JOBS}::test_code_of_another_cloudpickle_is_refused_unread",
            "conformance/test_outcomes.py"
            "::test_a_job_refused_after_it_was_to_begin_at_once_has_no_attempt_either",
        ),
    ),
    Row(
        number=24,
        fault="a result has expired",
        happens="ResultExpired, not a timeout: also to another process, and after all kept of the job is gone, since "
        "its id tells when it was made. A call with its idempotency key is not run again.",
        bound="–",
        tests=(
            f"{FUNCTIONS}::test_an_expired_result_is_an_error_of_its_own",
            f"{SAME}::test_an_expired_result_is_told_from_a_wait_and_from_nothing",
            f"{SAME}::test_a_key_outlives_the_result_and_nothing_runs_again",
            f"{STORE}::test_a_key_outlives_the_result_so_that_nothing_runs_twice",
            "unit/test_job_id.py::test_a_job_older_than_results_are_kept_has_expired",
        ),
    ),
    Row(
        number=25,
        fault="more is submitted than may wait",
        happens="Beyond `max_queued` a call is QueueFull, with the number; a map waits instead. Where the broker is "
        "slow, who submits is held back. Memory stays flat on both sides, and what was accepted is run.",
        bound="`max_queued`; 10,000 calls or 256 MiB of a process on their way",
        tests=(
            f"{STORE}::test_the_bound_counts_everything_that_waits_and_nothing_that_runs",
            f"{PRESSURE}::test_ten_thousand_submits_to_a_bounded_queue_keep_memory_flat_and_lose_nothing",
            f"{PRESSURE}::test_a_slow_broker_blocks_who_submits_and_nothing_is_lost",
            f"{PRESSURE}::test_an_event_loop_is_not_held_up_by_a_slow_broker",
            f"{PRESSURE}::test_a_map_waits_for_room_in_a_full_queue",
            "unit/test_flight.py::test_a_refused_head_is_made_again_once_any_call_has_ended",
        ),
    ),
    Row(
        number=26,
        fault="workers are restarted in turn under load",
        happens="No error, no second run; `make chaos` does it over 10,000 jobs.",
        bound="0 errors, 0 extra runs",
        tests=(
            f"{ROLLING}::test_workers_restarted_in_turn_under_load_fail_and_repeat_nothing",
            f"{ROLLING}::test_hosts_restarted_in_turn_under_load_fail_and_repeat_nothing",
        ),
    ),
    Row(
        number=27,
        fault="SIGTERM to a worker; a second one",
        happens="It finishes what runs within its grace, else gives it back uncounted; the second ends the grace.",
        bound="`--drain` (30 s)",
        tests=(
            f"{WORKER}::test_sigterm_finishes_what_runs_and_leaves",
            f"{ROLLING}::test_what_is_not_finished_within_the_grace_is_given_back_uncounted",
            f"{WORKER}::test_a_second_sigterm_gives_the_running_job_back_uncounted",
        ),
    ),
    Row(
        number=28,
        fault="one idempotency key, 100 callers at once",
        happens="One job; the same key for something else is IdempotencyConflict.",
        bound="1 job",
        tests=(
            f"{SAME}::test_one_hundred_callers_with_one_key_make_one_job",
            f"{STORE}::test_another_target_or_payload_is_a_conflict_where_both_can_be_compared",
        ),
    ),
    Row(
        number=29,
        fault="1,000 retries at once",
        happens="Spread by full jitter over the whole delay, and all of them are run.",
        bound="no tenth of the delay holds more than a quarter of them",
        tests=(
            "unit/test_retry.py::test_a_thousand_retries_at_one_moment_do_not_bunch",
            "integration/test_retries_at_once.py::test_a_thousand_retries_come_back_spread_and_none_is_lost",
        ),
    ),
    Row(
        number=30,
        fault="failed jobs are listed, requeued, purged",
        happens="Nothing is lost on the way.",
        bound="0 lost",
        tests=(
            f"{DEAD}::test_one_or_all_or_those_of_a_reason_are_begun_anew",
            f"{DEAD}::test_requeueing_all_while_they_run_and_fail_again_loses_none",
            f"{DEAD}::test_failed_jobs_are_purged_and_what_waits_stays",
            f"{DEAD}::test_stock_rq_requeues_what_failed",
        ),
    ),
    Row(
        number=31,
        fault="a cancel races a completion",
        happens="Exactly one wins, and both sides agree which: a value that was stored first, else the cancel.",
        bound="–",
        tests=(
            f"{CANCELS}::test_exactly_one_of_a_cancel_and_a_return_wins_and_everybody_agrees_which",
            f"{CANCELS}::test_a_cancel_that_reaches_the_broker_with_the_outcome_is_told_which_came_first",
            f"{CANCELS}::test_a_job_that_is_cancelled_as_its_turn_comes_runs_or_does_not",
            f"{RUNNING}::test_complete_wins_over_a_cancel_that_comes_too_late",
            f"{RUNNING}::test_cancel_wins_over_every_end_without_a_value",
        ),
    ),
    Row(
        number=32,
        fault="the broker's disk is full (MISCONF)",
        happens="Submits are refused with BrokerRefused; it goes on by itself once there is room. With `appendfsync "
        "always` the server ends itself instead, and has everything when it is started again. With `everysec` what it "
        "answered as the disk filled up is in its memory until there is room: killed before that, it loses that, as by "
        "a power cut. Jobs that outlast a lease meanwhile are killed and run again: nothing could be renewed.",
        bound="nothing acknowledged, nothing lost (`everysec`: unless it is killed meanwhile)",
        tests=(
            f"{FAULTS}::test_a_broker_that_cannot_write_acknowledges_nothing_and_recovers",
            f"{FAULTS}::test_a_broker_that_always_syncs_ends_itself_on_a_full_disk_and_loses_nothing",
            f"{EMBEDDED}::test_a_full_disk_refuses_writes_and_the_broker_recovers_by_itself",
            f"{REFUSALS}::test_a_broker_that_refuses_writes_is_left_in_peace",
        ),
    ),
    Row(
        number=33,
        fault="whoever reaps is killed midway",
        happens="There is no lock to be left behind: the next one, a second later, goes on.",
        bound="next tick (1 s)",
        tests=(f"{LEASES}::test_whoever_reaps_may_be_killed_midway", f"{REAP}::test_recovery_is_bounded"),
    ),
    Row(
        number=34,
        fault="100,000 leases end at once",
        happens="They are recovered in steps of 50, one each 20 ms, by whoever finds them: the broker is free for "
        "others most of the time ([measured](#a-hundred-thousand-leases-at-once)).",
        bound="each script < 10 ms",
        tests=(
            f"{EXPIRY}::test_every_script_stays_short_while_very_many_leases_end",
            f"{EXPIRY}::test_one_reaper_does_not_leave_the_rest_for_its_next_look",
        ),
    ),
)


def shown_by(tests: Iterable[str], unmet: str) -> str:
    """The tests as links, and what is not met."""
    links = [f"[{test.rpartition('::')[2]}](../tests/{test.partition('::')[0]})" for test in tests]
    return "<br>".join([*links, *([f"**not met**: {unmet}"] if unmet else [])])


def failure_matrix() -> str:
    """The table of the page."""
    lines = [
        (str(row.number), row.fault, row.happens, row.bound or "–", shown_by(row.tests, row.unmet))
        for row in ROWS
    ]
    return markdown(("#", "fault", "what happens", "bound", "shown by"), lines).replace("---:", "---")


def mass_expiry() -> str:
    """What benchmarks/expiry.py measured, as a table."""
    record = json.loads(EXPIRY_RECORD.read_text("utf-8"))
    lines = [
        (f"`{script}`", f"{ms['runs']:.0f}", *(f"{ms[name]:.1f}" for name in ("median", "p99", "max")))
        for script, ms in record["scripts"].items()
    ]
    about = record["about"]
    where = (
        f"`{about['command']}`, {about['date'][:10]}: {about['leases']:,} leases, {about['jobs_each']} jobs a worker, "
        f"{about['broker']}, {about['machine']}, load average {about['load_average']:.1f}. "
        "In ms of the server's processor time, what its clock and its file did meanwhile included."
    )
    return f"{markdown(('script', 'runs', 'median', '99 %', 'maximum'), lines)}\n{where}\n"


TABLES: dict[str, Callable[[], str]] = {"failure-matrix": failure_matrix, "mass-expiry": mass_expiry}
