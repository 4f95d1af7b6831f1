"""Where each of the 118 hostile inputs is tested. Here, a test's id has "case N"; the others stand in these two tables.

A  1-22    messages of brokers        E  85-98    URLs, files, environment, clocks
B  23-44   ids, names, workspaces     F  99-110   signed functions
C  45-70   HTTP                       G  111-114  the command line
D  71-84   payloads                   H  115-118  stored data that somebody changed
"""

from __future__ import annotations

from typing import Final

NUMBERS: Final = range(1, 119)

_INPUT: Final = "tests/product/test_bad_input.py::"
_NAMES: Final = "tests/product/test_bad_names.py::"
_STORES: Final = "tests/product/test_bad_stores.py::"
_SQLITE: Final = "tests/contracts/test_sqlite_file.py::"
_REDIS: Final = "tests/contracts/test_redis_opening.py::"
_CLUSTER: Final = "tests/contracts/test_redis_cluster.py::"
_DYNAMODB: Final = "tests/contracts/test_dynamodb_opening.py::"
_RABBITMQ: Final = "tests/contracts/test_transports.py::"
_SIGNED: Final = "tests/laws/test_signed_callables.py::"
_CLI: Final = "tests/product/test_cli.py::"
_CALL: Final = _INPUT + "test_a_client_refuses_it_at_the_call"

# "file::test", or "file::test[part": one of its ids holds this part.
ELSEWHERE: Final[dict[int, list[str]]] = {
    9: ["tests/product/test_trigger_commands.py::test_what_is_no_event_is_refused"],
    18: [
        _NAMES + "test_an_instance_that_has_ended",
        "tests/product/test_many_workers.py::test_two_workspaces_never_see_each_other",
    ],
    44: [_NAMES + "test_a_name_is_only_looked_up_and_never_imported"],
    71: [_CALL + "[NaN", _CALL + "[infinity"],
    72: ["tests/laws/test_payloads.py::test_numbers_at_the_edges_are_exact"],
    73: [
        _CALL + "[4,301 digits",
        _CALL + "[2**64",
    ],
    74: [_CALL + "[100,000 deep"],
    75: ["tests/laws/test_payloads.py::test_large_numbers_from_elsewhere_are_exact_and_duplicates_are_json"],
    76: [_CALL + "[lone surrogate"],
    80: ["tests/product/test_limits.py::test_payloads_from_outside"],
    81: [_CALL + "[colliding keys"],
    82: [
        _INPUT + "test_an_output_or_a_result_that_can_not_travel_fails_what_made_it[evil object",
        _INPUT + "test_an_output_or_a_result_that_can_not_travel_fails_what_made_it[circular",
        "tests/product/test_activities.py::test_typed_values_pass_through_every_entrance",
    ],
    83: [
        _INPUT + "test_whatever_is_raised_becomes_a_failure[str raises",
        _INPUT + "test_whatever_is_raised_becomes_a_failure[50 MB",
        "tests/product/test_failures.py::test_what_an_exception_carries_is_recorded_as_plain_values",
    ],
    84: [
        _INPUT + "test_too_many_commands_in_one_turn",
        _INPUT + "test_an_orchestrator_that_never_yields_is_blocked_with_its_line",
    ],
    87: [
        _SQLITE + "test_a_device_is_refused",
        _SQLITE + "test_what_is_read_only_is_refused",
        _STORES + "test_a_file_that_is_no_store_is_refused_and_left_alone[a FIFO",
    ],
    88: [
        _STORES + "test_a_file_that_is_no_store_is_refused_and_left_alone[with a trigger",
        _STORES + "test_a_file_that_is_no_store_is_refused_and_left_alone[newer",
        _STORES + "test_a_file_that_is_no_store_is_refused_and_left_alone[damaged",
        _STORES + "test_a_store_damaged_by_the_byte_never_hangs",
        _STORES + "test_an_empty_file_becomes_a_store",
    ],
    89: [_REDIS + "test_urls_that_are_refused"],
    90: [_REDIS + "test_what_a_url_says", _REDIS + "test_tls"],
    91: [
        _REDIS + "test_settings_that_lose_data",
        _REDIS + "test_a_replica",
        _CLUSTER + "test_a_cluster_with_slots_that_nobody_has",
    ],
    92: [_RABBITMQ + "test_what_is_wrong_is_said_without_the_password"],
    93: [_DYNAMODB + "test_urls_that_are_refused", _DYNAMODB + "test_a_table_of_somebody_else"],
    96: [
        _SIGNED + "test_a_key_that_is_none_is_refused_and_not_shown",
        _SIGNED + "test_keys_come_from_the_call_or_the_environment_or_there_are_none",
    ],
    99: [_SIGNED + "test_what_is_no_signed_text_is_refused"],
    100: [_SIGNED + "test_each_single_bit_counts"],
    101: [
        _SIGNED + "test_what_is_no_signed_text_is_refused",
        _SIGNED + "test_whatever_is_changed_is_refused_and_nothing_is_unpickled",
    ],
    102: [_SIGNED + "test_what_is_forged_is_refused", _SIGNED + "test_who_lacks_the_key_unpickles_nothing"],
    103: [
        _SIGNED + "test_a_workspace_does_not_run_what_was_signed_in_another",
        _SIGNED + "test_a_condition_is_no_action_and_an_action_no_condition",
    ],
    104: [_SIGNED + "test_what_is_no_signed_text_is_refused"],
    106: [_SIGNED + "test_a_workspace_does_not_run_what_was_signed_in_another"],
    107: [_SIGNED + "test_what_is_no_signed_text_is_refused"],
    109: ["tests/contracts/test_stores.py::TestSqlite::test_a_start_from_before_the_purge_does_not_bring_it_back"],
    110: [
        _SIGNED + "test_installed_code_travels_by_reference",
        "tests/product/test_triggers.py::test_a_worker_that_lacks_the_function_leaves_a_dead_letter_for_one_that_has_it",
    ],
    111: [
        _CLI + "test_nothing_stored_can_inject_terminal_codes",
        _CLI + "test_nothing_given_can_inject_terminal_codes",
    ],
    113: [_CLI + "test_a_closed_pipe_ends_quietly"],
    114: [_CLI + "test_no_error_shows_a_secret"],
    116: [
        "tests/laws/test_claim_laws.py::test_names_are_those_of_their_bytes",
        "tests/product/test_blobs.py::test_it_is_blocked_while_its_blob_cannot_be_had_and_goes_on_when_it_is_back",
    ],
    117: ["tests/product/test_determinism.py::test_a_type_of_a_later_version_is_kept_and_blocks"],
}

# Nothing of ours takes such an input.
NO_SUCH_SURFACE: Final[dict[int, str]] = {
    **dict.fromkeys(range(45, 71), "there is no HTTP API and no page so far"),
    97: "a worker's identity is minted at each start; nobody gives one",
    105: "a signed function has no content type: its form is one text, and nothing in it chooses a reader",
}
