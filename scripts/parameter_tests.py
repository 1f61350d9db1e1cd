"""Every parameter of `Endpoint(...)` and `with_options(...)`, and the tests that show what it does; for docs/reference.

Tests are named as in failure_matrix.py; a unit test sees to it that each exists, that no parameter is left out, and
that one without a test of its effect is refused by name. `python -m scripts.reference` writes the table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flashq.model.spec import CallOptions, EndpointSpec
from scripts.reference_tables import code, complete, parameter_refusals
from scripts.results_table import markdown

if TYPE_CHECKING:
    from collections.abc import Callable

SPEC = "unit/test_spec.py"
PARAMETERS = "acceptance/test_sdk_parameters.py"
NAMING = "acceptance/test_sdk_naming.py"
OPTIONS = "acceptance/test_sdk_options.py"
ENVIRONMENT = "acceptance/test_sdk_environment.py"
PLACEMENT = "unit/test_decide_placement.py"
DEMAND = "unit/test_decide_demand.py"
SCALING = "integration/test_scaling.py"
LOOP = "integration/test_autoscaler_loop.py"
CLIENT_MODE = "integration/test_client_mode.py"
DELIVERY = "integration/test_delivery.py"
OFFERS = "integration/test_host_offers.py"
RUNTIME = "integration/test_runtime.py"
CONTAINERS = "integration/test_containers.py"
REFUSED = f"{SPEC}::test_what_cannot_be_honoured_yet_is_refused_by_name_with_the_reason"

ENDPOINT: dict[str, tuple[str, ...]] = {
    "name": (
        f"{NAMING}::test_a_new_name_is_a_new_endpoint",
        f"{SPEC}::test_a_name_is_taken_from_the_function_where_none_was_given",
    ),
    "id": (f"{CLIENT_MODE}::test_calls_by_name_reach_the_function_from_a_program_that_has_none_of_its_code",),
    "gpu": (
        f"{PLACEMENT}::test_which_gpus_a_worker_gets",
        f"{LOOP}::test_gpus_are_given_to_one_worker_each_and_foreign_ones_to_none",
    ),
    "cpu": (
        f"{PLACEMENT}::test_a_lost_worker_frees_cores_and_slots",
        f"{RUNTIME}::test_thread_pools_are_as_large_as_the_workers_cores",
    ),
    "workers": (
        f"{SCALING}::test_jobs_that_come_while_workers_are_busy_take_them_up_to_max",
        f"{SCALING}::test_minimum_of_one_keeps_one_ready_and_its_first_request_is_warm",
    ),
    "idle_timeout": (f"{SCALING}::test_done_workers_stay_for_idle_timeout_and_then_go_to_min",),
    "dependencies": (
        "integration/test_environment.py::test_an_environment_is_built_once",
        f"{ENVIRONMENT}::test_a_dependency_is_installed_once_and_only_for_its_endpoint",
        f"{ENVIRONMENT}::test_requirements_that_contradict_fail_the_call_with_the_installers_words",
    ),
    "system_dependencies": (
        f"{ENVIRONMENT}::test_a_volume_that_no_host_has_throttles_until_it_is_there",
        f"{OFFERS}::test_packages_by_dpkg",
        f"{OFFERS}::test_packages_by_rpm",
    ),
    "accelerate_downloads": (REFUSED,),
    "volume": (
        f"{ENVIRONMENT}::test_a_volume_that_no_host_has_throttles_until_it_is_there",
        f"{OFFERS}::test_a_share_that_does_not_answer_holds_nobody_up",
    ),
    "datacenter": (f"{PLACEMENT}::test_workers_go_where_the_labels_are",),
    "env": (
        f"{ENVIRONMENT}::test_env_arrives",
        f"{ENVIRONMENT}::test_env_is_sealed_in_the_broker",
        f"{ENVIRONMENT}::test_listings_mask_env",
        f"{SPEC}::test_all_else_changes_no_digest",
    ),
    "gpu_count": (f"{PLACEMENT}::test_which_gpus_a_worker_gets",),
    "execution_timeout_ms": (
        f"{OPTIONS}::test_a_timeout_counts_execution_not_the_queue",
        f"{OPTIONS}::test_a_timeout_ends_even_what_will_not_be_told",
    ),
    "flashboot": (REFUSED,),
    "image": (
        f"{CONTAINERS}::test_functions_run_in_the_image_and_see_nothing_of_flashqs",
        "unit/test_containers.py::test_an_image_is_a_resource_and_needs_an_engine",
    ),
    "scaler_type": (f"{DEMAND}::test_queue_delay", f"{DEMAND}::test_request_count"),
    "scaler_value": (f"{DEMAND}::test_queue_delay", f"{DEMAND}::test_request_count"),
    "template": (REFUSED,),
    "min_cuda_version": (f"{PLACEMENT}::test_cuda_of_the_host_is_at_least_what_is_wanted",),
    "python_version": (
        f"{ENVIRONMENT}::test_this_python_is_the_default",
        f"{ENVIRONMENT}::test_another_python_is_refused_naming_both",
        f"{PLACEMENT}::test_without_a_place_the_endpoint_is_throttled",
    ),
    "max_concurrency": (f"{ENVIRONMENT}::test_coroutines_run_at_the_same_time_up_to_their_number",),
    "retries": (f"{DELIVERY}::test_what_is_retried_and_how_often",),
    "priority": (f"{OPTIONS}::test_the_more_urgent_goes_first",),
    "result_ttl": ("acceptance/test_bad_luck_functions.py::test_an_expired_result_is_an_error_of_its_own",),
    "ttl": (f"{OPTIONS}::test_a_job_that_waits_past_its_ttl_expires_unrun",),
    "delivery": (f"{DELIVERY}::test_what_may_begin_only_once_is_not_run_again_after_a_crash",),
    "max_deliveries": (f"{DELIVERY}::test_losses_have_a_budget_of_their_own",),
    "max_queued": (
        "integration/test_backpressure.py::test_a_call_beyond_the_bound_is_refused_by_type_with_the_number",
    ),
    "buffer": (
        f"{SCALING}::test_a_buffer_is_ready_beside_the_busy_ones_and_goes_when_there_is_nothing_to_do",
        "unit/test_decide_buffer.py::test_spares_are_started_beside_what_the_rule_wants",
    ),
    "startup_timeout": (
        "integration/test_startup_timeout.py::test_it_is_given_up_and_its_callers_are_told_where_it_was",
    ),
    "recycle_jobs": ("integration/test_recycling.py::test_after_so_many_jobs_a_fresh_process_runs_the_next",),
    "recycle_gib": (
        "integration/test_recycling.py::test_above_so_much_memory_a_fresh_process_runs_the_next",
    ),
    "batch": (
        "acceptance/test_batches.py::test_calls_are_gathered_up_to_the_size",
        "acceptance/test_batches.py::test_a_bad_item_fails_alone",
    ),
    "hosts": (f"{PLACEMENT}::test_workers_go_where_the_labels_are",),
}
"""What an endpoint may say."""

CALL: dict[str, tuple[str, ...]] = {
    "key": (
        f"{OPTIONS}::test_one_key_is_one_job",
        f"{OPTIONS}::test_one_hundred_threads_with_one_key_make_one_job",
    ),
    "priority": (f"{OPTIONS}::test_the_more_urgent_goes_first",),
    "delay_s": (f"{OPTIONS}::test_a_delayed_job_runs_no_sooner",),
    "ttl_s": (f"{OPTIONS}::test_a_ttl_counts_from_the_end_of_the_delay",),
    "timeout_s": (f"{OPTIONS}::test_the_calls_timeout_comes_before_the_endpoints",),
    "retries": (f"{SPEC}::test_terms_are_the_endpoints_unless_the_call_says_otherwise",),
    "delivery": (f"{DELIVERY}::test_the_call_may_ask_for_it",),
}
"""What a call may say."""


def parameter_tests() -> str:
    """The table of the page."""
    refused = parameter_refusals()
    told = complete(ENDPOINT, EndpointSpec.model_fields, "tests of parameters")
    lines = [(code(name), _kept(name, refused), _links(tests)) for name, tests in told.items()]
    told = complete(CALL, CallOptions.model_fields, "tests of call options")
    lines += [(code(f"with_options({name})"), "honoured", _links(tests)) for name, tests in told.items()]
    return markdown(("parameter", "what becomes of it", "shown by"), lines).replace("---:", "---")


def _kept(name: str, refused: dict[str, str]) -> str:
    if name in refused:
        return "refused by name"
    return (
        "its default is honoured, the other value refused by name"
        if f"{name}=False" in refused
        else "honoured"
    )


def _links(tests: tuple[str, ...]) -> str:
    return "<br>".join(
        f"[{test.rpartition('::')[2]}](../../tests/{test.partition('::')[0]})" for test in tests
    )


TABLES: dict[str, Callable[[], str]] = {"parameter-tests": parameter_tests}
