"""Endpoint parameters and call options: canonical forms, refusals by name, and what each change costs."""

from __future__ import annotations

import json
import pickle
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashq.errors import ConfigurationError, NotSupportedError, SpecError
from flashq.model.resources import (
    CpuInstanceType,
    CpuRequest,
    GpuGroup,
    GpuRequest,
    GpuType,
    ServerlessScalerType,
)
from flashq.model.retry import Retries
from flashq.model.spec import (
    CallOptions,
    EndpointSpec,
    call_defaults,
    canonical_json,
    environment_digest,
    public,
    resource_digest,
    scaling,
)
from flashq.model.terms import terms_of

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
OTHER_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor + 1}"

FLASHS_DEFAULTS: dict[str, Any] = {
    "name": None,
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


def test_the_parameters_are_flashs_and_flashqs_own() -> None:
    assert list(EndpointSpec.model_fields) == [
        *FLASHS_DEFAULTS,
        "retries",
        "priority",
        "result_ttl",
        "ttl",
        "delivery",
        "max_deliveries",
        "max_queued",
        "batch",
        "hosts",
        "startup_timeout",
        "recycle_jobs",
        "recycle_gib",
        "buffer",
    ]


def test_nothing_given_is_a_spec_of_defaults() -> None:
    spec = EndpointSpec()
    assert (spec.gpu, spec.cpu, spec.workers, spec.idle_timeout) == (GpuRequest(), None, (0, 1), 60)
    assert (spec.dependencies, spec.env, spec.python_version) == ((), {}, PYTHON)
    assert (spec.retries, spec.priority, spec.result_ttl, spec.ttl) == (Retries(0), 0, 1800, 86_400)


def test_every_default_may_be_written_out() -> None:
    assert EndpointSpec(**FLASHS_DEFAULTS, batch=None, hosts=None) == EndpointSpec()


@pytest.mark.parametrize(
    ("parameter", "given", "canonical"),
    [
        ("name", "embed", "embed"),
        ("name", "a" * 64, "a" * 64),
        ("name", "9_x-Y", "9_x-Y"),
        ("gpu", GpuGroup.HOPPER_141, GpuRequest(("NVIDIA H200",))),
        ("gpu", [GpuType.NVIDIA_L4, "H200"], GpuRequest(("NVIDIA L4", "NVIDIA H200"))),
        ("cpu", "cpu5c-4-8", CpuRequest("cpu5c-4-8", 4, 8)),
        ("cpu", CpuInstanceType.CPU3G_1_4, CpuRequest("cpu3g-1-4", 1, 4)),
        ("cpu", "any", CpuRequest()),
        ("image", "vllm/vllm-openai:latest", "vllm/vllm-openai:latest"),
        ("image", "localhost:5000/a/b@sha256:" + 64 * "0", "localhost:5000/a/b@sha256:" + 64 * "0"),
        ("workers", 3, (0, 3)),
        ("workers", [1, 3], (1, 3)),
        ("workers", (2, 2), (2, 2)),
        ("workers", None, (0, 1)),
        ("idle_timeout", 0, 0),
        ("idle_timeout", 0.5, 0.5),
        ("buffer", 2, 2),
        ("dependencies", [], ()),
        ("dependencies", ("Torch",), ("torch",)),
        ("dependencies", ["numpy >= 2,<3", "NumPy<3,>=2", "a_b[X,c] ; python_version>'3'"], None),
        ("system_dependencies", [], ()),
        ("system_dependencies", ("libsndfile1", "ffmpeg", "ffmpeg"), ("ffmpeg", "libsndfile1")),
        ("system_dependencies", ["libx1.2", "g++", "ImageMagick-c++"], ("ImageMagick-c++", "g++", "libx1.2")),
        ("volume", None, None),
        ("volume", [], None),
        ("volume", "/mnt//models/./x/", "/mnt/models/x"),
        ("env", {"HF_HOME": "/x", "_A1": ""}, {"HF_HOME": "/x", "_A1": ""}),
        ("gpu_count", 8, 8),
        ("min_cuda_version", "12.4", "12.4"),
        ("execution_timeout_ms", 1500, 1500),
        ("scaler_type", "queue_delay", "QUEUE_DELAY"),
        ("scaler_type", ServerlessScalerType.REQUEST_COUNT, "REQUEST_COUNT"),
        ("python_version", PYTHON, PYTHON),
        ("max_concurrency", 16, 16),
        ("retries", 2, Retries(2)),
        ("retries", {"max": 2, "on": [ValueError]}, Retries(2, on=("ValueError",))),
        ("retries", Retries(3, delay_s=1), Retries(3, delay_s=1)),
        ("priority", -9, -9),
        ("result_ttl", 1, 1),
        ("ttl", 0.25, 0.25),
        ("delivery", "at_most_once", "at_most_once"),
        ("max_deliveries", 1, 1),
        ("max_queued", 500, 500),
        ("max_queued", None, None),
        ("hosts", {}, ()),
        ("hosts", "gpu-box", ("gpu-box",)),
        ("hosts", ["zone=eu", "a", "a"], ("a", "zone=eu")),
        ("hosts", {"zone": "eu", "rack": "r/1.2"}, ("rack=r/1.2", "zone=eu")),
        ("datacenter", [], ()),
        ("datacenter", "EU-RO-1", ("EU-RO-1",)),
        ("datacenter", [ServerlessScalerType.QUEUE_DELAY, "EU-RO-1"], ("EU-RO-1", "QUEUE_DELAY")),
    ],
)
def test_values_take_their_canonical_form(parameter: str, given: object, canonical: object) -> None:
    kept = getattr(EndpointSpec(**{parameter: given}), parameter)
    if canonical is None and parameter == "dependencies":
        canonical = ('a-b[c,x]; python_version > "3"', "numpy<3,>=2")
    assert kept == canonical


WRONG: list[tuple[str, object, str]] = [
    ("image", "--privileged", "must name an image"),
    ("image", "python:3.11 --privileged", "must name an image"),
    ("image", "", "must not be empty"),
    ("name", "", "must not be empty"),
    ("name", "a" * 65, "at most 64 characters"),
    ("name", "a--b", "'--'"),
    ("name", "-a", "begin with a letter or digit"),
    ("name", "a b", "letters, digits"),
    ("name", "ä", "ASCII"),
    ("name", "a\n", "letters, digits"),
    ("name", 3, "must be a string"),
    ("gpu", "RTX 0000", "no such GPU"),
    ("gpu", 1, "must be a GpuGroup"),
    ("gpu", [], "at least one"),
    ("cpu", "cpu1x-1-1", "no such CPU instance type"),
    ("cpu", True, "must be a CpuInstanceType"),
    ("workers", 0, "at least 1"),
    ("workers", -1, "at least 1"),
    ("workers", True, "whole number"),
    ("workers", 1.5, "whole number"),
    ("workers", "3", "whole number"),
    ("workers", (3, 1), r"min \(3\) must not be above max \(1\)"),
    ("workers", (0, 0), "at least 1"),
    ("workers", (-1, 1), "at least 0"),
    ("workers", (1, 2, 3), "3 parts"),
    ("workers", 10**6, "at most 10000"),
    ("idle_timeout", -1, "must be at least 0 seconds"),
    ("idle_timeout", float("nan"), "finite"),
    ("idle_timeout", float("inf"), "finite"),
    ("idle_timeout", "60", "must be a number of seconds"),
    ("idle_timeout", None, "must be a number of seconds"),
    ("idle_timeout", True, "must be a number of seconds"),
    ("dependencies", "numpy", "must be a list"),
    ("system_dependencies", "ffmpeg", "must be a list of package names"),
    ("system_dependencies", [1], "names of packages"),
    ("system_dependencies", [""], "not a package's name"),
    ("system_dependencies", ["$(id)"], "not a package's name"),
    ("system_dependencies", ["-o APT::X=y"], "not a package's name"),
    ("system_dependencies", ["--help"], "not a package's name"),
    ("system_dependencies", ["ffmpeg=7"], "not a package's name"),
    ("system_dependencies", ["ffmpeg:amd64"], "not a package's name"),
    ("system_dependencies", ["ffmpeg*"], "not a package's name"),
    ("system_dependencies", ["a\nb"], "not a package's name"),
    ("system_dependencies", ["./x.deb"], "not a package's name"),
    ("system_dependencies", ["x" * 129], "not a package's name"),
    ("hosts", 5, "must be a label"),
    ("hosts", [5], "no label"),
    ("hosts", "a,b", "no label"),
    ("hosts", ["a b"], "no label"),
    ("hosts", {"zone": "a,b"}, "no label"),
    ("hosts", "x" * 64, "no label"),
    ("datacenter", 5, "must be a name"),
    ("datacenter", [None], "must be a name"),
    ("datacenter", ["a b"], "no label"),
    ("volume", 5, "path of a folder on the hosts"),
    ("volume", object(), "path of a folder on the hosts"),
    ("volume", "models", "absolute path"),
    ("volume", "~/models", "absolute path"),
    ("volume", "", "absolute path"),
    ("volume", "/", "below '/'"),
    ("volume", "/mnt/../etc", "without '..'"),
    ("volume", "nfs://server/models", "mount a share"),
    ("volume", "server:/models", "mount a share"),
    ("volume", "/mnt/a\0b", "printable"),
    ("volume", "/mnt/a\nb", "printable"),
    ("volume", "/" + "x" * 1024, "at most 1024"),
    ("dependencies", [1], "requirement strings"),
    ("dependencies", ["--index-url x"], "installer option"),
    ("dependencies", ["-r requirements.txt"], "installer option"),
    ("dependencies", ["git+https://example.org/x.git"], "URL"),
    ("dependencies", ["x @ https://example.org/x.whl"], "URL"),
    ("dependencies", ["x @ file:///x.whl"], "URL"),
    ("dependencies", ["./x"], "path"),
    ("dependencies", ["x @ ./x"], "URL"),
    ("dependencies", ["/x/y"], "path"),
    ("dependencies", ["x-1.0-py3-none-any.whl"], "path"),
    ("dependencies", ["numpy=2"], "not a requirement"),
    ("dependencies", ["numpy torch"], "not a requirement"),
    ("dependencies", [""], "not a requirement"),
    ("env", ["A=1"], "must be a dict"),
    ("env", {"A": 1}, "value of A must be a string"),
    ("env", {"A-B": "x"}, "not a name"),
    ("env", {"": "x"}, "not a name"),
    ("env", {1: "x"}, "not a name"),
    ("env", {"A": "x\0y"}, "NUL"),
    ("env", {"A": "x" * 2**17}, "bytes"),
    ("env", {"A": "\ud800"}, "Unicode"),
    ("env", {"FLASHQ_SECRET_KEY": "x"}, "FLASHQ_SECRET_KEY is reserved"),
    ("env", {"REDIS_URL": "x"}, "reserved"),
    ("env", {"RQ_KEY_PREFIX": "x"}, "reserved"),
    ("env", {"CUDA_VISIBLE_DEVICES": "0"}, "set by the worker"),
    ("env", {"PYTHONPATH": "/x"}, "set by the worker"),
    ("gpu_count", 0, "at least 1"),
    ("gpu_count", 1.0, "whole number"),
    ("min_cuda_version", "12", "a version such as '12.4'"),
    ("min_cuda_version", "12.4.1", "a version such as '12.4'"),
    ("min_cuda_version", 12.4, "must be a string"),
    ("execution_timeout_ms", -1, "at least 0 milliseconds"),
    ("execution_timeout_ms", 1.5, "whole number of milliseconds"),
    ("execution_timeout_ms", 10**12, "at most 2592000000 milliseconds"),
    ("accelerate_downloads", 1, "True or False"),
    ("flashboot", "no", "True or False"),
    ("scaler_type", "QUEUE", "must be 'QUEUE_DELAY' or 'REQUEST_COUNT'"),
    ("scaler_type", 4, "must be 'QUEUE_DELAY' or 'REQUEST_COUNT'"),
    ("scaler_value", 0, "more than 0"),
    ("scaler_value", 5, "means nothing without scaler_type"),
    ("python_version", OTHER_PYTHON, f"runs Python {PYTHON} and the endpoint asks for {OTHER_PYTHON}"),
    ("python_version", "3", "minor version"),
    ("python_version", f"{PYTHON}.1", "minor version"),
    ("python_version", 3.11, "must be a string"),
    ("max_concurrency", 0, "at least 1"),
    ("max_concurrency", None, "whole number"),
    ("retries", -1, "at least 0"),
    ("retries", True, "number of retries"),
    ("retries", "3", "number of retries"),
    ("retries", {"attempts": 3}, "has no field 'attempts'"),
    ("retries", {"max": 3, "backoff": 0}, r"Retries\(backoff=0\): must be at least 1"),
    ("batch", 8, r"a pair \(max_size, wait_ms\)"),
    ("batch", (1, 10), "at least 2 items"),
    ("batch", (8, -1), "at least 0 milliseconds"),
    ("priority", 10, "at most 9"),
    ("priority", 0.5, "whole number"),
    ("result_ttl", 0, "at least 1 seconds"),
    ("ttl", 0, "more than 0 seconds"),
    ("ttl", None, "must be a number of seconds"),
    ("delivery", "at_most_one", "did you mean 'at_most_once'"),
    ("delivery", None, "must be 'at_least_once' or 'at_most_once'"),
    ("max_deliveries", 0, "at least 1 deliveries"),
    ("max_deliveries", 101, "at most 100"),
    ("max_queued", 0, "at least 1 jobs"),
    ("buffer", -1, "at least 0"),
    ("buffer", 1.5, "must be"),
    ("startup_timeout", 0, "more than 0"),
    ("startup_timeout", None, "a number"),
    ("recycle_jobs", 0, "at least 1 jobs"),
    ("recycle_jobs", 1.5, "whole number"),
    ("recycle_gib", 0, "more than 0"),
    ("id", "no name", "letters, digits"),
    ("recycle_gib", float("nan"), "number"),
    ("max_queued", 1.5, "whole number"),
]


@pytest.mark.parametrize(("parameter", "given", "allowed"), WRONG)
def test_a_wrong_value_is_refused_with_the_parameters_name_and_what_is_allowed(
    parameter: str, given: object, allowed: str
) -> None:
    with pytest.raises(SpecError, match=allowed) as caught:
        EndpointSpec(**{parameter: given})
    assert caught.value.parameter == parameter
    assert str(caught.value).startswith(f"Endpoint({parameter}")
    assert isinstance(caught.value, ConfigurationError | ValueError)


UNSUPPORTED: list[tuple[str, object]] = [
    ("accelerate_downloads", False),
    ("flashboot", False),
    ("template", object()),
    ("cron", "0 0 * * *"),
    ("depends_on", "other"),
]


@pytest.mark.parametrize(("parameter", "given"), UNSUPPORTED)
def test_what_cannot_be_honoured_yet_is_refused_by_name_with_the_reason(
    parameter: str, given: object
) -> None:
    with pytest.raises(NotSupportedError, match=rf"Endpoint\({parameter}") as caught:
        EndpointSpec(**{parameter: given})
    assert len(str(caught.value).partition("): ")[2]) > 20


def test_every_parameter_is_wrong_in_some_test_here() -> None:
    tried = {parameter for parameter, *_ in WRONG} | {parameter for parameter, _ in UNSUPPORTED}
    assert tried >= set(EndpointSpec.model_fields)


def test_an_unknown_parameter_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(SpecError, match="did you mean 'idle_timeout'") as caught:
        EndpointSpec(idle_timout=3)  # type: ignore[call-arg]
    assert caught.value.parameter == "idle_timout"


def test_all_that_is_wrong_is_said_at_once_a_line_each() -> None:
    with pytest.raises(SpecError) as caught:
        EndpointSpec(idle_timeout=-1, workers=(3, 1), gpu="any", cpu="any", image="-x")
    lines = str(caught.value).splitlines()
    assert [line.partition("(")[2].partition("=")[0].partition(")")[0] for line in lines] == [
        "workers",
        "idle_timeout",
        "image",
        "gpu",
    ]
    assert "Endpoint(idle_timeout=-1): must be at least 0 seconds" in lines
    assert not isinstance(caught.value, NotSupportedError)


def test_only_unsupported_parameters_make_a_not_supported_error() -> None:
    with pytest.raises(NotSupportedError) as caught:
        EndpointSpec(flashboot=False, template="y")
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize("gpu", ["any", GpuGroup.ANY, "H200"])
def test_gpu_and_cpu_exclude_each_other(gpu: object) -> None:
    with pytest.raises(SpecError, match="exclude each other"):
        EndpointSpec(gpu=gpu, cpu="cpu5c-1-2")


def test_a_cpu_endpoint_has_no_gpu_and_none_to_count() -> None:
    assert EndpointSpec(cpu="any").gpu is None
    with pytest.raises(SpecError, match="no GPUs to count"):
        EndpointSpec(cpu="any", gpu_count=2)
    with pytest.raises(SpecError, match="runs without CUDA"):
        EndpointSpec(cpu="any", min_cuda_version="12.4")


def test_scaler_value_goes_with_a_scaler_type() -> None:
    assert EndpointSpec(scaler_type="REQUEST_COUNT", scaler_value=7).scaler_value == 7


def test_no_value_of_env_is_ever_shown() -> None:
    spec = EndpointSpec(name="x", env={"TOKEN": "s3cret"})
    assert "s3cret" not in repr(spec) + str(spec) + canonical_json(public(spec))
    assert public(spec)["env"] == {"TOKEN": "***"}
    for wrong in (
        {"TOKEN": "s3cret", "A-B": "s3cret"},
        {"TOKEN": "s3cret", "B": 1},
        "s3cret",
        {"T": "s3cret\0"},
    ):
        with pytest.raises(SpecError) as caught:
            EndpointSpec(env=wrong)
        assert "s3cret" not in str(caught.value)


def test_a_spec_keeps_nothing_of_the_callers_that_may_change() -> None:
    env, dependencies = {"A": "1"}, ["numpy"]
    spec = EndpointSpec(env=env, dependencies=dependencies)
    env["A"] = "2"
    dependencies.append("torch")
    assert (spec.env, spec.dependencies) == ({"A": "1"}, ("numpy",))


def test_a_spec_is_frozen_and_survives_pickling() -> None:
    spec = EndpointSpec(name="x", retries=2, env={"A": "1"})
    with pytest.raises(ValueError, match="frozen"):
        spec.name = "y"  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(spec)) == spec


def test_a_name_is_taken_from_the_function_where_none_was_given() -> None:
    assert EndpointSpec().named("embed").name == "embed"
    assert EndpointSpec(name="x").named("embed").name == "x"
    with pytest.raises(SpecError, match=r"Endpoint\(name='<lambda>'\).*name of its own"):
        EndpointSpec().named("<lambda>")


# -- digests and groups ------------------------------------------------------------------------------

NEW_ENVIRONMENT: list[dict[str, Any]] = [{"dependencies": ["numpy"]}, {"dependencies": ["numpy>=2"]}]
NEW_RESOURCES: list[dict[str, Any]] = [
    {"gpu": "H200"},
    {"cpu": "any"},
    {"cpu": "cpu5c-1-2"},
    {"gpu_count": 2},
    {"min_cuda_version": "12.4"},
    {"gpu": ["H200", "any"]},
    {"max_concurrency": 2},
    {"batch": (4, 10)},
    {"system_dependencies": ["ffmpeg"]},
    {"volume": "/mnt/models"},
    {"image": "python:3.11-slim"},
    {"hosts": "zone=eu"},
    {"datacenter": "EU-RO-1"},
]
NOTHING_REPLACED: list[dict[str, Any]] = [
    {"workers": (1, 4)},
    {"idle_timeout": 5},
    {"buffer": 1},
    {"scaler_type": "QUEUE_DELAY"},
    {"scaler_type": "QUEUE_DELAY", "scaler_value": 9},
    {"execution_timeout_ms": 10},
    {"retries": 3},
    {"priority": 1},
    {"result_ttl": 5},
    {"ttl": 5},
    {"delivery": "at_most_once"},
    {"max_deliveries": 5},
    {"max_queued": 100},
    {"env": {"A": "1"}},
    {"name": "other"},
    {"gpu": GpuGroup.ANY},
    {"gpu": [GpuType.ANY]},
    {"dependencies": []},
    {"python_version": PYTHON},
]


@pytest.mark.parametrize("change", NEW_ENVIRONMENT)
def test_another_environment_changes_both_digests(change: dict[str, Any]) -> None:
    assert environment_digest(EndpointSpec(**change)) != environment_digest(EndpointSpec())
    assert resource_digest(EndpointSpec(**change)) != resource_digest(EndpointSpec())


@pytest.mark.parametrize("change", NEW_RESOURCES)
def test_other_resources_change_only_their_digest(change: dict[str, Any]) -> None:
    assert environment_digest(EndpointSpec(**change)) == environment_digest(EndpointSpec())
    assert resource_digest(EndpointSpec(**change)) != resource_digest(EndpointSpec())


@pytest.mark.parametrize("change", NOTHING_REPLACED)
def test_all_else_changes_no_digest(change: dict[str, Any]) -> None:
    assert environment_digest(EndpointSpec(**change)) == environment_digest(EndpointSpec())
    assert resource_digest(EndpointSpec(**change)) == resource_digest(EndpointSpec())


def test_digests_differ_from_each_other() -> None:
    specs = [EndpointSpec(**change) for change in [{}, *NEW_ENVIRONMENT, *NEW_RESOURCES]]
    assert len({resource_digest(spec) for spec in specs}) == len(specs)
    assert environment_digest(specs[0]) != resource_digest(specs[0])


REQUIREMENTS = ["numpy>=2", "torch<3", "a-b[x]", "rich"]


@given(st.permutations(REQUIREMENTS), st.lists(st.sampled_from(REQUIREMENTS)))
def test_the_order_and_repeats_of_dependencies_do_not_matter(order: list[str], repeats: list[str]) -> None:
    loud = [item.upper() for item in repeats]
    assert environment_digest(EndpointSpec(dependencies=order + loud)) == environment_digest(
        EndpointSpec(dependencies=REQUIREMENTS)
    )


def test_digests_are_these() -> None:
    # Workers of running clusters are known by them: a change here replaces every worker at an upgrade.
    spec = EndpointSpec(dependencies=["numpy>=2"], cpu="cpu5c-4-8")
    at_3_11 = spec.model_copy(update={"python_version": "3.11"})
    assert environment_digest(at_3_11) == "b8053210363ef4ef43f1b5fb59b9f24fc4547225bab769e9fc8bc386b340fd79"
    assert resource_digest(at_3_11) == "d939c0369a1db94f96374f8724fe06273d39e31d77961054efdb65aa6e290b1e"


def test_the_record_holds_every_group_as_json() -> None:
    spec = EndpointSpec(
        name="embed",
        gpu="H200",
        gpu_count=2,
        workers=(1, 3),
        retries=Retries(2, on=(OSError,)),
        dependencies=["torch"],
    )
    record = json.loads(canonical_json(public(spec)))
    assert record == {
        "name": "embed",
        "environment": {"python": PYTHON, "requirements": ["torch"]},
        "resources": {"gpu": {"products": ["NVIDIA H200"], "count": 2}, "concurrency": 1},
        "scaling": {
            "workers_min": 1,
            "workers_max": 3,
            "idle_timeout": 60,
            "scaler_type": None,
            "scaler_value": 4,
        },
        "call_defaults": {
            "execution_timeout_ms": 0,
            "retries": {
                "max": 2,
                "delay_s": 1,
                "backoff": 2,
                "max_delay_s": 600,
                "on": ["OSError"],
            },
            "priority": 0,
            "result_ttl": 1800,
            "ttl": 86400,
            "delivery": "at_least_once",
            "max_deliveries": 3,
            "max_queued": None,
        },
        "env": {},
    }
    assert Retries(**record["call_defaults"]["retries"]) == spec.retries


def test_equal_settings_written_differently_are_equal_json() -> None:
    assert canonical_json(scaling(EndpointSpec(workers=3, idle_timeout=60.0))) == canonical_json(
        scaling(EndpointSpec(workers=(0, 3), idle_timeout=60))
    )
    assert canonical_json(call_defaults(EndpointSpec(ttl=5.0))) == canonical_json(
        call_defaults(EndpointSpec(ttl=5))
    )


# -- call options ------------------------------------------------------------------------------------


def test_call_options_say_nothing_by_default() -> None:
    assert CallOptions() == CallOptions(key=None, priority=None, delay_s=None, ttl_s=None, timeout_s=None)


def test_call_options_take_those_of_the_spec_page() -> None:
    options = CallOptions(key="doc-17", priority=5, delay_s=30, ttl_s=3600, timeout_s=60)
    assert (options.key, options.priority, options.delay_s, options.ttl_s, options.timeout_s) == (
        *("doc-17", 5, 30, 3600, 60),
    )


@pytest.mark.parametrize(
    ("option", "given", "allowed"),
    [
        ("key", "", "must not be empty"),
        ("key", "x" * 257, "at most 256"),
        ("key", 17, "must be a string"),
        ("priority", 10, "at most 9"),
        ("priority", "high", "whole number"),
        ("delay_s", -1, "at least 0 seconds"),
        ("delay_s", "30", "number of seconds"),
        ("ttl_s", 0, "more than 0 seconds"),
        ("timeout_s", -0.5, "at least 0 seconds"),
        ("timeout_s", float("inf"), "finite"),
        ("prio", 1, "did you mean 'priority'"),
    ],
)
def test_a_wrong_call_option_is_refused_by_name(option: str, given: object, allowed: str) -> None:
    with pytest.raises(SpecError, match=allowed) as caught:
        CallOptions(**{option: given})
    assert str(caught.value).startswith(f"with_options({option}")


def test_a_ttl_may_be_shorter_than_the_delay_that_it_counts_from() -> None:
    terms = terms_of(EndpointSpec(), CallOptions(delay_s=30, ttl_s=10))

    assert (terms.delay_ms, terms.ttl_ms, terms.own_ttl) == (30_000, 10_000, True)


def test_options_are_merged_and_checked_together() -> None:
    options = CallOptions(key="a", delay_s=30).merged(priority=2, key="b")
    assert options == CallOptions(key="b", delay_s=30, priority=2)
    assert options.merged(delay_s=None).delay_s is None
    with pytest.raises(SpecError, match="second run"):
        options.merged(retries=3).merged(delivery="at_most_once")


# -- the terms of a call -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "parameter"),
    [
        ({"retries": 1}, "retries"),
        ({"retries": {"max": 1}}, "retries"),
        ({"retries": Retries(2)}, "retries"),
        ({"max_deliveries": 2}, "max_deliveries"),
    ],
)
def test_at_most_once_excludes_what_would_run_a_job_again(given: dict[str, Any], parameter: str) -> None:
    with pytest.raises(SpecError) as caught:
        EndpointSpec(delivery="at_most_once", **given)
    assert caught.value.parameter == parameter
    EndpointSpec(delivery="at_most_once", retries=0, max_deliveries=1)


def test_an_option_that_does_not_fit_its_endpoint_is_refused_with_what_would() -> None:
    spec = EndpointSpec(retries=2)
    with pytest.raises(SpecError, match=r"^with_options\(delivery\): .*retries=0 with it"):
        terms_of(spec, CallOptions(delivery="at_most_once"))
    with pytest.raises(SpecError, match=r"^with_options\(retries\): "):
        terms_of(EndpointSpec(delivery="at_most_once"), CallOptions(retries=1))

    terms = terms_of(spec, CallOptions(delivery="at_most_once", retries=0))
    assert (terms.delivery, terms.retry) == ("at_most_once", "")


def test_terms_are_the_endpoints_unless_the_call_says_otherwise() -> None:
    spec = EndpointSpec(
        priority=2,
        execution_timeout_ms=500,
        ttl=60,
        result_ttl=90,
        retries=1,
        max_deliveries=5,
        max_queued=7,
    )
    plain = terms_of(spec, None)
    assert (plain.priority, plain.timeout_ms, plain.ttl_ms, plain.own_ttl) == (2, 500, 60_000, False)
    assert (plain.keep_s, plain.max_deliveries, plain.max_queued, plain.key) == (90, 5, 7, "")
    assert Retries(**json.loads(plain.retry)) == Retries(1)

    own = terms_of(
        spec, CallOptions(priority=0, timeout_s=0, ttl_s=0.5, key="k", retries=Retries(2, delay_s=0))
    )
    assert (own.priority, own.timeout_ms, own.ttl_ms, own.own_ttl, own.key) == (0, 0, 500, True, "k")
    assert Retries(**json.loads(own.retry)) == Retries(2, delay_s=0)
    assert terms_of(EndpointSpec(), None).max_queued == 0
