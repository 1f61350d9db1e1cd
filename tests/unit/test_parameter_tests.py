"""Every parameter of the specification is honoured, with a test that shows it, or refused by name."""

from __future__ import annotations

import pytest

from flashq.errors import NotSupportedError
from flashq.model.spec import CallOptions, EndpointSpec
from scripts.parameter_tests import CALL, ENDPOINT, REFUSED
from scripts.reference_tables import parameter_refusals
from tests.unit.test_failure_matrix import functions
from tests.unit.test_spec import UNSUPPORTED

#: What the specification promises, by name.
FLASHS = (
    "name id gpu cpu workers idle_timeout dependencies system_dependencies accelerate_downloads volume datacenter env"
    " gpu_count execution_timeout_ms flashboot image scaler_type scaler_value template min_cuda_version python_version"
    " max_concurrency"
).split()
OURS = "retries priority result_ttl ttl batch hosts".split()
OF_A_CALL = "key priority delay_s ttl_s timeout_s".split()
NAMED = [(name, tests) for table in (ENDPOINT, CALL) for name, tests in table.items()]


def test_no_parameter_of_the_specification_is_missing() -> None:
    assert {*FLASHS, *OURS} <= ENDPOINT.keys() == EndpointSpec.model_fields.keys()
    assert set(OF_A_CALL) <= CALL.keys() == CallOptions.model_fields.keys()


@pytest.mark.parametrize(("name", "tests"), NAMED, ids=lambda given: given if isinstance(given, str) else "")
def test_each_names_tests_that_exist(name: str, tests: tuple[str, ...]) -> None:
    assert tests
    for test in tests:
        file, _, function = test.partition("::")
        assert function in functions(file), test


def test_what_has_no_test_of_its_effect_is_refused_by_name() -> None:
    # Given the parameters whose only test is that of the refusal, and those the rules refuse
    without = {name for name, tests in ENDPOINT.items() if REFUSED in tests}
    refused = {name.partition("=")[0] for name in parameter_refusals()}

    # Expect them to be the same, and each to be tried there
    assert without == refused
    tried = dict(UNSUPPORTED)
    for name in sorted(without):
        with pytest.raises(NotSupportedError) as raised:
            EndpointSpec(**{name: tried[name]})
        assert raised.value.parameter == name
