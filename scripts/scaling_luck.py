"""The table of bad luck in docs/reliability.md: of autoscalers, hosts and workers, and the tests that show it.

Tests are named as in failure_matrix.py; a unit test sees to it that each one exists. `python -m scripts.reference`
writes the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from scripts.failure_matrix import AUTOSCALER, CLOCKS, HOST, LEADER, shown_by
from scripts.results_table import markdown

if TYPE_CHECKING:
    from collections.abc import Callable

SCALING = "integration/test_bad_luck_scaling.py"
LASTING = "unit/test_bad_luck_decide.py"
DRAINS = "unit/test_decide_drains.py"
HOSTS = "engines/test_many_hosts.py"
STARTUP = "integration/test_startup_timeout.py"


@dataclass(frozen=True, slots=True, kw_only=True)
class Luck:
    """One kind of bad luck."""

    luck: str
    happens: str
    tests: tuple[str, ...]
    unmet: str = ""


LUCK = (
    Luck(
        luck="the autoscaler is killed at any step of a rollout; each one dies after one action",
        happens="The next one finishes it: never more than `max` workers, never more than a batch below `min`, "
        "busy ones finish their jobs.",
        tests=(
            f"{SCALING}::test_an_autoscaler_killed_at_any_step_of_a_rollout",
            f"{SCALING}::test_every_autoscaler_of_a_rollout_dies_after_one_action",
        ),
    ),
    Luck(
        luck="two autoscalers at once, taking the lead from each other, one with an old plan",
        happens="Of an earlier leader nothing is carried out; workers stay within `max`.",
        tests=(
            f"{SCALING}::test_two_autoscalers_that_take_the_lead_from_each_other_in_every_step_of_a_rollout",
            f"{LEADER}::test_two_autoscalers_at_once_never_have_more_workers_than_max",
            f"{LEADER}::test_plan_of_an_earlier_epoch_is_refused_action_by_action",
            f"{AUTOSCALER}::test_stale_plan_never_exceeds_the_maximum",
        ),
    ),
    Luck(
        luck="what a host and its workers say comes twice, late, or in another order",
        happens="Nothing of their successors' changes: neither job nor GPU nor place.",
        tests=(
            f"{SCALING}::test_words_of_a_dead_worker_and_its_host_that_come_late_twice_and_in_any_order",
            f"{HOST}::test_replayed_command_is_ignored",
        ),
    ),
    Luck(
        luck="a host of a stale epoch; a command of a leader that was replaced",
        happens="The leader stays who it is; the command is refused, its place given back.",
        tests=(
            f"{SCALING}::test_beats_that_come_twice_and_of_an_earlier_epoch_change_no_plan",
            f"{HOST}::test_start_of_a_leader_that_was_replaced_is_refused_and_its_place_freed",
            f"{HOST}::test_newest_epoch_outlives_the_agent_and_the_brokers_data",
        ),
    ),
    Luck(
        luck="a worker that was given up says that it lives",
        happens="It is told that it is gone, does not count, and its host ends it.",
        tests=(
            f"{SCALING}::test_a_dead_worker_that_says_it_lives_is_told_that_it_does_not",
            f"{HOST}::test_worker_given_up_by_the_broker_is_killed_where_it_stays",
        ),
    ),
    Luck(
        luck="a host that is cut off from the others for longer than a lease, or for less",
        happens="Its jobs run once more elsewhere, with one outcome each, and its GPUs are given again when they were "
        "seen free; for less than a lease: nothing. The same where the broker hears it and it hears nothing: who has "
        "had no answer for a lease claims nothing.",
        tests=(
            f"{HOSTS}::test_jobs_of_a_machine_that_is_cut_off_run_elsewhere_once",
            f"{HOSTS}::test_a_partition_shorter_than_a_lease_replaces_nothing",
            f"{HOSTS}::test_gpus_of_a_machine_that_was_cut_off_are_given_again_when_they_are_seen_free",
        ),
    ),
    Luck(
        luck="10 of 50 hosts die at once, with 1,000 workers at work on all",
        happens="Simulated: 1,000 are on the others a second later, none of those that lived disturbed.",
        tests=(f"{LASTING}::test_a_thousand_workers_of_which_a_fifth_loses_its_hosts",),
    ),
    Luck(
        luck="a host agent killed while its workers run",
        happens="Its workers end with it, and say so; the next agent of the machine has the job run, on the GPU alone.",
        tests=(f"{HOSTS}::test_an_agent_killed_while_its_workers_go_on",),
    ),
    Luck(
        luck="workers that exit at once",
        happens="Started ever more seldom, given up after 7 days: ≤ 0.2 % of that time. Others have their workers.",
        tests=(
            f"{LASTING}::test_workers_that_exit_at_once_cost_little_in_seven_days_and_others_nothing",
            f"{SCALING}::test_workers_that_exit_at_once_take_nothing_from_others",
            f"{AUTOSCALER}::test_second_start_that_would_fail_again_fails_the_waiting_jobs",
        ),
    ),
    Luck(
        luck="workers that hang while they start",
        happens="They count: no further ones beyond `max`. `startup_timeout` ends them, and says where they hung.",
        tests=(
            f"{LASTING}::test_workers_that_hang_while_they_start_are_not_replaced_by_ever_more",
            f"{STARTUP}::test_it_is_given_up_and_its_callers_are_told_where_it_was",
        ),
    ),
    Luck(
        luck="workers that never become idle",
        happens="They are let be.",
        tests=(
            f"{LASTING}::test_workers_that_never_become_idle_are_let_be",
            f"{AUTOSCALER}::test_busy_worker_is_not_drained",
        ),
    ),
    Luck(
        luck="`max` lowered below what runs",
        happens="Those over it finish what they have and end; what waits is left to the rest.",
        tests=(
            f"{SCALING}::test_a_maximum_lowered_below_what_runs_stops_nothing_that_runs",
            f"{DRAINS}::test_above_maximum_busy_ones_take_no_more_where_no_idle_one_is_left",
        ),
    ),
    Luck(
        luck="`min` over what the hosts have",
        happens="As many as fit; the endpoint is throttled with the reason; the rest start once there is room.",
        tests=(f"{SCALING}::test_a_minimum_over_what_the_hosts_have_is_met_as_far_as_they_go_and_said",),
    ),
    Luck(
        luck="`idle_timeout` of 1 s, and a job every 1.1 s",
        happens="A start for each job, one worker at most, no job lost between its end and the next; every 0.9 s: "
        "one start.",
        tests=(f"{LASTING}::test_an_idle_timeout_of_one_second_with_a_job_every_so_often",),
    ),
    Luck(
        luck="clocks off by an hour",
        happens="Nothing: time is the broker's.",
        tests=(f"{CLOCKS}::test_clocks_that_are_wrong_by_an_hour_change_nothing",),
    ),
    Luck(
        luck="10,000 jobs at once",
        happens="One decision: `max` workers.",
        tests=(f"{SCALING}::test_ten_thousand_jobs_at_once_are_one_decision",),
    ),
    Luck(
        luck="an endpoint removed with jobs in flight",
        happens="Refused while jobs wait or run. Where its record is gone all the same, what runs ends well, and idle "
        "workers go.",
        tests=(
            f"{SCALING}::test_an_endpoint_removed_with_jobs_in_flight",
            f"{AUTOSCALER}::test_idle_workers_of_an_undeployed_endpoint_are_drained",
        ),
    ),
)


def scaling_luck() -> str:
    """The table of the page."""
    lines = [(one.luck, one.happens, shown_by(one.tests, one.unmet)) for one in LUCK]
    return markdown(("bad luck", "what becomes of it", "shown by"), lines).replace("---:", "---")


TABLES: dict[str, Callable[[], str]] = {"scaling-luck": scaling_luck}
