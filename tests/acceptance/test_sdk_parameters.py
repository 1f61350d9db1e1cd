"""Every parameter of `Endpoint(...)` and of `with_options(...)`, wrong in turn: refused, and named.

Nothing here reaches a broker: what is wrong in a decorator is known where it is written.
"""

from __future__ import annotations

import math
import re
import sys
from typing import Any

import pytest

from flashq import CpuInstanceType, Endpoint, FlashqError, GpuGroup, GpuType, Retries
from flashq.errors import ConfigurationError, NotSupportedError, SpecError

WRONG: dict[str, list[Any]] = {
    "name": [
        "",
        "with space",
        "a--b",
        "-x",
        "_x",
        "x" * 65,
        "a/b",
        "a:b",
        "*",
        "../x",
        "ü",
        "a\nb",
        "a\0b",
        5,
        b"x",
    ],
    "gpu": ["no such GPU", 5, -1, object(), [], [GpuGroup.ANY, "nonsense"], {}, True],
    "cpu": ["no such instance", "cpu5c-4", "cpu5c-x-8", 0, -1, object(), [], True],
    "workers": [
        -1,
        (2, 1),
        (-1, 3),
        (0, 0),
        0,
        "3",
        (1,),
        (1, 2, 3),
        1.5,
        (0.5, 2),
        True,
        (True, 2),
        {},
    ],
    "idle_timeout": [-1, "60", math.nan, math.inf, None, True, []],
    "dependencies": [
        "numpy",
        [5],
        ["not a requirement !!"],
        ["--index-url=https://example.org"],
        ["-r requirements.txt"],
        ["numpy; curl example.org"],
        ["git+ssh://example.org/x"],
        ["x @ file:///etc/passwd"],
        ["../x"],
        ["./x.whl"],
        ["https://example.org/x.whl"],
        ["numpy\n--index-url=https://example.org"],
        [""],
        [None],
        {"numpy": "1"},
        5,
    ],
    "system_dependencies": ["ffmpeg", ["$(id)"], ["-o APT::X=y"], [5], 5],
    "accelerate_downloads": ["yes", 2, None],
    "volume": [5, object(), "models", "/", "/a/../b", "nfs://host/x"],
    "datacenter": [5, object()],
    "env": [
        ["A=b"],
        {"A": 5},
        {5: "a"},
        {"": "x"},
        {"A=B": "x"},
        {"A": "x\0y"},
        {"A\0": "x"},
        "A=b",
        {"A": None},
    ],
    "gpu_count": [0, -1, 1.5, "2", None, True],
    "execution_timeout_ms": [-1, 1.5, "1000", math.nan, None, True],
    "flashboot": ["yes", 2, None],
    "image": [5, object(), "", "--privileged", "a b", "python:3.11\n"],
    "scaler_type": ["NO_SUCH", 5, object()],
    "scaler_value": [0, -1, "4", math.nan, math.inf, None, True],
    "template": [5, object()],
    "min_cuda_version": [5, 12.4, "twelve", "12", "12.40", object()],
    "python_version": ["2.7", "3", "3.x", 3.11, "", "three", object()],
    "max_concurrency": [0, -1, 1.5, "2", None, True],
    "retries": [-1, 1.5, "2", True, {"nonsense": 1}, {"max": -1}, object()],
    "priority": ["high", 1.5, math.nan, None, True],
    "result_ttl": [-1, 0, "60", math.nan, None, True],
    "ttl": [-1, 0, "60", math.nan, math.inf, None, True],
    "batch": [5, (0, 10), (4,), "x", (4, -1)],
    "hosts": [5, object()],
}
CASES = [
    pytest.param(name, value, id=f"{name}-{n}")
    for name, values in WRONG.items()
    for n, value in enumerate(values)
]

OPTIONS: dict[str, list[Any]] = {
    "key": ["", 5, b"x", "x" * 10_000],
    "priority": ["high", 1.5, math.nan, True],
    "delay_s": [-1, "5", math.nan, math.inf, True],
    "ttl_s": [0, -1, "5", math.nan, math.inf, True],
    "timeout_s": [-1, "5", math.nan, math.inf, True],
}
OPTION_CASES = [
    pytest.param(name, value, id=f"{name}-{n}")
    for name, values in OPTIONS.items()
    for n, value in enumerate(values)
]

# What a later version will do may not be taken and ignored by this one.
LATER: dict[str, Any] = {
    "template": "abc",
}

DEFAULTS: dict[str, Any] = {
    "id": None,
    "gpu": None,
    "cpu": None,
    "workers": (0, 1),
    "idle_timeout": 60,
    "dependencies": None,
    "system_dependencies": None,
    "accelerate_downloads": True,
    "volume": None,
    "datacenter": None,
    "env": None,
    "gpu_count": 1,
    "execution_timeout_ms": 0,
    "flashboot": True,
    "image": None,
    "scaler_type": None,
    "scaler_value": 4,
    "template": None,
    "min_cuda_version": None,
    "python_version": None,
    "max_concurrency": 1,
}


def double(x: int) -> int:
    return 2 * x


def decorate(**parameters: Any) -> Any:
    return Endpoint(**{"name": "parameters", **parameters})(double)


@pytest.mark.parametrize(("parameter", "value"), CASES)
def test_a_wrong_parameter_is_refused_by_name(parameter: str, value: object) -> None:
    # If one parameter is wrong
    with pytest.raises(SpecError) as raised:
        decorate(**{parameter: value})

    # Expect an error that names it in its text and as an attribute, and is a ValueError and a FlashqError
    assert raised.value.parameter == parameter
    assert re.search(rf"\b{parameter}\b", str(raised.value))
    assert isinstance(raised.value, FlashqError)
    assert isinstance(raised.value, ValueError)


@pytest.mark.parametrize("parameter", LATER)
def test_what_this_version_cannot_honour_is_refused_with_the_reason(parameter: str) -> None:
    # If a valid value asks for something this version lacks
    with pytest.raises(NotSupportedError) as raised:
        decorate(**{parameter: LATER[parameter]})

    # Expect it to be named, with a reason in words
    assert raised.value.parameter == parameter
    assert len(str(raised.value).split()) >= 4


def test_the_value_of_env_is_never_in_an_error() -> None:
    # Given a secret in a wrong env
    with pytest.raises(SpecError) as raised:
        decorate(env={"TOKEN": "canary-secret", "BAD=NAME": "canary-secret"})

    # Expect the name, and no value
    assert "BAD=NAME" in str(raised.value)
    assert "canary-secret" not in str(raised.value)
    with pytest.raises(SpecError) as raised:
        decorate(env={"TOKEN": b"canary-secret"})
    assert "canary-secret" not in str(raised.value)
    with pytest.raises(SpecError) as raised:
        decorate(env="TOKEN=canary-secret")
    assert "canary-secret" not in str(raised.value)


def test_env_is_not_in_the_repr_of_an_endpoint() -> None:
    function = decorate(env={"TOKEN": "canary-secret"})
    assert "canary-secret" not in repr(function)
    assert "canary-secret" not in repr(function.spec)
    assert "canary-secret" not in str(function.spec)


def test_several_wrong_parameters_are_all_named() -> None:
    with pytest.raises(SpecError) as raised:
        decorate(workers=(3, 1), gpu_count=0, env={"A": 1})
    assert all(name in str(raised.value) for name in ("workers", "gpu_count", "env"))


@pytest.mark.parametrize("parameter", ["nonsense", "worker", "idle_timeout_s", "GPU"])
def test_an_unknown_parameter_is_named(parameter: str) -> None:
    with pytest.raises((SpecError, TypeError), match=parameter):
        decorate(**{parameter: 1})


def test_a_near_miss_is_helped() -> None:
    with pytest.raises((SpecError, TypeError), match=r"\bworkers\b"):
        decorate(worker=2)


def test_gpu_and_cpu_exclude_each_other() -> None:
    with pytest.raises(SpecError, match="gpu") as raised:
        decorate(gpu=GpuGroup.ANY, cpu="any")
    assert "cpu" in str(raised.value)


def test_concurrency_above_one_is_refused_for_a_plain_function() -> None:
    # If a plain function asks for concurrent jobs, expect a refusal that says what would do
    with pytest.raises(SpecError, match="max_concurrency") as raised:
        Endpoint(name="parameters-plain", cpu="any", max_concurrency=2)(double)
    assert re.search(r"async|coroutine", str(raised.value))


@pytest.mark.parametrize(
    "target",
    [5, None, "text", [double]],
)
def test_only_what_can_be_called_is_decorated(target: object) -> None:
    with pytest.raises((ConfigurationError, TypeError)):
        Endpoint(name="parameters-target", cpu="any")(target)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"gpu": GpuGroup.ANY},
        {"gpu": GpuGroup.AMPERE_80},
        {"gpu": GpuType.NVIDIA_L4},
        {"gpu": [GpuGroup.ADA_24, GpuGroup.AMPERE_24]},
        {"gpu": "NVIDIA L4"},
        {"gpu": GpuGroup.ANY, "gpu_count": 8},
        {"cpu": "any"},
        {"cpu": "cpu5c-4-8"},
        {"cpu": CpuInstanceType.CPU3G_2_8},
        {"workers": 3},
        {"workers": (0, 3)},
        {"workers": (2, 2)},
        {"workers": [1, 4]},
        {"idle_timeout": 1},
        {"idle_timeout": 0.5},
        {"dependencies": []},
        {
            "dependencies": [
                "numpy",
                "pandas>=2,<3",
                "requests[socks]==2.32.3",
                'tomli; python_version < "3.11"',
            ]
        },
        {"system_dependencies": ["ffmpeg", "libsndfile1"]},
        {"volume": "/mnt/models"},
        {"datacenter": "EU-RO-1"},
        {"datacenter": ["EU-RO-1", "US-KS-2"]},
        {"hosts": "zone=eu"},
        {"hosts": {"zone": "eu", "rack": "1"}},
        {"env": {}},
        {"env": {"HF_TOKEN": "x", "EMPTY": "", "UMLAUT": "ü"}},
        {"execution_timeout_ms": 1},
        {"retries": 3},
        {"retries": Retries(max=3, delay_s=0.1, backoff=2, max_delay_s=5, on=(OSError, "ValueError"))},
        {"priority": 5},
        {"result_ttl": 60},
        {"ttl": 1.5},
        {"scaler_type": "QUEUE_DELAY", "scaler_value": 4},
        {"scaler_type": "REQUEST_COUNT", "scaler_value": 1},
        {"python_version": f"{sys.version_info.major}.{sys.version_info.minor}"},
        DEFAULTS,
    ],
    ids=str,
)
def test_what_is_right_is_taken(parameters: dict[str, Any]) -> None:
    # If valid parameters are given, expect a decorated function that still runs here
    assert decorate(**parameters).local(4) == 8


def test_the_defaults_are_the_documented_ones() -> None:
    # If every default is written out, expect the same endpoint as with none written
    assert decorate(**DEFAULTS).spec == decorate().spec


def test_a_number_of_workers_means_from_zero_to_it() -> None:
    assert decorate(workers=3).spec.workers == (0, 3)
    assert decorate(workers=(1, 3)).spec.workers == (1, 3)


def test_an_instance_name_says_its_cores_and_memory() -> None:
    cpu = decorate(cpu="cpu5c-4-8").spec.cpu
    assert (cpu.cores, cpu.memory_gib) == (4, 8)


def test_the_functions_own_name_is_the_default_name() -> None:
    # If no name is given, expect the function's (Flash's and Modal's rule), in letters a queue may have
    def embed_texts() -> None: ...

    assert Endpoint(cpu="any")(embed_texts).name in ("embed_texts", "embed-texts")


def test_a_name_of_64_characters_is_taken() -> None:
    assert Endpoint(name="x" * 64, cpu="any")(double).name == "x" * 64


@pytest.mark.parametrize(("option", "value"), OPTION_CASES)
def test_a_wrong_option_is_refused_by_name(option: str, value: object) -> None:
    # Given a good endpoint
    function = decorate()

    # If one call option is wrong, expect an error naming it, before anything is called
    with pytest.raises(SpecError) as raised:
        function.with_options(**{option: value})
    assert raised.value.parameter == option
    assert option in str(raised.value)


def test_an_unknown_option_is_named() -> None:
    with pytest.raises((SpecError, TypeError), match="nonsense"):
        decorate().with_options(nonsense=1)


def test_options_leave_the_endpoint_as_it_was() -> None:
    # If options are set twice over
    function = decorate()
    urgent = function.with_options(priority=5)
    late = urgent.with_options(delay_s=3)

    # Expect the first endpoint to have none, and the later to have both
    assert function.options is None or function.options.priority is None
    assert urgent.options.priority == 5
    assert urgent.options.delay_s is None
    assert (late.options.priority, late.options.delay_s) == (5, 3)
    assert late.local(2) == 4


@pytest.mark.parametrize(
    "wrong",
    [{"max": -1}, {"max": 1.5}, {"delay_s": -1}, {"backoff": 0.5}, {"max_delay_s": -1}, {"on": (5,)}],
    ids=str,
)
def test_a_wrong_retry_rule_names_its_field(wrong: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=next(iter(wrong))):
        Retries(**wrong)
