"""Parameters of Flash programs: which are passed on, which are mapped and said once, which are refused by name."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from flashq import EndpointFunction
from flashq.compat import Choices, told, translate
from flashq.compat.choices import choose
from flashq.compat.names import (
    CpuInstanceType,
    CpuLiveLoadBalancer,
    CpuLiveServerless,
    CpuServerlessEndpoint,
    CudaVersion,
    DataCenter,
    Endpoint,
    GpuGroup,
    GpuType,
    KeyValuePair,
    LiveServerless,
    LoadBalancerSlsResource,
    NetworkVolume,
    PodTemplate,
    ServerlessEndpoint,
    ServerlessScalerType,
    ServerlessType,
    remote,
)
from flashq.errors import EndpointExists, NotSupportedError, SpecError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flashq.model.spec import EndpointSpec


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hosts of a broker, and nothing said or chosen."""
    monkeypatch.setenv("FLASHQ_REDIS_URL", "redis://localhost")
    yield
    choose(Choices())
    told.forget()
    translate.forget()


def spec_of(made: Any) -> EndpointSpec:
    @made  # type: ignore[untyped-decorator, unused-ignore]
    def flash_function(x: int) -> int:
        return x

    assert isinstance(flash_function, EndpointFunction)
    return flash_function.spec


# -- passed on ---------------------------------------------------------------------------------------


def test_plain_parameters_are_flashqs_own() -> None:
    spec = spec_of(
        Endpoint(
            "flash-plain",
            cpu=[CpuInstanceType.CPU5C_4_8, "cpu3c-1-2"],
            workers=(1, 3),
            idle_timeout=5,
            dependencies=["numpy"],
            env={"A": "1"},
            execution_timeout_ms=1000,
        )
    )

    assert (spec.name, spec.workers, spec.idle_timeout) == ("flash-plain", (1, 3), 5)
    assert spec.cpu is not None
    assert spec.cpu.instance == "cpu3c-1-2"
    assert (spec.dependencies, spec.env, spec.execution_timeout_ms) == (("numpy",), {"A": "1"}, 1000)


def test_defaults_are_flashs_and_the_scaling_rule_is_flashqs() -> None:
    spec = spec_of(Endpoint())

    assert (spec.name, spec.workers, spec.idle_timeout, spec.scaler_type) == (
        "flash_function",
        (0, 1),
        60,
        None,
    )
    assert spec.gpu is not None
    assert spec.gpu.any
    assert spec.min_cuda_version is None


@pytest.mark.parametrize(
    ("given", "kind", "value"),
    [
        ({"scaler_value": 9}, "QUEUE_DELAY", 9),
        ({"scaler_type": ServerlessScalerType.REQUEST_COUNT}, "REQUEST_COUNT", 4),
        ({"scaler_type": ServerlessScalerType.REQUEST_COUNT, "scaler_value": 2}, "REQUEST_COUNT", 2),
    ],
)
def test_a_scaling_rule_that_is_asked_for_is_used(given: dict[str, Any], kind: str, value: int) -> None:
    spec = spec_of(Endpoint(name="flash-scaled", **given))

    assert (spec.scaler_type, spec.scaler_value) == (kind, value)


def test_a_cuda_version_is_a_condition_only_where_it_is_given() -> None:
    assert spec_of(Endpoint(min_cuda_version=CudaVersion.V12_8)).min_cuda_version == "12.8"
    assert spec_of(Endpoint(cpu="cpu3c-1-2", min_cuda_version=CudaVersion.V12_8)).min_cuda_version is None


# -- mapped, and said once ---------------------------------------------------------------------------


def test_gpus_are_preferred_and_said_to_be_once(caplog: pytest.LogCaptureFixture) -> None:
    # Given two endpoints that name GPUs
    first = spec_of(Endpoint(name="flash-gpu-1", gpu=GpuType.NVIDIA_H200))
    spec_of(Endpoint(name="flash-gpu-2", gpu=[GpuGroup.ADA_24, GpuType.NVIDIA_L4]))

    # Expect any other GPU to do after those, and one line that says so
    assert first.gpu is not None
    assert (first.gpu.products, first.gpu.others) == (("NVIDIA H200",), True)
    assert [record.getMessage() for record in caplog.records] == [
        "flashq: GPUs that this program names, such as NVIDIA H200, are preferred; where none is free, a GPU of "
        "another model is used (--exact waits for one)"
    ]


@pytest.mark.parametrize("gpu", [GpuGroup.ANY, [GpuType.ANY], None])
def test_any_gpu_is_any_gpu(gpu: Any, caplog: pytest.LogCaptureFixture) -> None:
    spec = spec_of(Endpoint(name="flash-any", gpu=gpu))

    assert spec.gpu is not None
    assert spec.gpu.any
    assert not caplog.records


def test_sizes_of_cpu_workers_are_counted_where_there_are_hosts(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def size(instance: Any) -> str:
        cpu = spec_of(Endpoint(cpu=instance)).cpu
        assert cpu is not None
        return cpu.instance

    # Given the private broker, whose machine is all there is, expect its workers to share that, and one line
    monkeypatch.delenv("FLASHQ_REDIS_URL")
    assert [size(each) for each in ("cpu3g-2-8", ["cpu3g-4-16", "cpu5c-8-16"])] == ["any", "any"]
    assert len(caplog.messages) == 1
    assert "such as cpu3g-2-8, are not counted on this machine" in caplog.text
    with pytest.raises(ValueError, match="no such CPU instance type"):
        Endpoint(cpu="cpu9")

    # If names are exact, or there is a broker of many machines, expect what the program says
    choose(Choices(exact=True))
    assert size("cpu3g-4-16") == "cpu3g-4-16"
    choose(Choices())
    monkeypatch.setenv("FLASHQ_REDIS_URL", "redis://localhost")
    assert size("cpu3g-4-16") == "cpu3g-4-16"


def test_endpoints_with_gpus_have_the_packages_that_are_given_beside() -> None:
    choose(Choices(packages=("torch",)))

    assert spec_of(Endpoint(dependencies=["numpy"])).dependencies == ("numpy", "torch")
    assert spec_of(Endpoint(cpu="any", dependencies=["numpy"])).dependencies == ("numpy",)


def test_data_centres_are_left_out_and_said_to_be_once(caplog: pytest.LogCaptureFixture) -> None:
    assert spec_of(Endpoint(datacenter=[DataCenter.EU_RO_1, "US-KS-2"])).datacenter == ()
    assert spec_of(Endpoint(datacenter="US-KS-2")).datacenter == ()
    assert len(caplog.records) == 1
    assert "such as EU-RO-1" in caplog.text


def test_exact_names_are_conditions(caplog: pytest.LogCaptureFixture) -> None:
    # Given the choice to take names as they are
    choose(Choices(exact=True))

    # Expect conditions, and nothing to be said
    spec = spec_of(Endpoint(gpu=GpuType.NVIDIA_H200, datacenter=DataCenter.EU_RO_1))
    assert spec.gpu is not None
    assert not spec.gpu.others
    assert spec.datacenter == ("EU-RO-1",)
    assert not caplog.records


def test_a_network_volume_is_the_folder_that_programs_have_written_in_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    models = NetworkVolume(name="models", size=50, datacenter=DataCenter.EU_RO_1)
    elsewhere = NetworkVolume(name="models", size=50, datacenter=DataCenter.US_KS_2)

    # If one volume is given, or the same in two data centres, expect /runpod-volume
    assert spec_of(Endpoint(volume=models)).volume == "/runpod-volume"
    assert spec_of(Endpoint(volume=[models, elsewhere])).volume == "/runpod-volume"
    assert len(caplog.records) == 1

    # If another one is given as well, expect a refusal that names both and the way out
    with pytest.raises(NotSupportedError, match=r"'models' already.*--volume NAME=/folder"):
        Endpoint(volume=NetworkVolume(name="data"))

    # If that has a folder of its own, expect that
    choose(Choices(volumes={"data": "/mnt/data"}))
    assert spec_of(Endpoint(volume=NetworkVolume(name="data"))).volume == "/mnt/data"


@pytest.mark.parametrize(
    ("given", "made"), [("My model v1.2", "My-model-v1-2"), ("a--b", "a-b"), ("_x_", "x_")]
)
def test_names_that_queues_cannot_have_are_made_such(
    given: str, made: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert spec_of(Endpoint(name=given, cpu="cpu3c-1-2")).name == made
    assert f"the endpoint {given!r} is named {made!r} here" in caplog.text


def test_functions_of_one_endpoint_are_targets_of_one() -> None:
    # Given one object of parameters, and two functions that it decorates
    shared = Endpoint(name="flash-shared", cpu="cpu3c-1-2")

    @shared
    def one() -> int:
        return 1

    assert one.target == ""

    @shared
    async def two() -> int:
        return 2

    # Expect one endpoint whose code is both, each a target by its name; and one that is defined anew to replace itself
    assert (one.name, two.name, one.target, two.target) == ("flash-shared", "flash-shared", "one", "two")
    assert one.code is two.code
    assert one.code.__flashq_targets__ == {"one": "sync", "two": "async"}
    again = shared(one.__wrapped__)
    assert (again.target, again.code is two.code) == ("one", True)


def test_functions_of_one_endpoint_have_names_and_terms_of_their_own() -> None:
    shared = Endpoint(name="flash-shared-names", cpu="cpu3c-1-2", max_concurrency=2)

    async def run() -> int:
        return 1

    def other() -> int:
        return 2

    shared(run)
    with pytest.raises(SpecError, match="max_concurrency"):
        shared(other)
    other.__qualname__, other.__name__ = "another.run", "run"
    with pytest.raises(SpecError, match="max_concurrency"):
        shared(other)

    async def twin() -> int:
        return 3

    twin.__name__ = "run"
    with pytest.raises(EndpointExists, match="by that name already"):
        shared(twin)


def test_routes_are_decorators_and_plain_functions_stay_what_they_are() -> None:
    # Given an endpoint with routes
    api = Endpoint(name="flash-routes", cpu="cpu3c-1-2")

    @api.get("/health")  # type: ignore[untyped-decorator, unused-ignore]
    def health() -> str:
        return "ok"

    @api.post("/double")  # type: ignore[untyped-decorator, unused-ignore]
    async def double(x: int) -> int:
        return 2 * x

    # Expect what is awaited to be the endpoint's, and what is called to be called
    assert health() == "ok"
    assert isinstance(double, EndpointFunction)
    assert (double.name, double.target) == ("flash-routes", "POST /double")
    assert api.is_load_balanced
    assert api.scaler_type is ServerlessScalerType.REQUEST_COUNT

    # If it is used in the other way as well, expect a refusal
    with pytest.raises(ValueError, match="decorates nothing else"):
        api(double.__wrapped__)
    with pytest.raises(TypeError, match="a route is a path alone"):
        api.post("/x", {"a": 1})
    queued = Endpoint(name="flash-queued", cpu="cpu3c-1-2")
    queued(double.__wrapped__)
    with pytest.raises(ValueError, match="has no routes"):
        queued.get("/x")


def test_an_image_makes_a_client() -> None:
    server = Endpoint(name="flash-image", image="vllm/vllm-openai:latest", gpu=GpuGroup.ANY)

    assert server.is_client
    with pytest.raises(ValueError, match="decorate nothing"):
        server(print)
    with pytest.raises(NotSupportedError, match="takes no jobs"):
        asyncio.run(server.run({"prompt": "a"}))
    with pytest.raises(NotSupportedError, match="has no body"):
        server.get("/v1/models", {"a": 1})


def test_a_template_gives_its_variables_and_no_disk(caplog: pytest.LogCaptureFixture) -> None:
    template = PodTemplate(env=[KeyValuePair("A", "1"), {"key": "B", "value": "2"}], containerDiskInGb=100)

    assert spec_of(Endpoint(template=template, env={"B": "3"})).env == {"A": "1", "B": "3"}
    assert "containerDiskInGb reserves nothing" in caplog.text


# -- refused by name ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "parameter"),
    [
        ({"flashboot": False}, "flashboot"),
        ({"accelerate_downloads": False}, "accelerate_downloads"),
        ({"template": PodTemplate(dockerArgs="--verbose")}, "template"),
        ({"template": PodTemplate(imageName="my/image")}, "template"),
        ({"volume": [NetworkVolume(name="a"), NetworkVolume(name="b")]}, "volume"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(given: dict[str, Any], parameter: str) -> None:
    with pytest.raises(NotSupportedError) as refused:
        Endpoint(**given)

    assert refused.value.parameter == parameter


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"gpu": GpuGroup.ANY, "cpu": "cpu3c-1-2"}, ValueError),
        ({"id": "x", "image": "y"}, ValueError),
        ({"image": "y"}, ValueError),
        ({"template": {"env": {}}}, SpecError),
        ({"volume": 5}, SpecError),
        ({"workers": (3, 1)}, SpecError),
        ({"gpus": 1}, TypeError),
    ],
)
def test_what_is_wrong_is_said_where_it_is_written(given: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Endpoint(**given)


@pytest.mark.parametrize(
    "given", [{}, {"name": " "}, {"name": "x", "size": 1}, {"name": "x", "datacenter": "Mars"}]
)
def test_a_network_volume_is_checked(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"NetworkVolume|DataCenter"):
        NetworkVolume(**given)


# -- the older way -----------------------------------------------------------------------------------


def test_resource_classes_are_parameters_in_the_clouds_spelling() -> None:
    # Given a function decorated the older way
    config = LiveServerless(
        name="flash-old",
        gpus=[GpuGroup.AMPERE_80],
        gpuCount=2,
        workersMin=1,
        workersMax=3,
        idleTimeout=7,
        env={"A": "1"},
        networkVolume=NetworkVolume(name="models"),
        type=ServerlessType.QB,
    )
    spec = spec_of(remote(config, dependencies=["numpy"], system_dependencies=["ffmpeg"]))

    # Expect what Endpoint makes of the same
    assert spec.name == "flash-old"
    assert spec.gpu is not None
    assert spec.gpu.products == GpuGroup.AMPERE_80.products
    assert (spec.gpu_count, spec.workers, spec.idle_timeout, spec.env) == (2, (1, 3), 7, {"A": "1"})
    assert (spec.dependencies, spec.system_dependencies) == (("numpy",), ("ffmpeg",))
    assert spec.volume == "/runpod-volume"


def test_a_cpu_resource_has_flashs_default_size_and_no_gpu() -> None:
    spec = spec_of(remote(CpuLiveServerless(name="flash-old-cpu", minCudaVersion="12.8")))

    assert spec.gpu is None
    assert spec.cpu is not None
    assert spec.cpu.instance == "cpu3g-2-8"


def test_functions_of_one_resource_share_its_workers() -> None:
    config = LiveServerless(name="flash-old-shared")

    def one() -> int:
        return 1

    def two() -> int:
        return 2

    first, second = (remote(config, dependencies=["numpy"])(each) for each in (one, two))
    assert (first.name, second.name, second.target) == ("flash-old-shared", "flash-old-shared", "two")
    with pytest.raises(NotSupportedError, match="share its workers, and so their packages"):
        remote(config, dependencies=["torch"])(one)


def test_routes_of_the_older_way() -> None:
    config = CpuLiveLoadBalancer(name="flash-old-routes")

    @remote(config, method="POST", path="/add")
    async def add(a: int, b: int) -> int:
        return a + b

    assert add.target == "POST /add"


def test_a_local_function_stays_as_it_is() -> None:
    def plain() -> int:
        return 1

    assert remote(LiveServerless(name="flash-local"), local=True)(plain) is plain


@pytest.mark.parametrize(
    ("make", "parameter"),
    [
        (lambda: LiveServerless(name="x", templateId="abc"), "templateId"),
        (lambda: LiveServerless(name="x", workersPFBTarget=1), "workersPFBTarget"),
        (lambda: LiveServerless(name="x", worker_max=1), "worker_max"),
        (lambda: LiveServerless(gpus=[]), "name"),
        (lambda: LiveServerless(name="x", type=ServerlessType.LB), "type"),
        (lambda: ServerlessEndpoint(name="x", templateId=""), "imageName"),
        (lambda: CpuServerlessEndpoint(name="x"), "imageName"),
        (lambda: LoadBalancerSlsResource(name="x"), "imageName"),
        (lambda: remote(LiveServerless(name="x"), method="GET", path="/x")(print), "path"),
        (lambda: remote(CpuLiveLoadBalancer(name="x"))(print), "path"),
        (lambda: remote(CpuLiveLoadBalancer(name="x"), method="SEND", path="/x")(print), "route"),
        (lambda: remote(5)(print), "resource_config"),  # type: ignore[arg-type]
        (lambda: remote(LiveServerless(name="x"), accelerate_downloads=False), "accelerate_downloads"),
    ],
)
def test_resource_classes_refuse_by_name(make: Any, parameter: str) -> None:
    with pytest.raises(SpecError) as refused:
        make()

    assert refused.value.parameter == parameter
