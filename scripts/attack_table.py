"""The attacks of docs/security.md: each one, what becomes of it, and the tests that try it.

Tests are named as in failure_matrix.py; a unit test sees to it that each one exists. A row without a test says in
`unmet` why nothing can be tried, or what is not kept. `python -m scripts.reference` writes the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from scripts.failure_matrix import shown_by
from scripts.results_table import markdown

if TYPE_CHECKING:
    from collections.abc import Callable

SIGNING = "acceptance/test_bad_luck_signing.py"
WIRE = "integration/test_wire_attacks.py"
ENVELOPE = "unit/test_envelope.py"
CONTAINERS = "integration/test_containers.py"
ISOLATION = "integration/test_isolation.py"
EXECUTOR = "integration/test_hostile_executor.py"
ACL = "integration/test_acl.py"
TLS = "integration/test_tls.py"
ROTATION = "acceptance/test_key_rotation.py"
FORGED = "conformance/test_forged_hashes.py"
STRANGERS = "conformance/test_strangers.py"
JUNK = "integration/test_junk_listings.py"
STOCK = "integration/test_stock_rq.py"
VALUES = "acceptance/test_bad_luck_values.py"
ENVIRONMENT = "acceptance/test_sdk_environment.py"
HTTP = "integration/test_gateway_access.py"
ROUTES = "integration/test_gateway_http.py"
STREAMS = "unit/test_gateway_streams.py"
INPUT = "unit/test_gateway_input.py"
FUZZ = "acceptance/test_gateway_fuzz.py"
ARTIFACTS = "unit/test_artifacts.py"
DEPLOY = "integration/test_deploy.py"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """One attack. `unmet`: why it is not refused, or cannot be tried; '' where `tests` show that it is."""

    attack: str
    becomes: str = ""
    tests: tuple[str, ...] = ()
    unmet: str = ""


ATTACKS = (
    Attack(
        attack="a call or an outcome without signature, with another, an empty or a truncated one, one byte "
        "changed; "
        "`alg=none`",
        becomes="The job fails as refused, the caller gets JobRefused or EnvelopeError; nothing of it is "
        "unpickled.",
        tests=(
            f"{SIGNING}::test_a_forged_call_is_refused_and_its_payload_never_unpickled",
            f"{SIGNING}::test_a_waiting_callers_tampered_call_is_told",
            f"{WIRE}::test_what_was_altered_is_refused",
            f"{ENVELOPE}::test_no_flipped_byte_survives",
        ),
    ),
    Attack(
        attack="a key that is not known, or was retired",
        becomes="JobRefused, naming the key's id.",
        tests=(
            f"{SIGNING}::test_a_different_key_is_told_to_the_caller",
            f"{ROTATION}::test_keys_are_rotated_under_load_and_nothing_is_refused",
            f"{ROTATION}::test_what_a_stolen_key_signed_does_not_go_under_the_new_one",
        ),
    ),
    Attack(
        attack="a signed call under another job's id, endpoint, revision or generation; an expired one",
        becomes="Refused: each is bound in the signature.",
        tests=(
            f"{WIRE}::test_what_was_signed_for_something_else_is_refused",
            f"{WIRE}::test_a_call_under_another_jobs_id_is_refused",
            f"{SIGNING}::test_a_real_call_on_another_endpoint_is_refused",
            f"{ENVELOPE}::test_an_expired_record_is_refused",
        ),
    ),
    Attack(
        attack="another code or environment in the place of an endpoint's",
        becomes="The worker refuses to load it and says why; nothing of it is unpickled. An older signed "
        "revision of the "
        "same endpoint is accepted.",
        tests=(
            f"{SIGNING}::test_tampered_code_is_refused_and_never_unpickled",
            f"{SIGNING}::test_code_of_another_endpoint_is_refused",
            f"{WIRE}::test_a_forged_revision_is_not_loaded",
            "unit/test_sealed_env.py::test_what_was_altered_is_refused",
        ),
    ),
    Attack(
        attack="a call used as an outcome and the reverse; the outcome of another job or of an earlier call; a "
        "forged push",
        becomes="Not believed: the caller gets an error, never the value.",
        tests=(
            f"{SIGNING}::test_a_forged_outcome_is_not_believed",
            f"{WIRE}::test_an_outcome_of_another_job_is_not_believed",
            f"{SIGNING}::test_a_forged_push_is_not_believed",
        ),
    ),
    Attack(
        attack="a call replayed: while its job is kept, after it was deleted, through a worker's bell",
        becomes="Not run again. Who may write any key can make the broker forget that it ran; then only the "
        "workers that "
        "completed it refuse it.",
        tests=(
            f"{SIGNING}::test_a_call_replayed_after_its_end_is_not_run_again",
            f"{WIRE}::test_a_completed_call_submitted_again_after_its_job_was_deleted_makes_no_job",
            f"{WIRE}::test_a_call_put_back_after_its_job_was_deleted_is_refused_by_another_worker_too",
            f"{WIRE}::test_a_worker_refuses_what_it_completed_though_the_broker_was_made_to_forget",
            f"{WIRE}::test_forged_rings_are_passed_over",
        ),
    ),
    Attack(
        attack="a forged id in a queue, a hash of another type, junk in any field of a record",
        becomes="Set aside or passed over; other jobs go on, the autoscaler plans for the other endpoints, "
        "listings list.",
        tests=(
            f"{FORGED}::test_what_makes_no_sense_stops_nothing",
            f"{FORGED}::test_an_id_that_is_none_is_set_aside",
            f"{WIRE}::test_a_hash_of_the_wrong_type_and_an_id_of_nothing_are_passed_over",
            f"{STRANGERS}::test_a_job_key_of_another_type_is_parked",
            f"{JUNK}::test_junk_in_a_record_stops_no_listing",
            "unit/test_autoscaler_rows.py::test_unreadable_record_is_an_error_never_a_zero",
            "integration/test_autoscaler_loop.py::test_unreadable_record_stops_no_other_endpoint",
            "integration/test_autoscaler_loop.py::test_a_record_spoilt_after_it_was_read_stops_no_other_endpoint",
            "integration/test_autoscaler_loop.py::test_keys_of_the_wrong_type_are_passed_over",
            "unit/test_autoscaler_junk.py::test_what_is_written_is_refused_or_a_plan_can_be_made_of_it",
        ),
    ),
    Attack(
        attack="an evil pickle in `meta`, `data`, a result, then flashq's command line",
        becomes="flashq's tools unpickle nothing that lies there.",
        tests=(f"{STOCK}::test_an_evil_pickle_is_never_loaded_by_our_tools",),
        unmet="stock `Job.fetch`, `rq info` and rq-dashboard with RQ's default serializer do unpickle it",
    ),
    Attack(
        attack="an exception of an evil class, from a worker",
        becomes="An exception that cannot be rebuilt, or raises when it is, comes as RemoteError with its text; "
        "one of a "
        "worker whose signature is right is unpickled by its caller, and may run code there.",
        tests=(
            f"{VALUES}::test_an_exception_that_cannot_be_rebuilt_comes_with_its_words",
            f"{VALUES}::test_what_raises_when_it_is_unpickled_here",
        ),
    ),
    Attack(
        attack="an executor that lies to its supervisor: frames of any shape, outcomes of other jobs",
        becomes="It costs that executor its life, and no other job anything; nothing is signed for a job that "
        "it was not given.",
        tests=(
            f"{EXECUTOR}::test_a_lie_costs_the_executor_and_nobody_else",
            f"{EXECUTOR}::test_a_forged_outcome_is_not_signed_for_a_job_of_another_worker",
            f"{EXECUTOR}::test_its_supervisor_stays_small",
            "unit/test_hostile_frames.py::test_an_outcome_is_refused_or_can_be_stored_and_signed",
        ),
    ),
    Attack(
        attack="a job that has its host sign calls of other endpoints; a worker that asks for them in another's name",
        becomes="Only what the signed revision of the calling job names is signed, for that endpoint's workers alone.",
        tests=(
            "integration/test_nested_slot.py::test_a_worker_gets_signed_what_the_revision_of_its_job_permits_and_no_more",
            "integration/test_nested_slot.py::test_a_worker_that_makes_no_sense_hurts_no_other",
        ),
    ),
    Attack(
        attack="terminal escapes in names, descriptions, errors and output",
        becomes="Shown as their codes.",
        tests=(
            "unit/test_visible.py::test_nothing_that_steers_a_terminal_is_sent_to_it",
            "unit/test_visible.py::test_a_name_neither_steers_a_log_nor_forges_a_line_of_it",
            f"{JUNK}::test_junk_in_a_record_stops_no_listing",
        ),
    ),
    Attack(
        attack="HTML in names, descriptions, errors and output",
        becomes="The dashboard shows it as text; its policy allows no script but its own, nor HTML made of strings.",
        tests=(
            "integration/test_dashboard_at_scale.py::test_the_files_have_no_way_for_data_to_become_code",
            "integration/test_dashboard_at_scale.py::test_the_policy_is_strict_on_all_of_it",
            "engines/test_dashboard_browser.py::test_a_hundred_endpoints_a_thousand_jobs_and_hostile_names",
        ),
    ),
    Attack(
        attack="hostile msgpack: extension types, huge lengths, depth, a key twice",
        becomes="MalformedEnvelope, within the limits of size and depth.",
        tests=(
            f"{SIGNING}::test_a_forged_call_is_refused_and_its_payload_never_unpickled",
            f"{ENVELOPE}::test_anything_wrong_is_refused",
            f"{ENVELOPE}::test_duplicate_header_keys_are_refused",
            f"{ENVELOPE}::test_no_bytes_crash_the_reader",
            "unit/test_host_command.py::test_garbage_is_malformed",
        ),
    ),
    Attack(
        attack="a payload of any size",
        becomes="Refused unread above the limit (64 MiB by default). Nothing is compressed, so nothing inflates.",
        tests=(
            f"{ENVELOPE}::test_a_record_over_the_limit_is_refused_unread",
            f"{VALUES}::test_arguments_up_to_the_limit_pass_and_above_it_are_refused",
            f"{EXECUTOR}::test_a_result_over_the_limit_does_not_reach_the_supervisor",
        ),
    ),
    Attack(
        attack="NaN, infinity, NUL, newlines, invalid UTF-8, `../x`, `a:b`, `*`, 10 kB as names, numbers, "
        "prefixes",
        becomes="Refused by name where a user gives them; passed over where they stand in the broker.",
        tests=(
            "acceptance/test_sdk_parameters.py::test_a_wrong_parameter_is_refused_by_name",
            "unit/test_settings.py::test_a_key_prefix_that_would_mean_something_elsewhere_is_refused",
            "unit/test_cli_help.py::test_logs_takes_only_what_may_be_an_id",
            f"{FORGED}::test_what_makes_no_sense_stops_nothing",
            "unit/test_autoscaler_rows.py::test_a_worker_whose_numbers_are_none_is_an_error",
        ),
    ),
    Attack(
        attack="options, URLs, paths, commands as `dependencies`",
        becomes="Refused when the endpoint is made, and again on the host; uv gets requirements alone, after "
        "`--`.",
        tests=(
            "integration/test_environment.py::test_anything_but_a_requirement_is_refused",
            "unit/test_spec.py::test_a_wrong_value_is_refused_with_the_parameters_name_and_what_is_allowed",
            "integration/test_environment.py::test_the_installer_sees_no_key",
        ),
    ),
    Attack(
        attack="commands and options as `system_dependencies`",
        becomes="Refused when the endpoint is made, and again on the host, which asks dpkg or rpm for names alone; "
        "flashq installs none.",
        tests=(
            "integration/test_host_offers.py::test_nothing_but_names_reaches_the_package_manager",
            "unit/test_spec.py::test_a_wrong_value_is_refused_with_the_parameters_name_and_what_is_allowed",
        ),
    ),
    Attack(
        attack="a forged, repeated, expired or outdated command to a host",
        becomes="Not obeyed: signed for one host, for 60 s, once, by the newest leader that the host knows of.",
        tests=(
            "unit/test_host_command.py::test_reader_refuses_what_is_not_for_it",
            "unit/test_host_command.py::test_reader_gives_each_command_once",
            "unit/test_host_command.py::test_command_of_an_epoch_before_the_newest_is_stale",
            "unit/test_host_command.py::test_epoch_cannot_be_changed_after_signing",
        ),
    ),
    Attack(
        attack="user code that reads its supervisor's environment, memory or descriptors",
        becomes="Denied by the kernel; its own environment names neither key nor broker.",
        tests=(
            f"{ISOLATION}::test_user_code_cannot_look_into_its_supervisor",
            f"{ISOLATION}::test_processes_that_hold_the_key_show_it_to_nobody",
            f"{ENVIRONMENT}::test_the_executor_sees_nothing_of_flashqs_settings",
        ),
        unmet="executors of one user read each other, and files of that user (the key file too): run host "
        "agents as a user "
        "of their own",
    ),
    Attack(
        attack="user code in a container that looks for keys, the broker, its host's files and processes",
        becomes="It sees what is mounted: flashq's code, the endpoint's packages, volume and model caches; and its own "
        "processes.",
        tests=(
            f"{CONTAINERS}::test_functions_run_in_the_image_and_see_nothing_of_flashqs",
            "engines/test_containers.py::test_a_function_runs_in_its_image_with_packages_and_volume",
            f"{CONTAINERS}::test_a_lying_image_costs_its_start_alone",
        ),
        unmet="where the engine runs as root, so does what leaves its container through a hole in the kernel; model "
        "caches are shared with other endpoints",
    ),
    Attack(
        attack="a fork bomb, a memory hog, a full disk",
        becomes="It ends with its job, and the worker goes on.",
        tests=(
            f"{ISOLATION}::test_a_fork_bomb_ends_with_its_job",
            f"{ISOLATION}::test_a_memory_hog_costs_its_job",
            f"{ISOLATION}::test_where_memory_runs_out_user_code_dies_first",
            f"{ISOLATION}::test_a_full_disk_costs_the_log",
        ),
        unmet="there are no limits of their number, memory or disk beside the system's own; children that go "
        "into a session "
        "of their own outlive their job",
    ),
    Attack(
        attack="every role trying FLUSHALL, CONFIG, KEYS, EVAL, another role's scripts, another endpoint's keys",
        becomes="Refused by the broker to every user that `flashq keys acl` makes.",
        tests=(
            f"{ACL}::test_no_role_runs_code_or_looks_elsewhere",
            f"{ACL}::test_no_role_does_the_work_of_another",
            f"{ACL}::test_a_script_of_another_role_is_refused_and_changes_nothing",
            f"{ACL}::test_a_user_of_one_endpoint_is_kept_to_it",
        ),
        unmet="a user may run single commands on the keys that its scripts write: a client can delete any job "
        "it may submit",
    ),
    Attack(
        attack="secrets (keys, `env=` values, the broker's password) looked for in the broker, logs, argv, "
        "tracebacks, listings",
        becomes="Not there.",
        tests=(
            "acceptance/test_canaries.py::test_nothing_of_them_is_in_the_broker",
            "acceptance/test_canaries.py::test_nothing_of_them_is_in_any_file_but_the_keys",
            "acceptance/test_canaries.py::test_nothing_of_them_is_in_a_command_line",
            "acceptance/test_canaries.py::test_nothing_of_them_is_in_what_commands_print",
            f"{SIGNING}::test_the_key_is_in_nothing_that_is_shown",
            f"{ENVIRONMENT}::test_env_is_sealed_in_the_broker",
            f"{ENVIRONMENT}::test_env_is_not_in_argv_nor_in_logs_of_the_worker",
            f"{ENVIRONMENT}::test_listings_mask_env",
            "acceptance/test_sdk_parameters.py::test_the_value_of_env_is_never_in_an_error",
            "unit/test_settings.py::test_the_brokers_password_is_masked",
            f"{ACL}::test_passwords_are_kept_private_and_only_hashes_are_printed",
        ),
    ),
    Attack(
        attack="a broker beyond this machine without encryption, a certificate of another name, authority or date",
        becomes="Refused before a password is sent: ConfigurationError, BrokerUntrusted.",
        tests=(
            "unit/test_settings.py::test_a_broker_elsewhere_without_verified_tls_needs_a_word",
            f"{TLS}::test_a_certificate_of_another_authority_is_not_trusted",
            f"{TLS}::test_a_certificate_for_another_name_is_not_trusted",
            f"{TLS}::test_an_expired_certificate_is_not_trusted_and_the_caller_told_at_once",
        ),
    ),
    Attack(
        attack="a key file that others may read; a short or missing key",
        becomes="Refused at start.",
        tests=(
            f"{SIGNING}::test_a_key_file_that_others_can_read_is_refused",
            f"{SIGNING}::test_no_key_or_a_short_one_is_refused_at_once",
            "integration/test_doctor.py::test_without_a_broker_it_looks_at_this_machine",
        ),
    ),
    Attack(
        attack="the gateway: a missing, wrong, other-scope, expired or revoked API key, or one in the URL; another "
        "tenant's job",
        becomes="401 or 403, and 404 for a job of another endpoint; a key is in no log, and its digest alone in the "
        "broker. Without keys it listens on this machine alone.",
        tests=(
            f"{HTTP}::test_a_key_is_needed_and_enough",
            f"{HTTP}::test_a_key_is_for_its_endpoints",
            f"{HTTP}::test_another_tenants_job_is_not_there",
            f"{HTTP}::test_a_key_expires_and_is_revoked",
            f"{HTTP}::test_a_key_in_the_address_is_refused",
            f"{HTTP}::test_keys_are_in_no_log",
            f"{HTTP}::test_what_is_kept_of_a_key_does_not_tell_it",
            f"{HTTP}::test_a_record_that_somebody_else_wrote_lets_nobody_in",
            f"{HTTP}::test_no_key_and_another_address_do_not_go_together",
        ),
    ),
    Attack(
        attack="the gateway: a browser on a hostile page (CSRF), a name that leads to this machine (DNS rebinding)",
        becomes="403 where `Origin` or `Sec-Fetch-Site` say another origin, 415 for what a form can send, 421 for "
        "another host's name.",
        tests=(
            f"{HTTP}::test_a_page_of_another_origin_is_refused",
            f"{HTTP}::test_what_a_form_can_send_is_no_call",
            f"{HTTP}::test_a_name_that_leads_here_is_not_ours",
        ),
    ),
    Attack(
        attack="the gateway: 1 GiB, slow, compressed, endless and malformed bodies; NaN, NUL, invalid UTF-8, deep "
        "nesting; `../x`, `a:b`, `*`, names of 10 kB; a caller that goes away",
        becomes="Refused with a status that says why, before anything is submitted; the next request is served.",
        tests=(
            f"{HTTP}::test_a_body_over_the_limit_is_413",
            f"{HTTP}::test_a_slow_body_is_408",
            f"{HTTP}::test_a_compressed_body_is_not_taken",
            f"{HTTP}::test_a_body_that_is_none_is_refused",
            f"{HTTP}::test_odd_text_comes_back_as_it_is",
            f"{HTTP}::test_odd_names_are_not_there",
            f"{HTTP}::test_a_caller_that_goes_away_leaves_the_gateway_well",
            f"{ROUTES}::test_a_caller_that_goes_away_cancels_its_job",
            f"{FUZZ}::test_nothing_that_a_fuzzer_sends_breaks_it",
        ),
    ),
    Attack(
        attack="the gateway: connections that send no head, bodies of many callers at once, inputs that take "
        "long to be judged, keys that nobody made, streams that many follow",
        becomes="Connections without a head are closed after 10 s, bodies have a bound together, large inputs are "
        "judged beside other requests, the broker is asked once at a time; others are served meanwhile.",
        tests=(
            f"{HTTP}::test_a_head_that_does_not_come_is_not_waited_for",
            f"{HTTP}::test_bodies_of_many_take_no_more_memory_than_there_is",
            f"{ROUTES}::test_a_large_input_keeps_nobody_else_waiting",
            f"{HTTP}::test_words_that_are_no_keys_have_the_broker_asked_once_at_a_time",
            f"{HTTP}::test_a_webhook_that_takes_its_time_keeps_no_sender",
            f"{STREAMS}::test_a_reader_without_room_to_wait_does_not_ask_all_the_time",
        ),
    ),
    Attack(
        attack="a schema that refers to an address; a page that an image serves, for the dashboard's key",
        becomes="Nothing is fetched, the worker judges; pages of images are sandboxed, another origin to the browser.",
        tests=(
            f"{INPUT}::test_no_schema_has_anything_fetched",
            f"{ROUTES}::test_images_are_asked_as_they_are",
        ),
    ),
    Attack(
        attack="webhooks to loopback, link-local and private addresses, also by a name or inside IPv6",
        becomes="Not told, and logged, unless `--allow-internal-webhooks`; the address that was judged is the one "
        "connected to.",
        tests=(f"{HTTP}::test_webhooks_into_this_network_are_not_told",),
    ),
    Attack(
        attack="an artifact with `..`, absolute paths, links, devices, setuid, FIFO, duplicate names, bombs; one that "
        "is swapped between check and use",
        becomes="Not unpacked: nothing is written but what its signed manifest names, as plain files. What a job "
        "alters on its host is put back before the next process starts.",
        tests=(
            f"{ARTIFACTS}::test_an_altered_artifact_is_refused_and_nothing_stays",
            f"{ARTIFACTS}::test_set_uid_and_other_bits_are_not_taken_over",
            f"{ARTIFACTS}::test_one_that_says_it_is_too_large_is_refused_before_it_is_read",
            f"{ARTIFACTS}::test_a_path_that_is_none_is_refused",
            f"{ARTIFACTS}::test_a_manifest_that_no_builder_writes_is_refused",
            f"{DEPLOY}::test_an_artifact_that_was_altered_in_the_broker_is_refused_by_hosts",
            f"{DEPLOY}::test_files_that_a_job_alters_on_the_host_are_put_back",
            f"{ARTIFACTS}::test_what_is_compiled_beside_a_file_does_not_stay",
            "integration/test_build.py::test_a_link_to_elsewhere_is_refused",
        ),
    ),
)


def attacks() -> str:
    """The table of the page."""
    lines = [(one.attack, one.becomes or "–", shown_by(one.tests, one.unmet)) for one in ATTACKS]
    return markdown(("attack", "what becomes of it", "shown by"), lines).replace("---:", "---")


TABLES: dict[str, Callable[[], str]] = {"attacks": attacks}
